"""Loading a model of transformers that draws: safetensors only, transformers' own classes only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import (
    AutoConfig,
    Emu3ForConditionalGeneration,
    Emu3Processor,
    JanusForConditionalGeneration,
    JanusProcessor,
)

from impasto.models.foreign.loading import first_line
from impasto.models.foreign.tokens import Emu3Generator, JanusGenerator, TokenGenerator
from impasto.score.trained import check_keys
from impasto.zoo.registry import MODELS, nearest
from impasto.zoo.weights import as_dtype, without_bars

__all__ = ["DRAWING", "load_tokens", "transformers_model"]

DRAWING: dict[str, tuple[type[TokenGenerator], Any, Any]] = {
    "emu3": (Emu3Generator, Emu3ForConditionalGeneration, Emu3Processor),
    "janus": (JanusGenerator, JanusForConditionalGeneration, JanusProcessor),
}
"""transformers' model type -> our generator, their class, their processor."""
WORDS = ("suffix", "negative")
"""Texts that a generator takes."""


def load_tokens(
    id: str, dtype: torch.dtype | str, *, device: torch.device | str = "cpu",
    revision: str | None = None, local_files_only: bool = False, **settings: Any,
) -> TokenGenerator:  # fmt: skip
    """The model in the folder `id`, or of that name on the hub. settings: of the generator.

    Raises ValueError for a model that does not draw, or whose weights are not safetensors or do
    not fit its config; nothing of the folder is ever run.
    """
    torch_dtype = as_dtype(dtype)
    if Path(id).is_dir() and revision is not None:
        raise ValueError(f"{id} is a folder: it has no revision")
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local_files_only}
    if revision is not None:
        options["revision"] = revision
    kind = _model_type(id, options)
    if kind not in DRAWING:
        raise ValueError(f"{id} is a model of type {kind!r}, which does not draw in transformers; "
                         f"those that do: {', '.join(sorted(DRAWING))}. A diffusers pipeline is "
                         f"diffusers:id={id}")  # fmt: skip
    generator, model_class, processor_class = DRAWING[kind]
    if kind == "janus" and "negative" in settings:
        raise ValueError(f"{id}: a janus leads away from no prompt at all, so it takes no "
                         f"negative one; leave out 'negative'")  # fmt: skip
    try:
        with without_bars():
            model, found = model_class.from_pretrained(
                id, dtype=torch_dtype, use_safetensors=True, output_loading_info=True, **options)
            processor = processor_class.from_pretrained(id, **options)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"{id} cannot be loaded as a {kind} of transformers with safetensors: "
                         f"{first_line(error)}") from error  # fmt: skip
    check_keys(found, id, harmless=lambda key: key.endswith(".position_ids"))
    return generator(model.to(device), processor, id=id, **settings)


def _model_type(id: str, options: dict[str, Any]) -> str:
    """What kind of model it says it is."""
    try:
        return str(AutoConfig.from_pretrained(id, **options).model_type)
    except (OSError, ValueError) as error:
        raise ValueError(f"{id!r} is neither a folder nor a model of transformers' own classes "
                         f"that can be got from the hub: {first_line(error)}") from error


@MODELS.register("transformers", published=True)
def transformers_model(
    *, id: str, dtype: str = "", revision: str | None = None, local_files_only: bool = False,
    temperature: float | None = None, top_k: int | None = None, words: str = "",
    torch_dtype: torch.dtype | str = torch.float32, device: torch.device | str = "cpu",
) -> TokenGenerator:  # fmt: skip
    """Janus or Emu3 of transformers; id=REPOSITORY_OR_FOLDER, dtype=bfloat16, top_k=2048, …

    words: a YAML file with `suffix` and, for Emu3, `negative`: texts around every prompt.
    """
    return load_tokens(str(id), dtype or torch_dtype, device=device, revision=revision,
                       local_files_only=local_files_only, temperature=temperature,
                       top_k=top_k, **(_words(Path(words)) if words else {}))  # fmt: skip


def _words(path: Path) -> dict[str, str]:
    """The texts of a file. Raises ValueError for anything else in it."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ValueError(f"{path} must hold lines KEY: TEXT; allowed: {', '.join(WORDS)}")
    for key in found:
        if key not in WORDS:
            raise ValueError(f"{path}: unknown key {key!r}: {nearest(str(key), list(WORDS))}")
    return found
