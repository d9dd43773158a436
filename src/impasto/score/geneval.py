"""GenEval's judge: a detector finds the objects, a classifier names colours, a rule decides.

The rule is `impasto.score.verdict`, the same whatever the networks: the small ones of the sticker
world, or the published Mask2Former and CLIP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Protocol

from torch import Tensor

from impasto.score.base import Found, Score, Scorer
from impasto.score.self_test import check_verdicts
from impasto.score.verdict import Thresholds, judge, kept_objects, needs_color
from impasto.spec import Spec

__all__ = ["ColorClassifier", "Detector", "GenEvalScorer"]

BATCH = 64
"""Pictures that the detector sees at once, at most."""


class Detector(Protocol):
    """Finds objects in pictures."""

    def detect(self, images: Tensor) -> list[list[Found]]:
        """All objects of each picture of (B, 3, H, W) in [0, 1], in any order."""


class ColorClassifier(Protocol):
    """Names colours of objects."""

    def classify(self, crops: Sequence[tuple[Tensor, Found]]) -> list[str]:
        """One of GenEval's ten colours for each (picture (3, H, W), object in it)."""


class GenEvalScorer(Scorer):
    """Value 1.0 where the picture shows all that its spec demands by GenEval's rule, else 0.0.

    name: for the record. weights: file or part -> sha256. thresholds: default GenEval's.
    """

    gives_verdict: ClassVar[bool] = True

    def __init__(
        self, detector: Detector, colors: ColorClassifier, thresholds: Thresholds | None = None,
        *, name: str = "geneval", weights: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.detector, self.colors = detector, colors
        self.thresholds = thresholds or Thresholds()
        self.name, self.weights = name, dict(weights or {})

    def score(self, images: Tensor, specs: Sequence[Spec]) -> list[Score]:
        """GenEval's verdict on picture i of (B, 3, H, W) in [0, 1] by spec i.

        Raises ValueError when they differ in number, or for a demand that GenEval's rule has no
        verdict on.
        """
        if len(images) != len(specs):
            raise ValueError(f"{len(images)} pictures for {len(specs)} specs; give one for each")
        starts = range(0, len(specs), BATCH)
        return [one for i in starts for one in self._batch(images[i : i + BATCH],
                                                           specs[i : i + BATCH])]  # fmt: skip

    def _batch(self, images: Tensor, specs: Sequence[Spec]) -> list[Score]:
        found = self.detector.detect(images)
        kept = [kept_objects(f, s, self.thresholds) for f, s in zip(found, specs, strict=True)]
        asked = [(image, one) for image, spec, objects in zip(images, specs, kept, strict=True)
                 for one in needs_color(spec, objects)]  # fmt: skip
        answers = self.colors.classify(asked)
        # By id: two objects may be equal in all but their masks.
        names = {id(one): name for (_, one), name in zip(asked, answers, strict=True)}
        return [judge(spec, objects, lambda one: names[id(one)], self.thresholds)
                for spec, objects in zip(specs, kept, strict=True)]  # fmt: skip

    def self_test(self) -> None:
        """Judge golden pictures. Raises ScorerBroken, naming what is judged wrong."""
        check_verdicts(self)

    def provenance(self) -> dict[str, Any]:
        return {"id": self.name, "sha256": self.weights, "rule": "GenEval",
                "thresholds": asdict(self.thresholds),
                "preprocessing": {"detector": type(self.detector).__name__,
                                  "colors": "mask on #999, box, bicubic, centre square"},
                }  # fmt: skip
