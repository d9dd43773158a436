"""A Layton tokenizer's folder: every network in its own, as its library reads it.

    config.json        sizes of pictures and copies, moments of the latents
    vq/                the front, without a decoder
    vae/, unet/        diffusers' AutoencoderKL and UNet2DConditionModel, as they were given
    controlnet/        diffusers' ControlNetModel, whose stem has stride 1
    lora/              the accelerator, as peft keeps one

A size is written once: the parts' are in their own configs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from impasto import files
from impasto.models.layton.decoder import LADD, TARGETS
from impasto.models.storage import read_json
from impasto.zoo.weights import load_state, save_weights

__all__ = ["PARTS", "load_parts", "read_config", "save_parts"]

FILE = "diffusion_pytorch_model.safetensors"
ADAPTER = "base_model.model."
PARTS = {"vq": f"vq/{FILE}", "vae": f"vae/{FILE}", "unet": f"unet/{FILE}",
         "controlnet": f"controlnet/{FILE}", "lora": "lora/adapter_model.safetensors"}  # fmt: skip
"""Part -> file of its weights."""


def _names(tokenizer: Any) -> dict[str, dict[str, str]]:
    """Part -> name on disk -> name in the tokenizer."""
    names: dict[str, dict[str, str]] = {part: {} for part in PARTS}
    for key in tokenizer.state_dict():
        part, _, own = key.removeprefix("decoder.").partition(".")
        if ".lora_" in own:
            names["lora"][ADAPTER + own.replace(".default.", ".")] = key
        else:
            names[part][own.replace(".base_layer.", ".")] = key
    return names


def _adapter_config(decoder: LADD) -> dict[str, Any]:
    config = decoder.unet.peft_config["default"]
    return {"peft_type": "LORA", "r": config.r, "lora_alpha": config.lora_alpha,
            "target_modules": sorted(TARGETS)}  # fmt: skip


def save_parts(tokenizer: Any, folder: Path, formats: Mapping[str, str] | str) -> None:
    """formats: one of `zoo.weights.FORMATS` for all, or one a part.

    Raises ValueError for formats of other parts, and for a merged accelerator.
    """
    if isinstance(formats, str):
        formats = dict.fromkeys(PARTS, formats)
    if set(formats) != set(PARTS):
        raise ValueError(f"there must be a format for each of {', '.join(PARTS)}, given "
                         f"{', '.join(formats)}")  # fmt: skip
    if tokenizer.decoder.merged:
        raise ValueError("the accelerator is merged into the UNet, whose own weights are gone; "
                         "save the tokenizer before merging")  # fmt: skip
    state, decoder = tokenizer.state_dict(), tokenizer.decoder
    for part, names in _names(tokenizer).items():
        save_weights(folder / PARTS[part], {own: state[key] for own, key in names.items()},
                     formats[part])  # fmt: skip
    files.write_json(folder / "lora" / "adapter_config.json", _adapter_config(decoder))
    for part, network in (("vq", tokenizer.vq), ("vae", tokenizer.vae), ("unet", decoder.unet),
                          ("controlnet", decoder.controlnet)):  # fmt: skip
        network.save_config(folder / part)
    tokenizer.save_config(folder)


def read_config(folder: Path) -> dict[str, Any]:
    """A tokenizer's arguments. Raises FileNotFoundError or ValueError naming a file."""
    values = {part: _own(read_json(folder / part / "config.json"))
              for part in ("vq", "vae", "unet")}  # fmt: skip
    stem = read_json(folder / "controlnet" / "config.json")["conditioning_embedding_out_channels"]
    adapter = read_json(folder / "lora" / "adapter_config.json")
    if sorted(adapter["target_modules"]) != sorted(TARGETS):
        raise ValueError(f"{folder / 'lora'} adapts {sorted(adapter['target_modules'])}, and an "
                         f"accelerator adapts {sorted(TARGETS)}")  # fmt: skip
    return {**_own(read_json(folder / "config.json")), **values, "stem": stem,
            "lora_rank": adapter["r"], "lora_alpha": adapter["lora_alpha"]}  # fmt: skip


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without what diffusers notes beside the arguments."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def load_parts(tokenizer: Any, folder: Path) -> None:
    """Raises FileNotFoundError for a missing file, ValueError for keys or shapes that do not
    fit."""
    state: dict[str, Tensor] = {}
    for part, names in _names(tokenizer).items():
        path = folder / PARTS[part]
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; {folder} is not a whole tokenizer")
        found = load_state(path)
        if set(found) != set(names):
            raise ValueError(f"{path} does not fit: missing keys {sorted(set(names) - set(found))}"
                             f", unexpected keys {sorted(set(found) - set(names))}")  # fmt: skip
        state |= {names[own]: tensor for own, tensor in found.items()}
    _check_shapes(state, tokenizer.state_dict(), folder)
    tokenizer.load_state_dict(state)


def _check_shapes(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], folder: Path) -> None:
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            raise ValueError(f"{folder}: {key!r} has shape {tuple(tensor.shape)}, the tokenizer "
                             f"needs {tuple(wanted[key].shape)}")  # fmt: skip
