"""LaytonGen put together of what lies in different places: a transformer, a tokenizer, a T5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from impasto.models.infinity.loading import t5_encoder
from impasto.models.layton.model import LaytonTransformer
from impasto.models.layton.pipeline import LaytonGenerator
from impasto.models.layton.sampling import Defaults
from impasto.models.storage import as_dtype, network_from, read_json
from impasto.zoo.hub import model_folder
from impasto.zoo.registry import MODELS

__all__ = ["layton", "tokenizer_from"]


def tokenizer_from(folder: Path) -> Any:
    """The tokenizer of pictures in a folder, of the classes that a generator may have. Raises
    ValueError for another."""
    kinds = {kind.__name__: kind for kind in LaytonGenerator.LAYOUT.networks["vae"]}
    found = read_json(folder / "config.json").get("_class_name")
    if found not in kinds:
        raise ValueError(f"{folder} holds a {found}; a tokenizer of pictures with one map is "
                         f"wanted: {' or '.join(kinds)}")  # fmt: skip
    return network_from(kinds[found], folder).eval()


@MODELS.register("layton")
def layton(
    *, transformer: str, vae: str, text: str, guidance: float = 2.0, temperature: float = 0.1,
    top_k: int = 1000, top_p: float = 1.0, clean: bool = True, tokens: str | None = None,
    torch_dtype: torch.dtype | str = torch.float32, device: torch.device | str = "cpu",
) -> LaytonGenerator:  # fmt: skip
    """Published LaytonGen: layton:transformer=DIR,vae=DIR (impasto convert),text=DIR_OR_HUB_ID.

    text: the T5 encoder and its words, google/flan-t5-xl for the published model. guidance,
    temperature, top_k, top_p: as in the published demonstration, whose temperature leaves little
    to chance. clean: take out of prompts what the published captions had not. tokens: the
    tokenizer's digest, where it is known. Raises ValueError for parts that do not belong together.
    """
    dtype, (encoder, words) = as_dtype(torch_dtype), t5_encoder(text)
    own: Any = network_from(LaytonTransformer, model_folder(transformer, "transformer"))
    words.model_max_length = own.text
    defaults = Defaults(guidance=guidance, temperature=temperature, top_k=top_k, top_p=top_p,
                        clean=clean, tokens=tokens)  # fmt: skip
    made = LaytonGenerator(transformer=own.eval(), vae=tokenizer_from(model_folder(vae, "vae")),
                           text_encoder=encoder.eval(), tokenizer=words,
                           defaults=defaults)  # fmt: skip
    return made.cast_to(dtype, device)
