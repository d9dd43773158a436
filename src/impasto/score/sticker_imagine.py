"""Compositions of the sticker world by Imagine-Bench's arithmetic, without a language model.

Each item takes one object out of each reference and puts them together on the first one's
background (`impasto.world.references`). What the sticker scorer's networks find in the picture:

    fantasy    10 * share of what is asked that holds: each object there, the relation where there
               is one, nothing else
    identity   10 * share of the objects that look as in their reference: class and colour
    aesthetic  10 * max(0, 1 - gap / 0.2), gap: mean |difference| from that background beside the
               objects
    value      0.8 min(fantasy, identity) + 0.2 aesthetic

Impasto's own marks: comparable among themselves, not with Imagine-Bench's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from impasto.images import resized
from impasto.score.base import Found, Score, Scorer
from impasto.score.geneval import GenEvalScorer
from impasto.score.imagine import PARTS, picture_score
from impasto.score.sticker_edits import Sight, difference, wrong_color
from impasto.spec import Spec, relations
from impasto.world import Placed
from impasto.world.references import Composition
from impasto.world.suites import composition_of, drawn
from impasto.zoo.registry import SCORERS

__all__ = ["FADED", "StickerImagineScorer", "sticker_imagine"]

FADED = 0.2
"""Mean difference of pixels at which nothing of the background is left."""


def _found(things: Sequence[Placed], sight: Sight) -> list[Found | None]:
    """What was found of each thing: of several of its class, one of its colour."""
    found = []
    for thing in things:
        group = [one for one in sight.left if one.cls == thing.cls]
        alike = [one for one in group if not wrong_color(thing, one, sight)]
        best = next(iter(alike or group), None)
        if best is not None:
            sight.left.remove(best)
        found.append(best)
    return found


def _marks(truth: Composition, sight: Sight, background: Tensor) -> Score:
    things = truth.target.objects
    found = _found(things, sight)
    wrong = [f"expected {thing.cls}>=1, found 0"
             for thing, one in zip(things, found, strict=True) if one is None]  # fmt: skip
    asked = len(things) + 1
    if truth.relation is not None:
        asked += 1
        held = relations(found[0].box, found[1].box) if found[0] and found[1] else ()
        if truth.relation not in held:
            wrong.append(f"expected {things[0].cls} {truth.relation} target, found "
                         f"{' and '.join(held)} target")  # fmt: skip
    if sight.left:
        names = ", ".join(sorted({one.cls for one in sight.left}))
        wrong.append(f"changed: further objects ({names})")
    strange = [wrong_color(thing, one, sight)
               for thing, one in zip(things, found, strict=True) if one is not None]  # fmt: skip
    gap = difference(sight.image, background, [one.box for one in [*found, *sight.left] if one])
    marks = (10 * (asked - len(wrong)) / asked, 10 * strange.count("") / len(things),
             10 * max(0.0, 1 - gap / FADED))  # fmt: skip
    return Score(value=picture_score(*marks), reason="\n".join([*wrong, *filter(None, strange)]),
                 scores=dict(zip(PARTS, marks, strict=True)))  # fmt: skip


class StickerImagineScorer(Scorer):
    """Value 0 to 10, of the marks "fantasy", "identity" and "aesthetic".

    judge: whose detector and colour classifier look.
    """

    by_key: ClassVar[bool] = True

    def __init__(self, judge: GenEvalScorer) -> None:
        self.judge = judge

    def score(self, images: Tensor, specs: Sequence[Spec]) -> list[Score]:
        """Pictures of another size are brought to the references'. Raises ValueError for a spec
        whose key names no composition."""
        truths = [composition_of(spec.key) for spec in specs]
        fitted = torch.stack([resized(image, truth.target.size, truth.target.size)
                              for image, truth in zip(images, truths, strict=True)])  # fmt: skip
        seen = self.judge.detector.detect(fitted)
        return [_marks(truth, Sight.of(image, objects, self.judge),
                       drawn(truth.references[0], objects=False))
                for image, truth, objects in zip(fitted, truths, seen, strict=True)]  # fmt: skip

    def self_test(self) -> None:
        self.judge.self_test()

    def provenance(self) -> dict[str, Any]:
        record = self.judge.provenance()
        kept = ("sha256", "thresholds", "preprocessing")
        return {"id": "sticker-imagine", "rule": "Imagine-Bench's over impasto's own marks",
                "faded": FADED, **{key: record[key] for key in kept}}  # fmt: skip


@SCORERS.register("sticker-imagine")
def sticker_imagine(*, device: str = "cpu") -> StickerImagineScorer:
    """Marks of compositions of sticker pictures, by detector and CLIP.

    Raises FileNotFoundError when the weights are not in this installation.
    """
    from impasto.score.sticker import sticker

    return StickerImagineScorer(sticker(device=device))
