"""A generator's folder, laid out as diffusers lays out a pipeline:

    model_index.json     {"_class_name": "MMDiTGenerator", component: [library, class], ...}
    config.json          sampling defaults and latent moments: `Defaults`
    transformer/ vae/    config.json, diffusion_pytorch_model.safetensors
    text_encoder/        config.json, model.safetensors
    tokenizer/           tokenizer.json, tokenizer_config.json

Classes are never looked up by name: the index must name exactly those of `CLASSES`. Float files
are readable by the libraries' own `from_pretrained`; int8 ones by `impasto.zoo.weights` only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL, SD3Transformer2DModel
from torch import nn
from transformers import PreTrainedTokenizerFast, SiglipTextConfig, SiglipTextModel

from impasto import files
from impasto.models.mmdit.config import Defaults
from impasto.zoo.weights import load_weights, save_weights

__all__ = ["CLASSES", "WEIGHTS", "as_dtype", "load_components", "read_json", "save_components"]

CLASSES: dict[str, tuple[str, str]] = {
    "transformer": ("diffusers", "SD3Transformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "SiglipTextModel"),
    "tokenizer": ("transformers", "PreTrainedTokenizerFast"),
}
WEIGHTS = {
    "transformer": "transformer/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A floating-point dtype, given as such or by its name. Raises ValueError."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, given {dtype!r}")
    return DTYPES[name]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises FileNotFoundError or ValueError naming the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {path.parent} is not a whole model folder")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, not a {type(values).__name__}")
    return values


def save_components(
    folder: Path, components: Mapping[str, Any], defaults: Defaults, formats: Mapping[str, str]
) -> None:
    """Write everything; the index goes last, so a folder that has one is whole."""
    for name in ("transformer", "vae"):
        components[name].save_config(folder / name)
    components["text_encoder"].config.save_pretrained(folder / "text_encoder")
    components["tokenizer"].save_pretrained(folder / "tokenizer")
    for name, file in WEIGHTS.items():
        save_weights(folder / file, components[name].state_dict(), formats[name])
    files.write_json(folder / "config.json", defaults.to_dict())
    index = {name: list(cls) for name, cls in CLASSES.items()}
    files.write_json(folder / "model_index.json", {"_class_name": "MMDiTGenerator"} | index)


def _check_index(folder: Path) -> None:
    index = read_json(folder / "model_index.json")
    for name, cls in CLASSES.items():
        if index.get(name) != list(cls):
            raise ValueError(f"{folder / 'model_index.json'}: {name!r} must be {list(cls)}, "
                             f"not {index.get(name)}")  # fmt: skip


def load_components(
    folder: Path, dtype: torch.dtype, device: torch.device | str
) -> tuple[dict[str, Any], Defaults]:
    """The components, in evaluation mode, and the defaults. Raises ValueError on any misfit."""
    _check_index(folder)
    configs = {name: read_json(folder / name / "config.json") for name in WEIGHTS}
    modules: dict[str, nn.Module] = {
        "transformer": SD3Transformer2DModel.from_config(configs["transformer"]),
        "vae": AutoencoderKL.from_config(configs["vae"]),
        "text_encoder": SiglipTextModel(SiglipTextConfig.from_dict(configs["text_encoder"])),
    }
    for name, module in modules.items():
        load_weights(module, folder / WEIGHTS[name])
        # Not diffusers' own `to`: it warns of modules to keep in float32 even when there are none.
        nn.Module.to(module, device=device, dtype=dtype).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    defaults = Defaults.from_dict(read_json(folder / "config.json"))
    return {**modules, "tokenizer": tokenizer}, defaults
