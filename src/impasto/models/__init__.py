"""Generator families, and the one way to load any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from impasto.models.dit import DiTGenerator
from impasto.models.foreign import (
    DiffusersGenerator,
    Emu3Generator,
    ImageAPI,
    JanusGenerator,
)
from impasto.models.infinity import InfinityGenerator
from impasto.models.layton import LaytonGenerator
from impasto.models.mmdit import MMDiTGenerator
from impasto.models.storage import read_json
from impasto.models.tokenflow import TokenFlowGenerator
from impasto.models.var import VARGenerator
from impasto.sample.protocol import Generator
from impasto.zoo.registry import MODELS, nearest

__all__ = ["FAMILIES", "DiTGenerator", "DiffusersGenerator", "Emu3Generator", "ImageAPI",
           "InfinityGenerator", "JanusGenerator", "LaytonGenerator", "MMDiTGenerator",
           "TokenFlowGenerator", "VARGenerator", "load_generator"]  # fmt: skip

FAMILIES = {"DiTGenerator": DiTGenerator, "InfinityGenerator": InfinityGenerator,
            "LaytonGenerator": LaytonGenerator, "MMDiTGenerator": MMDiTGenerator,
            "TokenFlowGenerator": TokenFlowGenerator, "VARGenerator": VARGenerator}  # fmt: skip
"""Classes that a model folder's index may name."""


def load_generator(
    name_or_path: str | Path,
    *,
    torch_dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
) -> Generator:
    """A generator by its registered name ("sticker-mmdit"), or from a folder it was saved to.

    Raises ValueError for something that is neither, or a folder of an unknown family.
    """
    text = str(name_or_path)
    if text.partition(":")[0] in MODELS:
        return MODELS.create(text, torch_dtype=torch_dtype, device=device)
    folder = Path(name_or_path)
    if not folder.is_dir():
        raise ValueError(f"unknown model {text!r}, and no folder either: "
                         f"{nearest(text, list(MODELS))}")  # fmt: skip
    family = str(read_json(folder / "model_index.json").get("_class_name"))
    if family not in FAMILIES:
        raise ValueError(f"{folder} holds a {family}; allowed: {', '.join(FAMILIES)}, and any "
                         f"pipeline of diffusers as diffusers:id={folder}")  # fmt: skip
    kind: Any = FAMILIES[family]
    return kind.from_pretrained(folder, torch_dtype=torch_dtype, device=device)
