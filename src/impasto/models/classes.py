"""How a text is read by a model that knows classes and no words.

    a whole number              the class of that index, from 0
    any other text              the one class that it names: as whole words, case aside, in the
                                singular or GenEval's plural; nothing else in it is read

A longer name hides the shorter ones inside it: "a hot dog" names no dog. A colour that is a class
too counts as one: "an orange kite" names two. A class may have several names, separated by commas,
as ImageNet's have. A text that names no class or several is refused,
so no request is drawn as something else.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from impasto.spec import plural

__all__ = ["drop_classes", "named_classes", "read_class", "read_names"]


def _spoken(name: str) -> str:
    return " ".join(name.lower().split())


@functools.lru_cache(maxsize=8)
def _names(classes: tuple[str, ...]) -> tuple[dict[str, set[int]], re.Pattern[str]]:
    """Every name, singular and plural -> the classes that have it; and what finds the longest."""
    known: dict[str, set[int]] = {}
    for index, names in enumerate(classes):
        for name in filter(None, map(_spoken, names.split(","))):
            for word in (name, plural(name)):
                known.setdefault(word, set()).add(index)
    longest = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    return known, re.compile(rf"(?<!\w)(?:{longest})(?!\w)")


def named_classes(text: str, classes: Sequence[str]) -> set[int]:
    """Indices of the classes that a text names."""
    if not classes:
        return set()
    known, pattern = _names(tuple(classes))
    return set().union(*(known[word] for word in pattern.findall(_spoken(text))))


def read_class(text: str, classes: Sequence[str], count: int) -> int:
    """The index of the class that a request's text means, of a model of `count` classes.

    classes: their names; empty where only indices are known. Raises ValueError for an index that
    there is not, and for a text that names no class or several.
    """
    if re.fullmatch(r"-?\d+", text.strip()):
        index = int(text)
        if not 0 <= index < count:
            raise ValueError(f"this model has the classes 0 to {count - 1}, given {index}")
        return index
    found = named_classes(text, classes)
    if len(found) == 1:
        return found.pop()
    if found:
        names = ", ".join(f"{i} ({classes[i]})" for i in sorted(found))
        raise ValueError(f"this model draws one class, and {text!r} names several: {names}; give "
                         f"one name or index")  # fmt: skip
    raise ValueError(f"this model draws one class, and {text!r} names none: "
                     f"{_meant(text, classes, count)}")  # fmt: skip


def _meant(text: str, classes: Sequence[str], count: int) -> str:
    """The tail of an error message: the names nearest to any one to three words of the text."""
    if not classes:
        return f"it knows indices 0 to {count - 1} only"
    words, names = _spoken(text).split(), list(_names(tuple(classes))[0])
    parts = [" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)]
    close = sorted({(-difflib.SequenceMatcher(None, part, name).ratio(), name) for part in parts
                    for name in difflib.get_close_matches(part, names)})  # fmt: skip
    best = list(dict.fromkeys(name for _, name in close))[:3]
    some = ", ".join(classes[:3])
    hint = f"did you mean {' or '.join(map(repr, best))}? " if best else ""
    return f"{hint}It knows {count} classes ({some}, …) and indices 0 to {count - 1}"


def read_names(path: str) -> tuple[str, ...]:
    """Names of classes, one a line. Raises FileNotFoundError, or ValueError for an empty line."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path} is missing: classes must be a text file, one name a line")
    names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    if not all(names):
        raise ValueError(f"{path}: line {names.index('') + 1} is empty; give one name a line")
    return names


def drop_classes(
    labels: Tensor, null: int, probability: float = 0.1, generator: torch.Generator | None = None
) -> Tensor:
    """Labels (B,) with each replaced by the null class with the probability."""
    u = torch.rand(len(labels), device=labels.device, generator=generator)
    return torch.where(u < probability, null, labels)
