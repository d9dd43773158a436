"""A model's folder with its transformer edited, beside the folder that it was made of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
from torch import nn

from impasto.files import new_folder, write_json
from impasto.models.edited.hosts import FAMILIES, host_of
from impasto.models.edited.loading import from_pretrained
from impasto.models.edited.record import rebuild
from impasto.models.edited.stock import RECORD
from impasto.models.storage import read_json, save_network, without_weights
from impasto.zoo.weights import holds_int8, shipped_folder, stored_kinds

__all__ = ["edited_folder", "planned", "stored_dtype", "transformer_from"]

T = TypeVar("T")
STALE = ("README.md",)
"""What is true of the model that was given only: its card."""


def transformer_from(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The transformer in a folder, with its edits, on the CPU, in evaluation mode. Raises
    ValueError for one that `host_of` does not know, FileNotFoundError for what is missing."""
    config = read_json(folder / "config.json")
    name = str(config.get("_class_name"))
    kind: Any = getattr(diffusers, name, None)
    if kind is None:
        raise ValueError(f"{folder} holds a {name}; edited can be transformers of diffusers: "
                         f"{', '.join(family.name for family in FAMILIES)}")  # fmt: skip
    ours = {"delta", "edits", "quantization_config"} & {*config}
    path = folder / "diffusion_pytorch_model.safetensors"
    if ours or (path.is_file() and holds_int8(path)):
        network = from_pretrained(folder, torch_dtype=dtype)
    else:  # diffusers' own way, which never holds all of it in float32
        network = kind.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True,
                                       local_files_only=True).eval()  # fmt: skip
    host_of(network)
    return network


def _where(model: str | Path) -> tuple[Path, str]:
    """A model's folder, and the name of its transformer's in it ("" where it is one)."""
    folder = Path(model) if Path(model).is_dir() else shipped_folder(str(model))
    return folder, "transformer" if (folder / "model_index.json").is_file() else ""


def planned(model: str | Path) -> nn.Module | None:
    """A transformer with its edits and without weights (parameters on the meta device), to see
    what fits it; None of a quantised one. model: as of `edited_folder`. Raises FileNotFoundError,
    ValueError for what is no transformer of diffusers."""
    folder = Path(*_where(model))
    config = read_json(folder / "config.json")
    kind: Any = getattr(diffusers, str(config.get("_class_name")), None)
    if kind is None:
        raise ValueError(f"{folder} holds no transformer of diffusers, which can be edited")
    edits, base = config.pop("edits", ()), config.pop("edits_base", None)
    if "quantization_config" in config:
        return None
    with without_weights():
        network: nn.Module = kind.from_config(config)
        if edits:
            rebuild(network, edits, base)
    return network


def stored_dtype(model: str | Path) -> torch.dtype:
    """The dtype that keeps every value of a transformer on disk: bfloat16 where all of it is that,
    else float32. model: as of `edited_folder`. Raises FileNotFoundError, ValueError for a damaged
    file."""
    folder = Path(*_where(model))
    files = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no diffusion_pytorch_model.safetensors; give the "
                                f"folder of a pipeline, or of its transformer")  # fmt: skip
    found = {kind for path in files for kind in stored_kinds(path)}
    return torch.bfloat16 if found == {"BF16"} else torch.float32


def edited_folder(
    model: str | Path, out: str | Path, dtype: torch.dtype, edit: Callable[[nn.Module], T]
) -> T:
    """Write `out`: `model`'s folder with its transformer as `edit` leaves it; what `edit` returns.

    model: a folder of a pipeline (ours or diffusers') or of a transformer alone, or the name of
    weights that ship. dtype: of what is read, and of what is written where nothing is quantised.
    `out` appears whole or not at all. Raises ValueError where it is there already.
    """
    (source, part), out = _where(model), Path(out)
    if source.resolve() in out.resolve().parents:
        raise ValueError(f"{out} lies within {source}, which is read; give another folder")
    with new_folder(out) as folder:
        network = transformer_from(source / part, dtype)
        result = edit(network)
        if part:
            skipped = shutil.ignore_patterns(part, *STALE)
            shutil.copytree(source, folder, ignore=skipped, dirs_exist_ok=True)
        format = "bfloat16" if dtype == torch.bfloat16 else "float32"
        save_network(network, folder / part, format)
        _remember(source / part / RECORD, folder / part / RECORD)
    return result


def _remember(old: Path, new: Path) -> None:
    """Keep what is said of blocks that went before, beside what is said of those that went now."""
    if old.is_file():
        before = read_json(old)
        write_json(new, read_json(new) | {"earlier": before} if new.is_file() else before)
