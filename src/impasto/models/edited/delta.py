"""An edited transformer as what differs from the one it was made of.

    config.json          class, edits and edits_base, as of record.py; "delta": true
    delta.safetensors    tensors that are not what the edits make of the base's

With early blocks frozen while a pruned model is distilled, that is a small part of it. The base is
known by the sha256 of its weights; any other is refused.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from impasto import files
from impasto.models.edited.record import check_base, edits_of, rebuild
from impasto.models.storage import read_json
from impasto.zoo.weights import load_state, save_weights

__all__ = ["load_delta", "save_delta"]


def _rebuilt(config: dict[str, Any], base: nn.Module) -> nn.Module:
    """A copy of the base with the edits that `config` names. Raises ValueError for another base.
    """
    if (found := type(base).__name__) != config.get("_class_name"):
        raise ValueError(f"the delta is one of a {config.get('_class_name')}, given a {found}")
    check_base(config, base)
    model = copy.deepcopy(base)
    rebuild(model, config["edits"], config["edits_base"])
    return model


def save_delta(model: nn.Module, base: nn.Module, folder: str | Path) -> None:
    """Write what of an edited model its base does not have. Raises ValueError for another base
    than the edits were made of, and for a quantised model, of which nothing is the base's."""
    values: Any = getattr(model, "config", {})
    config = {"_class_name": type(model).__name__, "edits": edits_of(model),
              "edits_base": values.get("edits_base"), "delta": True}  # fmt: skip
    if any(edit["edit"] == "quantise" for edit in config["edits"]):
        raise ValueError("a quantised model has no delta: none of its weights is the base's; make "
                         "the delta first, or save the model whole")  # fmt: skip
    if not config["edits"]:
        raise ValueError("nothing was edited, so there is no delta to save")
    same = _rebuilt(config, base).state_dict()
    state = {key: tensor for key, tensor in model.state_dict().items()
             if key not in same or not torch.equal(tensor.to(same[key]), same[key])}  # fmt: skip
    narrow = all(tensor.dtype == torch.bfloat16 for tensor in state.values())
    save_weights(Path(folder) / "delta.safetensors", state, "bfloat16" if narrow else "float32")
    files.write_json(Path(folder) / "config.json", config)


def load_delta(folder: str | Path, base: nn.Module) -> nn.Module:
    """The edited model, in the base's dtype and on its device; `base` stays as it is.

    Raises FileNotFoundError for what is missing, ValueError for another base than the recorded
    one, or tensors that do not fit.
    """
    config, path = read_json(Path(folder) / "config.json"), Path(folder) / "delta.safetensors"
    if not config.get("delta"):
        raise ValueError(f"{folder} holds a whole model, not a delta; load it without a base")
    model, state = _rebuilt(config, base), load_state(path)
    own = model.state_dict()
    if wrong := sorted(key for key in state if key not in own or own[key].shape != state[key].shape
                       ):  # fmt: skip
        raise ValueError(f"{path} does not fit {type(model).__name__}: {wrong[:4]}")
    model.load_state_dict(state, strict=False)
    return model
