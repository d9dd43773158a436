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
from impasto.models.edited.hosts import host_of
from impasto.models.edited.loading import from_pretrained
from impasto.models.edited.stock import RECORD
from impasto.models.storage import read_json, save_network
from impasto.zoo.weights import holds_int8, shipped_folder

__all__ = ["edited_folder", "transformer_from"]

T = TypeVar("T")
STALE = ("README.md",)
"""What is true of the model that was given only: its card."""


def transformer_from(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The transformer in a folder, with its edits, on the CPU, in evaluation mode. Raises
    ValueError for one that `host_of` does not know, FileNotFoundError for what is missing."""
    config = read_json(folder / "config.json")
    kind: Any = getattr(diffusers, str(config.get("_class_name")), None)
    ours = {"delta", "edits", "quantization_config"} & {*config}
    path = folder / "diffusion_pytorch_model.safetensors"
    if kind is None or ours or (path.is_file() and holds_int8(path)):
        network = from_pretrained(folder, torch_dtype=dtype)
    else:  # diffusers' own way, which never holds all of it in float32
        network = kind.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True,
                                       local_files_only=True).eval()  # fmt: skip
    host_of(network)
    return network


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
        part = "transformer" if whole else ""
        network = transformer_from(source / part, dtype)
        result = edit(network)
        if whole:
            skipped = shutil.ignore_patterns(part, *STALE)
            shutil.copytree(source, folder, ignore=skipped, dirs_exist_ok=True)
        format = "bfloat16" if dtype == torch.bfloat16 else "float32"
        save_network(network, folder / part, format)
        if (source / part / RECORD).is_file():  # blocks that went before
            shutil.copy(source / part / RECORD, folder / part / RECORD)
    return result
