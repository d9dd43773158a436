"""What a training reads beside its recipe, known by its contents.

A recipe names folders (`initial`, `front`, `teacher`, …). Another model under the same name would
leave what was made of the old one in place, unnoticed; so their sha256 is kept beside the recipe.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from impasto.files import sha256_file
from impasto.train.recipe import Recipe
from impasto.zoo.cards import hashes
from impasto.zoo.weights import shipped_folder

__all__ = ["input_digests"]

KEYS = ("autoencoder", "features", "front", "initial", "teacher")
"""Keys of a recipe whose value is a folder, a name of one that ships, or has one as an option."""


def input_digests(recipe: Recipe) -> dict[str, str]:
    """Key -> sha256 of the weights that it names; keys that name nothing on this disk are left
    out, such as a hub id, which is its own name for what it holds."""
    texts = {key: getattr(recipe, key) for key in KEYS}
    texts["scores"] = recipe.distillation.get("scores")
    found = ((key, _place(text)) for key, text in texts.items() if text)
    return {key: _digest(place) for key, place in found if place is not None}


def _place(text: str) -> Path | None:
    """The first folder or file that a name or its options say."""
    for part in (text, *re.findall(r"=([^,()]+)", text)):
        if Path(part).exists():
            return Path(part)
    try:
        return shipped_folder(text)
    except FileNotFoundError:
        return None


def _digest(place: Path) -> str:
    """Of a file, or over names and contents of all weights below a folder."""
    if place.is_file():
        return sha256_file(place)
    lines = (f"{name} {digest}\n" for name, digest in hashes(place).items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()
