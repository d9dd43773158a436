"""A judge without a language model: it reads the world's questions and answers by the detector.

It knows the forms of `impasto.world.questions` and nothing else; a question that it cannot read it
does not answer, and of what it does not find it says "none". Objects are the detector's above the
sticker scorer's threshold, their colours by CLIP; a relation is GenEval's formula, a half the
centre's. Something of no colour is told from a coloured thing by how sure the classifier is: below
`NATURAL` an object is named without one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from impasto.score.base import Found
from impasto.score.geneval import ColorShares, GenEvalScorer
from impasto.score.judges.base import Judge, NoProbabilities, Question, Unanswered
from impasto.spec import CLASSES, COLORS, NUMBER_WORDS, article, relations
from impasto.world.room import BESIDE
from impasto.world.words import english_plural, english_singular

__all__ = ["StickerJudge"]

NATURAL = 0.9
ENDS = {"leftmost": (0, 1), "rightmost": (0, -1), "highest": (1, 1), "lowest": (1, -1)}
SAID = {words: relation for relation, words in BESIDE.items()}
NOUNS = {form: cls for cls in CLASSES
         for form in (english_singular(cls), english_plural(cls))}  # fmt: skip
_RELATIONS = "|".join(map(re.escape, SAID))


def _number(k: int) -> str:
    return NUMBER_WORDS[k] if k < len(NUMBER_WORDS) else str(k)


def _middle(one: Found, axis: int) -> float:
    return (one.box[axis] + one.box[axis + 2]) / 2


class Absent(LookupError):
    """What is asked about was not found."""


class _Seen:
    """The objects of one picture and how to speak of them."""

    def __init__(self, image: Tensor, objects: Sequence[Found], judge: GenEvalScorer) -> None:
        self.image, self.judge = image, judge
        self.objects = [one for one in objects if one.score > judge.thresholds.threshold]

    def color(self, one: Found) -> tuple[str, float]:
        """Likeliest colour, and its probability (1 of a classifier that tells none)."""
        colors = self.judge.colors
        if isinstance(colors, ColorShares):
            (row,) = colors.shares([(self.image, one)])
            return COLORS[row.index(max(row))], max(row)
        return colors.classify([(self.image, one)])[0], 1.0

    def named(self, words: str) -> list[Found]:
        """The objects called "cup", "red cups" or "leftmost cup". Raises Unanswered for others."""
        end, color = None, None
        first, _, rest = words.partition(" ")
        if first in ENDS and rest in NOUNS:
            end, words = ENDS[first], rest
        elif first in COLORS and rest in NOUNS:
            color, words = first, rest
        if words not in NOUNS:
            raise Unanswered(f"{words!r} is nothing that the detector knows")
        group = [one for one in self.objects if one.cls == NOUNS[words]]
        if color is not None:
            group = [one for one in group if self.color(one)[0] == color]
        if end is not None and group:
            axis, sign = end
            group = [min(group, key=lambda one: sign * _middle(one, axis))]
        return group

    def one(self, words: str) -> Found:
        """The likeliest object called so. Raises Absent where none is found."""
        group = self.named(words)
        if not group:
            raise Absent(words)
        return max(group, key=lambda one: one.score)


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _exactly(seen: _Seen, number: str, name: str) -> str:
    return _yes(_number(len(seen.named(name))) == number)


def _what(seen: _Seen, words: str, name: str) -> str:
    anchor = seen.one(name)
    there = [one for one in seen.objects if one is not anchor
             and SAID[words] in relations(one.box, anchor.box)]  # fmt: skip
    if not there:
        raise Absent(words)
    best = max(there, key=lambda one: one.score)
    color, share = seen.color(best)
    noun = english_singular(best.cls)
    return article(f"{color} {noun}" if share >= NATURAL else noun)


def _half(seen: _Seen, name: str, first: str, second: str) -> str:
    axis = 0 if {first, second} == {"left", "right"} else 1
    low, high = (("left", "right"), ("top", "bottom"))[axis]
    side = seen.image.shape[-1 - axis]
    return low if _middle(seen.one(name), axis) < side / 2 else high


FORMS: tuple[tuple[str, Callable[..., str]], ...] = (
    (r"How many objects are there in total\?", lambda seen: _number(len(seen.objects))),
    (r"How many (.+) are there\?", lambda seen, name: _number(len(seen.named(name)))),
    (r"(?:Is|Are) there exactly (\w+) (.+)\?", _exactly),
    (r"What color is the (.+)\?", lambda seen, name: seen.color(seen.one(name))[0]),
    (rf"What is ({_RELATIONS}) the (.+)\?", _what),
    (r"Is there an? (.+) in the picture\?", lambda seen, name: _yes(bool(seen.named(name)))),
    (r"Is the (.+) (?:on|at) the (\w+) or (?:on|at) the (\w+) of the picture\?", _half),
    (rf"Is the (.+) ({_RELATIONS}) the (.+)\?", lambda seen, a, words, b: _yes(
        SAID[words] in relations(seen.one(a).box, seen.one(b).box))),
    (rf"Is the (.+) ({'|'.join(COLORS)})\?",
     lambda seen, name, color: _yes(seen.color(seen.one(name))[0] == color)),
)  # fmt: skip


class StickerJudge(Judge):
    """Answers the world's questions in words. judge: whose networks look."""

    def __init__(self, judge: GenEvalScorer) -> None:
        self.judge = judge

    def ask(self, question: Question, max_tokens: int = 512, attempt: int = 0) -> str:
        """Raises Unanswered for another question and another number of pictures than one."""
        if len(question.images) != 1:
            raise Unanswered(f"{len(question.images)} pictures were shown; one is looked at")
        text = question.text.partition("?")[0] + "?"
        for form, answer in FORMS:
            if match := re.fullmatch(form, text):
                (image,) = question.images
                (objects,) = self.judge.detector.detect(image[None])
                try:
                    return answer(_Seen(image, objects, self.judge), *match.groups())
                except Absent:
                    return "none"
        raise Unanswered(f"{text!r} is not one of the world's questions")

    def probability(
        self, question: Question, variants: Sequence[str], deduplicate: bool = True
    ) -> float:
        raise NoProbabilities("the sticker judge answers in words only; Soft-TIFA by a detector "
                              "is the scorer sticker-tifa")  # fmt: skip

    def provenance(self) -> dict[str, Any]:
        record = self.judge.provenance()
        return {"id": "sticker-judge", "sha256": record["sha256"], "natural": NATURAL,
                "thresholds": record["thresholds"]}  # fmt: skip
