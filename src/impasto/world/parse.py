"""What a caption says: the inverse of `impasto.world.words`.

A phrase is  [number] [size] [colour] noun [place];  a caption is an opening and then either one
relation between two phrases or a list of phrases. The grammar is built from the very tables that
the words are drawn from, so what can be written can be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from impasto.spec import CLASSES, COLORS, NUMBER_WORDS, Item, plural
from impasto.world.words import (
    JOINTS,
    OPENINGS,
    REGIONS,
    RELATION_WORDS,
    english_plural,
    english_singular,
)

__all__ = ["parse"]

# fmt: off
_NOUNS = {form: name for name in CLASSES
          for form in (name, plural(name), english_plural(name), english_singular(name))}
# fmt: on
_PLACES = {words: region for region, all_words in REGIONS.items() for words in all_words}
_NUMBERS = {"a": 1, "an": 1, "a single": 1}
_NUMBERS |= {form: k for k, word in enumerate(NUMBER_WORDS) if k
             for form in (word, str(k), f"exactly {word}")}  # fmt: skip


def _any(words: Iterable[str]) -> str:
    """A regular expression for one of `words`, the longest first."""
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


_PHRASE = re.compile(
    rf"(?:(?P<number>{_any(_NUMBERS)}) )?(?:(?P<size>larger|smaller) )?"
    rf"(?:(?P<color>{_any(COLORS)})(?:-colored)? )?(?P<noun>{_any(_NOUNS)})"
    rf"(?: (?P<place>{_any(_PLACES)}))?"
)
_BARE = re.sub(r"\?P<\w+>", "?:", _PHRASE.pattern)
_OPENING = re.compile(
    _any(["A photo of ", *(words.removesuffix("{}") for words in OPENINGS)])
)
_LIST = re.compile(rf", and |, |{_any(JOINTS)}")


def _item(text: str) -> Item:
    match = _PHRASE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not [number] [size] [colour] noun [place]")
    found = match.groupdict()
    return Item(
        cls=_NOUNS[found["noun"]],
        count=_NUMBERS[found["number"] or "a"],
        color=found["color"],
        region=_PLACES.get(found["place"]),
        size=found["size"],
    )


def _relation_forms() -> list[tuple[str, re.Pattern[str]]]:
    """(relation, pattern with groups a and b) for every wording of every relation.

    Wordings that begin with a come first: "a left of b" is that, and only then "b right of a".
    """
    forms = [(words, relation) for relation, all_words in RELATION_WORDS.items()
             for words in all_words]  # fmt: skip
    groups = {"a": f"(?P<a>{_BARE})", "b": f"(?P<b>{_BARE})"}
    return [(relation, re.compile(words.format(**groups))) for words, relation in sorted(forms)]


_RELATIONS = _relation_forms()


def _body(text: str) -> tuple[Item, ...]:
    for relation, pattern in _RELATIONS:
        if match := pattern.fullmatch(text):
            a, b = _item(match["a"]), _item(match["b"])
            return b, replace(a, position=(relation, 0))
    return tuple(map(_item, _LIST.split(text)))


def parse(caption: str) -> tuple[Item, ...]:
    """The demands that a caption states, in GenEval's order: of a relation, the object that is
    referred to comes first.

    Understands GenEval's and GenEval++'s templates and every wording of `words.caption`. Raises
    ValueError, naming the part that is not understood.
    """
    opening = _OPENING.match(caption)
    return _body(caption[opening.end() if opening else 0 :])
