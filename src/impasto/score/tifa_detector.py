"""Soft-TIFA without a language model: questions from a spec, answered by a detector.

Questions are yes/no, of DSG's kind (Cho et al. 2024, arXiv 2310.18235): one for every object,
number, colour, place and size that a spec demands, the right answer always "yes". The answers come
from the picture alone: objects of the class found, n demanded, detector's scores d turned into

    s = sigmoid((logit d - logit t) / T)          t = 0.3, the sticker scorer's threshold; T = 1/4

so that s is 1/2 where the hard rule changes its mind; s_1 >= s_2 >= …:

    there is one        s_1
    exactly n           P(n of the objects are there), each one independently with its score
    coloured, placed    1/n * sum over the first n of s_i [object i is so coloured, lies there]
    A above B, larger   s_A s_B [holds for the two most confident ones]

Impasto's own questions and answers: comparable among themselves, not with GenEval 2's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from impasto.score.base import Found
from impasto.score.geneval import GenEvalScorer
from impasto.score.tifa import Ask, TifaScorer
from impasto.score.verdict_plus import HALVES
from impasto.spec import NUMBER_WORDS, Item, Spec, article, relations
from impasto.world.words import english_plural, english_singular
from impasto.zoo.registry import SCORERS

__all__ = ["DetectorAnswerer", "asks_of", "confidence", "exactly", "sticker_tifa"]

_WHERE = {"left": "left half", "right": "right half", "above": "upper half", "below": "lower half"}
_BESIDE = {"left of": "to the left of", "right of": "to the right of"}


def _the(item: Item) -> str:
    """ "Is the cup" or "Are the cups"."""
    if item.count == 1:
        return f"Is the {english_singular(item.cls)}"
    return f"Are the {english_plural(item.cls)}"


def _of_item(item: Item, spec: Spec) -> Iterator[Ask]:
    name = article(english_singular(item.cls))
    yield Ask(f"Is there {name} in the picture?", "yes", "object", item)
    if item.count > 1 or any(e.cls == item.cls for e in spec.exclude):
        many = english_singular(item.cls) if item.count == 1 else english_plural(item.cls)
        verb = "Is" if item.count == 1 else "Are"
        text = f"{verb} there exactly {NUMBER_WORDS[item.count]} {many} in the picture?"
        yield Ask(text, "yes", "count", item)
    if item.color is not None:
        yield Ask(f"{_the(item)} {item.color}?", "yes", "attribute", item)
    if item.region is not None:
        text = f"{_the(item)} in the {_WHERE[item.region]} of the picture?"
        yield Ask(text, "yes", "region", item)
    if item.position is not None:
        other = spec.include[item.position[1]]
        beside = _BESIDE.get(item.position[0], item.position[0])
        text = f"{_the(item)} {beside} the {english_singular(other.cls)}?"
        yield Ask(text, "yes", "position", item, other)


def asks_of(spec: Spec) -> tuple[Ask, ...]:
    """The questions of a spec in GenEval's or GenEval++'s data, each asked once."""
    asks = [ask for item in spec.include for ask in _of_item(item, spec)]
    asks += [Ask(f"{_the(a)} larger than the {english_singular(b.cls)}?", "yes", "size", a, b)
             for a in spec.include if a.size == "larger"
             for b in spec.include if b.size == "smaller"]  # fmt: skip
    return tuple(dict.fromkeys(asks))


def exactly(n: int, scores: Sequence[float]) -> float:
    """P(exactly n of independent events happen), their probabilities being `scores`."""
    row = [1.0]
    for s in scores:
        row = [(row[k] if k < len(row) else 0.0) * (1 - s) + (row[k - 1] * s if k else 0.0)
               for k in range(len(row) + 1)]  # fmt: skip
    return row[n] if n < len(row) else 0.0


def _area(one: Found) -> float:
    return (one.box[2] - one.box[0]) * (one.box[3] - one.box[1])


def _lies_in(one: Found, region: str, image: Tensor) -> bool:
    axis, sign = HALVES[region]
    side = image.shape[-1 - axis]
    return sign * (one.box[axis] + one.box[axis + 2] - side) > 0


TEMPERATURE = 0.25


def confidence(d: float, t: float) -> float:
    """s of the module's equation: a detector's score as a probability, 1/2 at the threshold t."""
    d = min(max(d, 1e-6), 1 - 1e-6)
    gap = math.log(d / (1 - d)) - math.log(t / (1 - t))
    return 1 / (1 + math.exp(-gap / TEMPERATURE))


class DetectorAnswerer:
    """The detector, colour classifier and threshold t of `judge`.

    confidence: score and threshold -> probability that the object is there.
    """

    def __init__(self, judge: GenEvalScorer,
                 confidence: Callable[[float, float], float] = confidence) -> None:  # fmt: skip
        self.judge, self.confidence = judge, confidence

    def answer(self, image: Tensor, asks: Sequence[Ask]) -> list[float]:
        """p of each of `asks_of`'s questions. Raises ValueError for a question in words only."""
        (objects,) = self.judge.detector.detect(image[None])
        t = self.judge.thresholds.threshold
        ordered = sorted((replace(one, score=self.confidence(one.score, t)) for one in objects),
                         key=lambda one: -one.score)  # fmt: skip
        return [self._one(image, ask, ordered) for ask in asks]

    def _one(self, image: Tensor, ask: Ask, objects: Sequence[Found]) -> float:
        if ask.item is None:
            raise ValueError(f"a detector cannot read {ask.text!r}; ask a vision-language model")
        group = [one for one in objects if one.cls == ask.item.cls]
        if ask.skill == "object":
            return group[0].score if group else 0.0
        if ask.skill == "count":
            return exactly(ask.item.count, [one.score for one in group])
        if ask.other is not None:
            others = [one for one in objects if one.cls == ask.other.cls]
            return self._pair(ask, group[:1], others[:1])
        return self._share(ask.item, group, self._test(image, ask))

    def _test(self, image: Tensor, ask: Ask) -> Callable[[Found], bool]:
        item = ask.item
        assert item is not None
        if ask.skill == "attribute":
            return lambda one: self.judge.colors.classify([(image, one)]) == [item.color]
        return lambda one: _lies_in(one, str(item.region), image)

    @staticmethod
    def _share(item: Item, group: Sequence[Found], holds: Callable[[Found], bool]) -> float:
        return sum(one.score for one in group[: item.count] if holds(one)) / item.count

    @staticmethod
    def _pair(ask: Ask, first: Sequence[Found], second: Sequence[Found]) -> float:
        if not first or not second or ask.item is None:
            return 0.0
        a, b = first[0], second[0]
        if ask.item.position is not None and ask.skill == "position":
            holds = ask.item.position[0] in relations(a.box, b.box)
        else:
            holds = _area(a) > _area(b)
        return a.score * b.score * holds

    def self_test(self) -> None:
        self.judge.self_test()

    def provenance(self) -> dict[str, Any]:
        record = self.judge.provenance()
        kept = ("id", "sha256", "thresholds", "preprocessing")
        return {"judge": {key: record[key] for key in kept},
                "temperature": TEMPERATURE,
                "questions": "impasto's own, from the spec"}  # fmt: skip


@SCORERS.register("sticker-tifa")
def sticker_tifa(*, device: str = "cpu") -> TifaScorer:
    """Soft-TIFA on sticker-world pictures: questions answered by the small detector and CLIP.

    Raises FileNotFoundError when the weights are not in this installation.
    """
    from impasto.score.sticker import sticker

    return TifaScorer(DetectorAnswerer(sticker(device=device)), asks_of, name="sticker-tifa")
