"""A model's folder with its transformer edited, beside the folder that it was made of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
from torch import nn

from impasto.files import new_folder
from impasto.models.storage import network_from, read_json, save_network, weights_file
from impasto.zoo.registry import nearest
from impasto.zoo.weights import holds_int8, shipped_folder

__all__ = ["HOSTS", "edited_folder", "transformer_from"]

T = TypeVar("T")
HOSTS = ("DiTTransformer2DModel", "FluxTransformer2DModel", "PixArtTransformer2DModel",
         "SD3Transformer2DModel", "SanaTransformer2DModel")  # fmt: skip
"""Classes of diffusers whose weights are edited."""
STALE = ("README.md",)
"""What is true of the model that was given only: its card."""


def transformer_from(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The transformer in a folder, on the CPU, in evaluation mode. Raises ValueError for another
    class than `HOSTS`, FileNotFoundError for what is missing."""
    config = read_json(folder / "config.json")
    name = str(config.get("_class_name"))
    if name not in HOSTS:
        raise ValueError(f"{folder} holds a {name}: {nearest(name, [*HOSTS])}")
    kind: Any = getattr(diffusers, name)
    path = folder / weights_file(kind)
    plain = not {"edits", "quantization_config"} & {*config}
    if plain and not (path.is_file() and holds_int8(path)):
        # Never all of it in float32, and files in several parts.
        return kind.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True,
                                    local_files_only=True).eval()  # fmt: skip
    return nn.Module.to(network_from(kind, folder), dtype).eval()


def edited_folder(
    model: str | Path, out: str | Path, dtype: torch.dtype, edit: Callable[[nn.Module], T]
) -> T:
    """Write `out`: `model`'s folder with its transformer as `edit` leaves it; what `edit` returns.

    model: a folder of a pipeline (ours or diffusers') or of a transformer alone, or the name of
    weights that ship. dtype: of what is read, and of what is written where nothing is quantised.
    `out` appears whole or not at all. Raises ValueError where it is there already.
    """
    path, out = Path(model), Path(out)
    source = path if path.is_dir() else shipped_folder(str(model))
    whole = (source / "model_index.json").is_file()
    if source.resolve() in out.resolve().parents:
        raise ValueError(f"{out} lies within {source}, which is read; give another folder")
    with new_folder(out) as folder:
        network = transformer_from(source / "transformer" if whole else source, dtype)
        result = edit(network)
        if whole:
            skipped = shutil.ignore_patterns("transformer", *STALE)
            shutil.copytree(source, folder, ignore=skipped, dirs_exist_ok=True)
        save_network(network, folder / "transformer" if whole else folder,
                     "bfloat16" if dtype == torch.bfloat16 else "float32")  # fmt: skip
    return result
