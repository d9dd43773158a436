"""`from_pretrained` for folders of edited models: a transformer's, or a whole pipeline's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from impasto.models.edited.delta import load_delta
from impasto.models.storage import network_from, read_json
from impasto.zoo.weights import as_dtype

__all__ = ["from_pretrained"]


def from_pretrained(
    folder: str | Path, *, torch_dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu", base: nn.Module | None = None,
) -> Any:  # fmt: skip
    """What lies in a folder, with its edits, in evaluation mode: a transformer of diffusers; of a
    folder with model_index.json the diffusers pipeline, or the generator of an own family.

    base: for a delta, the transformer that it was made of. torch_dtype: float32, bfloat16 or
    float16; a delta's is the base's. Raises FileNotFoundError, ValueError for what does not fit.
    """
    dtype, folder = as_dtype(torch_dtype), Path(folder)
    if (folder / "model_index.json").is_file():
        from impasto.models import FAMILIES, load_generator
        from impasto.models.foreign.loading import load_pipeline

        if read_json(folder / "model_index.json").get("_class_name") in FAMILIES:
            return load_generator(folder, torch_dtype=dtype, device=device)
        return load_pipeline(str(folder), dtype).to(device)
    config = read_json(folder / "config.json")
    if config.get("delta"):
        if base is None:
            raise ValueError(f"{folder} holds a delta: give the transformer that it was made of "
                             f"as base")  # fmt: skip
        return load_delta(folder, base).to(device).eval()
    if base is not None:
        raise ValueError(f"{folder} holds a whole model, not a delta; load it without a base")
    name = str(config.get("_class_name"))
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"{folder} holds a {name}, which diffusers {diffusers.__version__} does "
                         f"not have")  # fmt: skip
    return nn.Module.to(network_from(kind, folder), device=device, dtype=dtype).eval()
