"""Soft-TIFA: a picture is as good as the probabilities of the right answers about it.

    AM = 1/n sum_i p_i          GM = (prod_i p_i)^(1/n)          over a prompt's n questions

AM measures atoms, GM whole prompts (the headline). p_i is a judge's probability of the right
answer; here also TIFA's verdict: every p_i above 1/2. Source: Kamath et al. 2025 (GenEval 2),
arXiv 2512.16853, section 4; code facebookresearch/GenEval2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from impasto.score.base import Score, Scorer, ScorerBroken
from impasto.score.judges.base import Judge, Question, variants_of
from impasto.spec import Item, Spec

__all__ = ["Ask", "Means", "TifaScorer", "VlmAnswerer", "means_of", "probabilities",
           "soft_tifa"]  # fmt: skip

RIGHT = 0.5
"""A question counts as answered right above this probability."""


@dataclass(frozen=True)
class Ask:
    """A question with its one right answer ("yes" or a number word) and the skill it asks for.

    item, other: the same in data, for answerers that read no words: other is what `item` is
    compared with.
    """

    text: str
    answer: str
    skill: str
    item: Item | None = None
    other: Item | None = None


class Means(NamedTuple):
    """Arithmetic and geometric mean."""

    am: float
    gm: float


def soft_tifa(p: Sequence[float]) -> Means:
    """The two means of probabilities in [0, 1]. Raises ValueError for none or another number."""
    if not p or not all(0 <= one <= 1 + 1e-6 for one in p):
        raise ValueError(f"{list(p)!r} must be probabilities, at least one")
    gm = 0.0 if min(p) <= 0 else math.exp(math.fsum(map(math.log, p)) / len(p))
    return Means(math.fsum(p) / len(p), gm)


class Answerer(Protocol):
    """Looks at a picture (3, H, W) and gives p of each question's right answer."""

    def answer(self, image: Tensor, asks: Sequence[Ask]) -> list[float]: ...

    def self_test(self) -> None: ...

    def provenance(self) -> dict[str, Any]: ...


def _details(image: Tensor, asks: Sequence[Ask], p: Sequence[float]) -> dict[str, Any]:
    """Question -> [[0, 0, W, H, p]]: what was looked at is the whole picture."""
    details: dict[str, list[list[float]]] = {}
    for ask, value in zip(asks, p, strict=True):
        whole = [0.0, 0.0, float(image.shape[-1]), float(image.shape[-2]), value]
        details.setdefault(ask.text, []).append(whole)
    return details


def probabilities(objects: Mapping[str, list[list[float]]], asks: Sequence[Ask]) -> list[float]:
    """p of each question, from a `TifaScorer`'s details. Raises ValueError for another's."""
    left = {text: list(rows) for text, rows in objects.items()}
    try:
        return [left[ask.text].pop(0)[4] for ask in asks]
    except (KeyError, IndexError) as error:
        raise ValueError(f"no answer to {error}: this bench's rule needs a scorer that answers "
                         f"its questions, such as sticker-tifa or geneval2"
                         ) from error  # fmt: skip


def means_of(objects: Mapping[str, list[list[float]]]) -> Means:
    """The two means over all answers in a `TifaScorer`'s details."""
    return soft_tifa([row[4] for rows in objects.values() for row in rows])


class TifaScorer(Scorer):
    """Value GM; correct where every question is answered right.

    asks_of: a spec's questions. answerer: who answers them. name: for the record.
    """

    gives_verdict: ClassVar[bool] = True

    def __init__(self, answerer: Answerer, asks_of: Callable[[Spec], Sequence[Ask]], *,
                 name: str) -> None:  # fmt: skip
        self.answerer, self.asks_of, self.name = answerer, asks_of, name

    def score(self, images: Tensor, specs: Sequence[Spec]) -> list[Score]:
        return [self._one(image, self.asks_of(spec))
                for image, spec in zip(images, specs, strict=True)]  # fmt: skip

    def _one(self, image: Tensor, asks: Sequence[Ask]) -> Score:
        p = [min(value, 1.0) for value in self.answerer.answer(image, asks)]
        wrong = [f"{ask.text} {ask.answer}: {value:.3f}"
                 for ask, value in zip(asks, p, strict=True) if value <= RIGHT]  # fmt: skip
        return Score(value=soft_tifa(p).gm, correct=not wrong, reason="\n".join(wrong),
                     details=_details(image, asks, p))  # fmt: skip

    def self_test(self) -> None:
        self.answerer.self_test()

    def provenance(self) -> dict[str, Any]:
        return {"id": self.name, "rule": "Soft-TIFA", **self.answerer.provenance()}


SUFFIX = "Answer in one word."


class VlmAnswerer:
    """A judge that is shown the picture and asked each question, with "Answer in one word.".

    official: first tokens that two variants share are counted twice, as the released script does;
    p is then cut at 1.
    """

    def __init__(self, judge: Judge, official: bool = False) -> None:
        self.judge, self.official = judge, official

    def answer(self, image: Tensor, asks: Sequence[Ask]) -> list[float]:
        return [self._probability(image, ask.text, ask.answer) for ask in asks]

    def _probability(self, image: Tensor, text: str, answer: str) -> float:
        question = Question((image,), f"{text} {SUFFIX}")
        return self.judge.probability(question, variants_of(answer),
                                      deduplicate=not self.official)  # fmt: skip

    def self_test(self) -> None:
        """Two plain pictures: each colour must be likelier on its own. Raises ScorerBroken."""
        plain = {"red": (1.0, 0.0, 0.0), "blue": (0.0, 0.0, 1.0)}
        for color, other in (("red", "blue"), ("blue", "red")):
            p = [self._probability(torch.tensor(plain[c])[:, None, None].expand(3, 224, 224),
                                   f"Is the picture {color}?", "yes")
                 for c in (color, other)]  # fmt: skip
            if p[0] <= p[1] or p[0] <= RIGHT:
                raise ScorerBroken(f"the judge finds a {color} picture {color} with p = "
                                   f"{p[0]:.3f} and a {other} one with {p[1]:.3f}; its weights "
                                   f"are damaged, or it cannot judge")  # fmt: skip

    def provenance(self) -> dict[str, Any]:
        return {"judge": self.judge.provenance(), "deduplicated": not self.official,
                "suffix": SUFFIX}  # fmt: skip
