"""What was done to a model, as data in its config.json, from which it is rebuilt.

    edits        [{"edit": "remove", "removed": {"25": ["all"], "13": ["ff", "ff_context"]}},
                  {"edit": "graft", "place": "attention", "operator": "hyena-x", "options": {...},
                   "blocks": [1, 3]},
                  {"edit": "pairs", "pairs": [[0, 1]]},
                  {"edit": "timesteps", "downscale_freq_shift": 0},
                  {"edit": "quantise", "format": "nf4", "options": {...}}], in their order
    edits_base   sha256 of the weights before the first of them (`weights_digest` under the name
                 "transformer"); null where there were none, as on the meta device

Blocks have the numbers of the original model in every edit. An edit is a function that changes a
model in place, with weights or without (meta device), and refuses what does not fit before it
changes anything.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from impasto.models.edited.identities import remove
from impasto.zoo.registry import nearest
from impasto.zoo.weights import weights_digest

__all__ = ["EDITS", "Edit", "apply", "base_digest", "check_base", "edit", "edits_of",
           "rebuild"]  # fmt: skip

Edit = Callable[[nn.Module, Mapping[str, Any]], None]

HOMES = {"remove": "record", "graft": "grafts", "pairs": "pairs", "quantise": "quantised",
         "timesteps": "timesteps"}  # fmt: skip
"""Edit -> the module of this package that registers it."""
EDITS: dict[str, Edit] = {}
"""Edits by name, once their modules are imported."""


def edit(name: str) -> Callable[[Edit], Edit]:
    """Decorator: registers an edit under one of the names in `HOMES`."""
    if name not in HOMES:
        raise ValueError(f"edit {name!r} has no home; allowed: {', '.join(HOMES)}")

    def register(function: Edit) -> Edit:
        EDITS[name] = function
        return function

    return register


edit("remove")(remove)


def _named(values: Any) -> Edit:
    name = values.get("edit") if isinstance(values, Mapping) else None
    if not isinstance(name, str) or name not in HOMES:
        raise ValueError(f"an edit is an object with 'edit', given {values!r}: "
                         f"{nearest(str(name), list(HOMES))}")  # fmt: skip
    if name not in EDITS:
        importlib.import_module(f"impasto.models.edited.{HOMES[name]}")
    return EDITS[name]


def edits_of(model: nn.Module) -> list[dict[str, Any]]:
    """The edits that were applied to a model, in their order."""
    config: Any = getattr(model, "config", {})
    return [dict(values) for values in config.get("edits", ())]


def base_digest(model: nn.Module) -> str | None:
    """sha256 over a model's weights; None where some have none (meta device)."""
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        return None
    return weights_digest({"transformer": model})


def check_base(config: Mapping[str, Any], model: nn.Module) -> None:
    """Raises ValueError unless `model` has the weights that `config`'s edits were made of."""
    wanted, found = config.get("edits_base"), base_digest(model)
    if wanted is None:
        raise ValueError("these edits do not say of which weights they were made (edits_base is "
                         "null); give the whole model")  # fmt: skip
    if found != wanted:
        raise ValueError(f"the base's weights have sha256 {str(found)[:12]}..., and the edits "
                         f"were made of {wanted[:12]}...; give the model that was edited, in the "
                         f"precision that it had")  # fmt: skip


def apply(model: nn.Module, edit: Mapping[str, Any]) -> None:
    """Edit a model of diffusers in place and record that in its config.

    edit: one of the objects above. Raises ValueError for an unknown edit, one that does not fit,
    and any after "quantise"; the model and its record are then as they were.
    """
    target: Any = model
    if not hasattr(model, "register_to_config"):
        raise ValueError(f"{type(model).__name__} has no configuration to record edits in; give a "
                         f"transformer of diffusers")  # fmt: skip
    function = _named(edit)
    if "quantization_config" in getattr(model, "config", {}):
        raise ValueError(f"{type(model).__name__} is quantised already; give what it was made of, "
                         f"and quantise the result")  # fmt: skip
    values, config = json.loads(json.dumps(edit)), getattr(model, "config", {})
    before = edits_of(model)
    base = config.get("edits_base") if before else base_digest(model)
    function(model, values)
    target.register_to_config(edits=[*before, values], edits_base=base)


def rebuild(
    model: nn.Module, edits: Sequence[Mapping[str, Any]], base: str | None = None
) -> None:
    """Give a model of the original structure that of an edited one, for its weights to be loaded.

    base: what config.json has as edits_base. Quantised layers are not made here: they take their
    place when the quantised weights come (`quantization_config`). Raises ValueError.
    """
    if not isinstance(edits, Sequence) or isinstance(edits, str):
        raise ValueError(f"'edits' must be a list of edits, given {edits!r}")
    for values in edits:
        function = _named(values)
        if values["edit"] != "quantise":
            function(model, values)
    target: Any = model
    target.register_to_config(edits=[dict(values) for values in edits], edits_base=base)
