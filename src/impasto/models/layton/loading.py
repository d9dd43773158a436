"""LaytonGen by name: saved in one folder, or put together of a transformer, a tokenizer, a T5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from impasto.models.bound import folder_or_parts
from impasto.models.infinity.loading import t5_encoder
from impasto.models.layton.model import LaytonTransformer
from impasto.models.layton.pipeline import LaytonGenerator
from impasto.models.layton.sampling import Defaults
from impasto.models.layton.tokenizer import LaytonTokenizer
from impasto.models.storage import network_from, read_json
from impasto.zoo.hub import model_folder
from impasto.zoo.registry import MODELS, numbers
from impasto.zoo.weights import as_dtype

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


@MODELS.register("layton", published=True, trained=("layton",))
def layton(
    *, folder: str | None = None, transformer: str | None = None, vae: str | None = None,
    text: str | None = None, guidance: float | None = None, temperature: float | None = None,
    top_k: int | None = None, top_p: float | None = None, clean: bool | None = None,
    tokens: str | None = None, decoding: str | None = None, steps: int | None = None,
    torch_dtype: torch.dtype | str = torch.float32, device: torch.device | str = "cpu",
) -> LaytonGenerator:  # fmt: skip
    """LaytonGen over Layton's tokenizer or a plain one: folder=DIR, or transformer=, vae=, text=.

    folder: as saved or trained; with vae, its ids are decoded by another tokenizer of the same
    ids, such as one whose copy was trained further. In parts as published, after impasto convert,
    text being the T5 encoder and its words, google/flan-t5-xl. What is not given is the folder's
    own, or as in the published demonstration, whose temperature leaves little to chance:

    guidance, temperature, top_k, top_p: see `sampling.Defaults`. clean: take out of prompts what
    the published captions had not. tokens: the tokenizer's digest, where it is known. decoding,
    steps: how Layton's tokenizer decodes, a name of `layton.DECODINGS` and the steps of it, where
    not as it was trained for. Raises ValueError for parts that do not belong together, and for
    settings that cannot be.
    """
    parts = {"transformer": transformer, "vae": vae, "text": text}
    folder_or_parts("layton", folder, parts if folder is None else parts | {"vae": None})
    given = {"guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p,
             "clean": clean, "tokens": tokens}  # fmt: skip
    changes = {key: _checked(key, value) for key, value in given.items() if value is not None}
    dtype = as_dtype(torch_dtype)
    pictures: Any = None if vae is None else tokenizer_from(model_folder(vae, "vae"))
    if folder is not None:
        made = LaytonGenerator.from_pretrained(model_folder(folder, "folder"), defaults=changes)
        if pictures is not None:
            made = LaytonGenerator(**made.components | {"vae": pictures}, defaults=made.defaults)
        return _decoding(made.cast_to(dtype, device), decoding, steps)
    encoder, words = t5_encoder(str(text))
    own: Any = network_from(LaytonTransformer, model_folder(str(transformer), "transformer"))
    words.model_max_length = own.text
    made = LaytonGenerator(transformer=own.eval(), vae=pictures,
                           text_encoder=encoder.eval(), tokenizer=words,
                           defaults=Defaults(**changes))  # fmt: skip
    return _decoding(made.cast_to(dtype, device), decoding, steps)


def _decoding(made: LaytonGenerator, name: str | None, steps: int | None) -> LaytonGenerator:
    """With its tokenizer settled on a decoding. Raises ValueError for one that has none."""
    if name is not None or steps is not None:
        if not isinstance(made.vae, LaytonTokenizer):
            raise ValueError(f"decoding and steps are of Layton's tokenizer, and this model draws "
                             f"the ids of a {type(made.vae).__name__}; leave them out"
                             )  # fmt: skip
        made.vae.settle(decoding=made.vae.decoding.changed(name, steps=steps))
    return made


def _checked(name: str, given: Any) -> Any:
    """A field of `Defaults`. Raises ValueError for one of another type."""
    kind = type(getattr(Defaults(), name))
    if kind is bool and not isinstance(given, bool):
        raise ValueError(f"{name} must be true or false, given {given!r}")
    if kind not in (int, float):
        return given
    try:
        (value,) = numbers(name, given, kind)
    except ValueError:
        word = "integer" if kind is int else "number"
        raise ValueError(f"{name} must be one {word}, given {given!r}") from None
    return value
