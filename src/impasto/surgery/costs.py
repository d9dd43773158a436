"""What a graft changes in the count of operations and of parameters.

A pass over N tokens of D features, a product and its sum being 2 operations, H heads:

    operator                  op: tokens among each other         ft: projections and featurisers
    attention                 4 N N D + 2 H N N                   8 N D^2 + 8 N D
    sliding-window            4 N K D + 2 H N K, K = 2w + 1       the same
    hyena-x                   2 N D                               the same + 6 T N D, T taps
    hyena-se                  2 N D + 2 T N D                     the same + 6 T N D
    hyena-y                   2 N D + 2 T N D                     the same
    mamba-2 (I inside,        2 N I S                             2 N D (2 I + 2 S + H') + 2 N I D
      S states, H' heads)                                           + 2 N H'
    mlp (ratio r)             4 r N D^2                           0
    mlp-hyena-x               8 r N D^2 + 2 r N D                 0

Changes are shares of what all of the host's operators of that place cost. These reproduce table 1
of arXiv 2506.05340 for DiT-XL/2, N = 256, to every printed digit, with one exception: for Mamba-2
its "change of ft" is the new cost over the old, 155.77 %, where by all its other lines it would be
+55.77 %, which is what is given here.

The table leaves out what is small or between the lines: biases of MLPs and filters, MLP-Hyena-X's
filters, Mamba-2's filter and the update of its state. `other` counts these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from impasto.models.edited.grafts import (
    as_host,
    checked_graft,
    is_edited,
    operator_path,
    tokens_of,
)
from impasto.models.edited.hosts import Host, host_of, parameters
from impasto.models.edited.operators import build_operator

__all__ = ["Cost", "Delta", "graft_delta", "operator_cost"]


@dataclass(frozen=True)
class Cost:
    """Operations of a pass over one picture, and parameters."""

    op: float
    ft: float
    other: float
    parameters: int

    @property
    def flops(self) -> float:
        return self.op + self.ft + self.other

    def __add__(self, more: Cost) -> Cost:
        return Cost(self.op + more.op, self.ft + more.ft, self.other + more.other,
                    self.parameters + more.parameters)  # fmt: skip


@dataclass(frozen=True)
class Delta:
    """Changes in per cent, negative where it is less. ft: None where the host's MLPs have none."""

    op: float
    ft: float | None
    parameters: float
    flops: float

    def to_dict(self) -> dict[str, float | None]:
        return {"op": self.op, "ft": self.ft, "parameters": self.parameters, "flops": self.flops}


def _attention(n: float, d: int, heads: int, keys: float) -> tuple[float, float, float]:
    return 4 * n * keys * d + 2 * heads * n * keys, 8 * n * d**2 + 8 * n * d, 0.0


def _hyena(operator: Any, n: float, d: int) -> tuple[float, float, float]:
    short, inner = (0 if conv is None else conv.kernel_size[0]
                    for conv in (operator.short_filter, operator.inner_filter))  # fmt: skip
    biases = 2 * n * d * (3 * bool(short) + bool(inner))
    return 2 * n * d * (1 + inner), 8 * n * d**2 + 8 * n * d + 6 * short * n * d, biases


def _mamba(operator: Any, n: float, d: int) -> tuple[float, float, float]:
    inside, states, heads = operator.inside, operator.state, len(operator.D)
    ft = 2 * n * d * (2 * inside + 2 * states + heads) + 2 * n * inside * d + 2 * n * heads
    taps = operator.conv1d.kernel_size[0]
    other = 3 * n * inside * states + 2 * taps * n * (inside + 2 * states)
    return 2 * n * inside * states, ft, other


def operator_cost(
    name: str, *, width: int, heads: int, tokens: int, options: Mapping[str, Any] | None = None
) -> Cost:
    """Of one of `OPERATORS` at N = tokens. Raises ValueError as `build_operator` does."""
    n, d = tokens, width
    with torch.device("meta"):
        operator: Any = build_operator(name, width=d, heads=heads, tokens=n, options=options)
    if name in ("attention", "sliding-window"):
        keys = n if operator.window is None else min(2 * operator.window + 1, n)
        parts = _attention(n, d, heads, keys)
    elif name == "mamba-2":
        parts = _mamba(operator, n, d)
    elif name == "mlp":
        inside = operator.fc1.out_features
        parts = 4 * n * d * inside, 0, 2 * n * (inside + d)
    elif name == "mlp-hyena-x":
        inside, taps = operator.out_proj.in_features, operator.short_filter.kernel_size[0]
        other = 2 * n * (3 * inside + d) + 6 * n * inside * (taps + 1)
        parts = 8 * n * d * inside + 2 * n * inside, 0, other
    else:
        parts = _hyena(operator, n, d)
    return Cost(*parts, parameters(operator))


def _host_cost(host: Host, old: Any, n: int, text: int) -> Cost:
    """Of what a graft replaces; its parameters are those that it has."""
    d, count = host.width, parameters(old)
    if hasattr(old, "net"):
        inside = old.net[2].in_features
        return Cost(2 * n * d * (old.net[0].proj.out_features + inside), 0,
                    2 * n * (inside + d), count)  # fmt: skip
    if hasattr(old, "conv_depth"):
        both, inside = old.conv_depth.out_channels, old.conv_point.in_channels
        return Cost(2 * n * d * (both + inside), 0, 2 * 9 * n * both, count)
    if "Linear" in type(old.processor).__name__:
        # K^T V and Q (K^T V) a head, and the sum of keys.
        return Cost(4 * n * d * (d // host.heads + 1), 8 * n * d**2 + 2 * n * d, 0, count)
    return Cost(*_attention(n + text, d, host.heads, n + text), count)


def _joint_cost(
    host: Host, old: Any, new: Cost, n: int, *, text: int, keys: int | None
) -> Cost:
    """Of a graft among images of a joint attention: keys of a window's query, or None for another
    operator, which is beside the host's attention to and of the text."""
    d, h, all_text = host.width, host.heads, text * (n + text)
    seen = n * (text + (keys or 0)) + all_text
    op, ft = (4 * d + 2 * h) * seen, 8 * (n + text) * (d**2 + d)
    kept = Cost(op, ft, 0, parameters(old))
    return kept if keys is not None else kept + new + Cost(0, 0, 0, h)


def graft_delta(
    model: nn.Module, edit: Mapping[str, Any], *, tokens: int | None = None, text_tokens: int = 0
) -> Delta:
    """What a graft changes among those operators of its place that are still the host's own.

    edit: of kind "graft", not applied yet. tokens: N, if not those that the host is made for.
    text_tokens: of a joint attention. Raises ValueError where N is not known, and for blocks that
    are edited there already.
    """
    place, name, options, blocks = checked_graft(edit)
    host = host_of(model)
    n = tokens or tokens_of(host) or (1 if place == "mlp" else None)
    if n is None:
        raise ValueError(f"how many tokens a {type(model).__name__} draws is not in its config; "
                         f"give tokens")  # fmt: skip
    every = [i for i in range(host.depth) if _own(host, i, place)]
    if others := [i for i in blocks if i not in every]:
        operator_path(host, others[0], place)
        raise ValueError(f"block {others[0]} is edited in the place of {place} already; "
                         f"graft other blocks, or what it was made of")  # fmt: skip
    before = after = Cost(0, 0, 0, 0)
    for i in every:
        old = model.get_submodule(operator_path(host, i, place))
        own = _host_cost(host, old, n, text_tokens if place == "attention" else 0)
        before += own
        if i not in blocks:
            after += own
            continue
        new = operator_cost(name, width=host.width, heads=host.heads, tokens=n,
                            options=as_host(name, options, old))  # fmt: skip
        if place == "attention" and host.kind(i) == "joint":
            keys = {"attention": n, "sliding-window": min(2 * options.get("window", 4) + 1, n)}
            new = _joint_cost(host, old, new, n, text=text_tokens, keys=keys.get(name))
        after += new
    return Delta(*(_change(getattr(before, part), getattr(after, part))
                   for part in ("op", "ft", "parameters", "flops")))  # type: ignore[arg-type]


def _own(host: Host, i: int, place: str) -> bool:
    """Whether block i has an operator there that is the host's."""
    try:
        name = operator_path(host, i, place).rpartition(".")[2]
    except ValueError:
        return False
    return not is_edited(host.block(i)) and not is_edited(getattr(host.block(i), name))


def _change(before: float, after: float) -> float | None:
    return 100 * (after / before - 1) if before else None
