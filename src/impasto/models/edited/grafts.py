"""The edit "graft": another operator in the place of blocks' self-attention or MLP.

    {"edit": "graft", "place": "attention", "operator": "hyena-x", "options": {}, "blocks": [1, 3]}

    place        of                                         becomes
    attention    PixArt, DiT, SANA: attn1                   the operator; cross-attention stays
                 SD3: attn, among images (`adapters`)       the operator; text goes on as before
    attention2   SD3.5's dual-attention layers: attn2       the operator
    mlp          the image's ff; of FLUX in double blocks   the operator

Norms, modulations and gates stay. FLUX' attention is refused: its positions are in it alone. What
is grafted already or removed is refused, as is an edit that would change nothing. The same kind of
operator with fresh weights is the control (`attention`, `mlp`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from impasto.models.edited.adapters import (
    JointMixer,
    JointWindow,
    SequenceMixer,
    SpatialMixer,
)
from impasto.models.edited.hosts import EDITED, Host, host_of
from impasto.models.edited.operators import PLACES, build_operator
from impasto.models.edited.record import edit
from impasto.zoo.registry import nearest

__all__ = ["GRAFT_PLACES", "as_host", "checked_graft", "graft", "inherit_", "is_edited",
           "operator_path", "tokens_of"]  # fmt: skip

GRAFT_PLACES = ("attention", "attention2", "mlp")
KEYS = {"edit", "place", "operator", "options", "blocks"}
MLP_NAMES = {"net.0.proj": "fc1", "net.2": "fc2"}


def tokens_of(host: Host) -> int | None:
    """Image tokens N of the size that a host is made for; None where its config has none."""
    size, patch = (host.model.config.get(key) for key in ("sample_size", "patch_size"))
    return None if size is None or patch is None else (int(size) // int(patch)) ** 2


def operator_path(host: Host, i: int, place: str) -> str:
    """Dotted path of what a graft replaces in block i. Raises ValueError where there is none."""
    if place not in GRAFT_PLACES:
        raise ValueError(f"unknown place {place!r}: {nearest(place, list(GRAFT_PLACES))}")
    if place == "attention2":
        path = f"{host.path(i)}.attn2"
        if host.kind(i) != "joint" or getattr(host.block(i), "attn2", None) is None:
            raise ValueError(f"block {i} has no second attention of the image alone; SD3.5's "
                             f"dual-attention layers have")  # fmt: skip
        return path
    if place == "attention" and host.kind(i) in ("double", "single"):
        raise ValueError("FLUX' attentions cannot be grafted: positions are rotations in them "
                         "and nowhere else, and no operator has any; allowed: place 'mlp' in "
                         "double blocks")  # fmt: skip
    return host.operator(i, place)


def checked_graft(edit: Mapping[str, Any]) -> tuple[str, str, dict[str, Any], list[int]]:
    """Place, operator, options and blocks of an edit. Raises ValueError for what is missing or
    does not belong together."""
    if set(edit) - {"options"} != KEYS - {"options"}:
        raise ValueError(f"an edit 'graft' has place, operator, blocks and perhaps options; "
                         f"given: {', '.join(sorted(edit))}")  # fmt: skip
    place, operator, blocks = edit["place"], edit["operator"], edit["blocks"]
    if place not in GRAFT_PLACES:
        raise ValueError(f"unknown place {place!r}: {nearest(str(place), list(GRAFT_PLACES))}")
    allowed = PLACES[place.removesuffix("2")]
    if operator not in allowed:
        raise ValueError(f"operator {operator!r} does not go in the place of {place}: "
                         f"{nearest(str(operator), list(allowed))}")  # fmt: skip
    if not isinstance(blocks, Sequence) or not blocks or len(set(blocks)) < len(blocks):
        raise ValueError(f"blocks must be a list of different numbers, given {blocks!r}")
    return place, operator, dict(edit.get("options") or {}), list(blocks)


@edit("graft")
def graft(model: nn.Module, edit: Mapping[str, Any]) -> None:
    """Replace operators by fresh ones, in place; all of them or, with ValueError, none.

    model: any host, its weights on the meta device or real. Weights are drawn by torch's generator
    of the processor, whatever the device.
    """
    place, operator, options, blocks = checked_graft(edit)
    host, new = host_of(model), dict[str, nn.Module]()
    for i in blocks:
        path = operator_path(host, i, place)
        for old in (host.block(i), getattr(host.block(i), path.rpartition(".")[2], None)):
            if is_edited(old):
                raise ValueError(f"{path} is in a {type(old).__name__} already: graft each place "
                                 f"once, and before blocks are removed or paired")  # fmt: skip
        new[path] = _replacement(host, place, operator, options, old)
    for path, module in new.items():
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module.train(model.training))


def is_edited(module: Any) -> bool:
    """Whether a module stands in the place of a host's own."""
    ours = type(module).__module__.startswith(EDITED)
    return ours or isinstance(module, nn.Identity) or hasattr(module, "grafted")


def _replacement(
    host: Host, place: str, name: str, options: Mapping[str, Any], old: Any
) -> nn.Module:
    tokens = tokens_of(host)
    joint = place == "attention" and getattr(old, "add_k_proj", None) is not None
    where = next(old.parameters())
    if not where.is_floating_point():
        raise ValueError(f"its weights are {where.dtype}: graft before a model is quantised")
    drawn_on = "meta" if where.device.type == "meta" else "cpu"
    with torch.device(drawn_on):
        operator = build_operator(name, width=host.width, heads=host.heads, tokens=tokens,
                                  options=as_host(name, options, old))  # fmt: skip
        if joint and name in ("attention", "sliding-window"):
            new = _fresh(old, operator)
        elif joint:
            new = JointMixer(old, operator, tokens or 1)
        elif place != "mlp":
            new = SequenceMixer(operator)
        else:
            new = SpatialMixer(operator) if host.family.name == "SANA" else operator
    return new.to(device=where.device, dtype=where.dtype)


def as_host(name: str, options: Mapping[str, Any], old: Any) -> dict[str, Any]:
    """Softmax attention has the host's norms and biases, where options do not say."""
    if name not in ("attention", "sliding-window"):
        return dict(options)
    own = {"bias": old.to_q.bias is not None, "qk_norm": old.norm_q is not None}
    return own | dict(options)


def _fresh(joint: Any, operator: Any) -> nn.Module:
    """A joint attention as the host's with fresh weights, and with the operator's window."""
    new = copy.deepcopy(joint)
    for module in new.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif (weight := getattr(module, "weight", None)) is not None:
            nn.init.ones_(weight)
    new.grafted = True
    if operator.window is not None:
        new.set_processor(JointWindow(operator.window))
    return new


def inherit_(new: Any, old: Any) -> bool:
    """Give a grafted operator the weights of what it replaced, where it is of the same kind
    (`attention`, a `sliding-window` of it, an `mlp` of the same width); returns whether it is.

    Everything is copied or nothing.
    """
    target = getattr(new, "operator", new)
    if hasattr(old, "net") and getattr(old.net[0], "approximate", None) != "tanh":
        return False
    state = {_ours(key): tensor for key, tensor in old.state_dict().items()}
    wanted = target.state_dict()
    if {k: t.shape for k, t in state.items()} != {k: t.shape for k, t in wanted.items()}:
        return False
    target.load_state_dict(state)
    return True


def _ours(key: str) -> str:
    name, _, tail = key.rpartition(".")
    return f"{MLP_NAMES.get(name, name)}.{tail}"
