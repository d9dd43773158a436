"""GenEval's judge: a detector finds the objects, a classifier names colours, a rule decides.

The rule is `impasto.score.verdict`, the same whatever the networks: the small ones of the sticker
world, or the published Mask2Former and CLIP. A detector that can spare itself objects and masks
which the rule will not look at is told so, and no verdict depends on whether it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from impasto.score.base import Found, Inspected, Score, Scorer, Seen, Wanted
from impasto.score.reward import Reward, reward
from impasto.score.self_test import check_verdicts
from impasto.score.verdict import Objects, Thresholds, judge, kept_objects, needs_color
from impasto.score.verdict_plus import judge_plus
from impasto.spec import COLORS, Spec

__all__ = ["RULES", "ColorClassifier", "ColorShares", "Detector", "GenEvalScorer",
           "SelectiveDetector", "wanted"]  # fmt: skip

BATCH = 64
"""Pictures that the detector sees at once, at most."""

Details = Literal["all", "asked"]


class Detector(Protocol):
    """Finds objects in pictures."""

    def detect(self, images: Tensor) -> list[list[Found]]:
        """All objects of each picture of (B, 3, H, W) in [0, 1], in any order."""


@runtime_checkable
class SelectiveDetector(Detector, Protocol):
    """A detector that may leave out what nobody will look at."""

    def detect_wanted(self, images: Tensor, wanted: Sequence[Wanted]) -> list[list[Found]]:
        """`detect`, at least with the objects and masks of picture i that wanted[i] names."""


class ColorClassifier(Protocol):
    """Names colours of objects."""

    def classify(self, crops: Sequence[tuple[Tensor, Found]]) -> list[str]:
        """One of GenEval's ten colours for each (picture (3, H, W), object in it)."""


@runtime_checkable
class ColorShares(ColorClassifier, Protocol):
    """A classifier that also says how sure it is."""

    def shares(self, crops: Sequence[tuple[Tensor, Found]]) -> list[tuple[float, ...]]:
        """Probabilities of the ten colours, in `COLORS`' order; the largest is `classify`'s."""


def _batches(images: Tensor | Sequence[Tensor]) -> Iterator[list[int]]:
    """Numbers of the pictures, `BATCH` at most at a time, all of one size."""
    of_size: dict[torch.Size, list[int]] = {}
    for i, image in enumerate(images):
        of_size.setdefault(image.shape, []).append(i)
    for rows in of_size.values():
        yield from (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def wanted(spec: Spec, thresholds: Thresholds, details: Details = "all") -> Wanted:
    """What the rule looks at: objects above the threshold, and masks where a colour is asked.

    details "asked" leaves out the classes that the spec does not name: the verdict and its
    reasons are the same, `Score.details` are fewer than the official script's.
    """
    named = frozenset(item.cls for item in (*spec.include, *spec.exclude))
    colored = frozenset(item.cls for item in spec.include if item.color is not None)
    return Wanted(classes=None if details == "all" else named,
                  above=thresholds.score_above(spec.tag), masks=colored)  # fmt: skip


ColorOf = Callable[[Found], str]
T = TypeVar("T")
Rule = Callable[[Spec, Objects, ColorOf, Thresholds, tuple[int, int]], T]
"""Spec, kept objects, their colours, thresholds, (width, height) of the picture -> verdict."""
RULES: dict[str, Rule[Score]] = {
    "GenEval": lambda spec, objects, color_of, limits, size:
        judge(spec, objects, color_of, limits),
    "GenEval++": lambda spec, objects, color_of, limits, size:
        judge_plus(spec, objects, color_of, size=size),
}  # fmt: skip


class GenEvalScorer(Scorer):
    """Value 1.0 where the picture shows all that its spec demands by the rule, else 0.0.

    name: for the record. weights: file or part -> sha256. thresholds: default GenEval's. details:
    of all classes, as the official script's, or of those "asked" for, which is faster. rule: one
    of `RULES`.
    """

    gives_verdict: ClassVar[bool] = True

    def __init__(
        self, detector: Detector, colors: ColorClassifier, thresholds: Thresholds | None = None,
        *, name: str = "geneval", weights: Mapping[str, str] | None = None,
        details: Details = "all", rule: str = "GenEval",
    ) -> None:  # fmt: skip
        if rule not in RULES:
            raise ValueError(f"unknown rule {rule!r}; allowed: {', '.join(RULES)}")
        self.detector, self.colors = detector, colors
        self.thresholds = thresholds or Thresholds()
        self.name, self.weights, self.details = name, dict(weights or {}), details
        self.rule = rule

    def score(self, images: Tensor | Sequence[Tensor], specs: Sequence[Spec]) -> list[Score]:
        """GenEval's verdict on picture i by spec i.

        images: (B, 3, H, W) in [0, 1], or B pictures (3, H, W) of any sizes. Raises ValueError
        when they differ in number, or for a demand that GenEval's rule has no verdict on.
        """
        return [one.score for one in self.inspect(images, specs)]

    def inspect(
        self, images: Tensor | Sequence[Tensor], specs: Sequence[Spec]
    ) -> list[Inspected]:
        """`score`, with the objects that counted; the verdicts are the same."""
        return [Inspected(*one) for one in self._each(images, specs, RULES[self.rule])]

    def rewards(
        self, images: Tensor | Sequence[Tensor], specs: Sequence[Spec], *,
        as_published: bool = False,
    ) -> list[Reward]:  # fmt: skip
        """What a trainer maximises, of picture i by spec i: `impasto.score.reward`.

        images: as `score` takes them. as_published: a failed place counts as flow_grpo's reward
        counts it. Raises ValueError as `score` does, and of a scorer whose rule is not GenEval's.
        """
        if self.rule != "GenEval":
            raise ValueError(f"scorer {self.name!r} judges by {self.rule}; a reward is defined "
                             f"for GenEval's rule only")  # fmt: skip

        def rule(spec: Spec, objects: Objects, color_of: ColorOf, limits: Thresholds,
                 size: tuple[int, int]) -> Reward:  # fmt: skip
            return reward(spec, objects, color_of, limits, as_published=as_published)

        return [one for one, _ in self._each(images, specs, rule)]

    def _each(
        self, images: Tensor | Sequence[Tensor], specs: Sequence[Spec], rule: Rule[T]
    ) -> list[tuple[T, tuple[Seen, ...]]]:
        """What `rule` says of each picture, and the objects that it looked at, in batches."""
        if len(images) != len(specs):
            raise ValueError(f"{len(images)} pictures for {len(specs)} specs; give one for each")
        results: dict[int, tuple[T, tuple[Seen, ...]]] = {}
        for rows in _batches(images):
            # Pictures of one tensor lie side by side: a view of them is no copy.
            batch = (images[rows[0] : rows[-1] + 1] if isinstance(images, Tensor)
                     else torch.stack([images[i] for i in rows]))  # fmt: skip
            results |= zip(rows, self._batch(batch, [specs[i] for i in rows], rule), strict=True)
        return [results[i] for i in range(len(specs))]

    def _detected(
        self, images: Tensor, specs: Sequence[Spec]
    ) -> tuple[list[list[Found]], Sequence[Tensor] | Tensor]:
        """The objects, and the pictures where their colours are to be looked at."""
        if not isinstance(self.detector, SelectiveDetector):
            return self.detector.detect(images), images
        return self.detector.detect_wanted(images, self._hints(specs)), images

    def _hints(self, specs: Sequence[Spec]) -> list[Wanted]:
        return [wanted(spec, self.thresholds, self.details) for spec in specs]

    def _batch(
        self, images: Tensor, specs: Sequence[Spec], rule: Rule[T]
    ) -> list[tuple[T, tuple[Seen, ...]]]:
        found, seen = self._detected(images, specs)
        kept = [kept_objects(f, s, self.thresholds) for f, s in zip(found, specs, strict=True)]
        asked = [(image, one) for image, spec, objects in zip(seen, specs, kept, strict=True)
                 for one in needs_color(spec, objects)]  # fmt: skip
        names, shares = self._colors(asked)
        size = images.shape[-1], images.shape[-2]
        return [
            (rule(spec, objects, lambda one: names[id(one)], self.thresholds, size),
             tuple(Seen(one, shares.get(id(one))) for group in objects.values() for one in group))
            for spec, objects in zip(specs, kept, strict=True)
        ]  # fmt: skip

    def _colors(
        self, asked: Sequence[tuple[Tensor, Found]]
    ) -> tuple[dict[int, str], dict[int, tuple[float, ...]]]:
        """Names and, of a classifier that tells them, probabilities of the objects' colours.

        By id: two objects may be equal in all but their masks.
        """
        keys = [id(one) for _, one in asked]
        if not isinstance(self.colors, ColorShares):
            return dict(zip(keys, self.colors.classify(asked), strict=True)), {}
        shares = self.colors.shares(asked)
        names = [COLORS[row.index(max(row))] for row in shares]
        return dict(zip(keys, names, strict=True)), dict(zip(keys, shares, strict=True))

    def self_test(self) -> None:
        """Judge golden pictures, by GenEval's rule: what can be damaged are the networks.

        Raises ScorerBroken, naming what is judged wrong.
        """
        plain = copy(self)
        plain.rule = "GenEval"
        check_verdicts(plain)

    def provenance(self) -> dict[str, Any]:
        return {"id": self.name, "sha256": self.weights, "rule": self.rule,
                "thresholds": asdict(self.thresholds),
                "preprocessing": {"detector": type(self.detector).__name__,
                                  "colors": "mask on #999, box, bicubic, centre square"},
                }  # fmt: skip
