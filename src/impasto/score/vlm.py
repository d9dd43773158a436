"""Scorers by a vision-language model's marks: Imagine-Bench, GEdit-Bench, ImgEdit-Bench.

Each asks its questions about a picture and reads marks out of the answer (`judges.parse`); a
benchmark's own combination makes the value. Where an answer cannot be read the value is NaN: the
bench counts it and no number is made of it.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from impasto.score.base import Score, Scorer
from impasto.score.judges.base import Judge
from impasto.score.judges.sight import check_sight
from impasto.spec import Spec

__all__ = ["MarkScorer", "unread"]

Item = TypeVar("Item")


def unread(what: str) -> Score:
    """The score of a picture on which the answer to `what` could not be read."""
    return Score(value=math.nan, reason=f"{what}: no answer could be read")


class MarkScorer(Scorer, Generic[Item]):
    """judge: who marks. items: by the specs' keys. name: for the record.

    prompts: the texts that the judge is asked by, by name. official: whether they are the
    benchmark's own, from a file; impasto's own are not comparable with published scores.
    """

    by_key: ClassVar[bool] = True

    def __init__(self, judge: Judge, items: Mapping[str, Item], *, name: str,
                 prompts: Mapping[str, str], official: bool) -> None:  # fmt: skip
        self.judge, self.items, self.name = judge, dict(items), name
        self.prompts, self.official = dict(prompts), official

    def score(self, images: Tensor, specs: Sequence[Spec]) -> list[Score]:
        """Raises ValueError for a spec that is none of the items."""
        return [self._one(image, self._item(spec))
                for image, spec in zip(images, specs, strict=True)]  # fmt: skip

    def _item(self, spec: Spec) -> Item:
        if spec.key not in self.items:
            raise ValueError(f"{spec.key or spec.prompt[:60]!r} is no item of {self.name}'s file")
        return self.items[spec.key]

    @abstractmethod
    def _one(self, image: Tensor, item: Item) -> Score:
        """The marks of one picture (3, H, W)."""

    def self_test(self) -> None:
        check_sight(self.judge)

    def provenance(self) -> dict[str, Any]:
        hashes = {k: hashlib.sha256(v.encode()).hexdigest() for k, v in self.prompts.items()}
        return {"id": self.name, "judge": self.judge.provenance(), "prompts_sha256": hashes,
                "prompts": "from a file" if self.official else
                "impasto's own: not comparable with published scores"}  # fmt: skip
