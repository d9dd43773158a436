"""Edits of the sticker world judged without a language model: was it done, did the rest stay?

The instruction's truth is in its key (`impasto.world.suites`); the edited picture is looked at by
the sticker scorer's detector and colour classifier. With IoU of boxes and found objects above the
scorer's threshold:

    edit   what goes is gone from its place; what is new is there: class, colour where one is
           named, the old place (recolour, replace) or the relation that is asked for
    rest   every other object at its place (IoU >= 1/2) in its class and colour; no further ones;
           mean |difference| from the source <= 0.05 outside the boxes of what was edited

Correct where both hold. Impasto's own rule: comparable among themselves, not with GEdit's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from impasto.images import resized
from impasto.score.base import Found, Score, Scorer
from impasto.score.geneval import GenEvalScorer
from impasto.spec import Spec, relations
from impasto.world import Placed
from impasto.world.edits import Edit
from impasto.world.scenes import boxes_of
from impasto.world.suites import drawn, edit_of, sprites
from impasto.zoo.registry import SCORERS

__all__ = ["SAME_PLACE", "Sight", "StickerEditScorer", "difference", "iou", "sticker_edits"]

SAME_PLACE = 0.5
"""IoU from which on a found object stands at a place."""
NEW_SHAPE = 0.3
"""The same for what was put instead of something: another drawing fills its box otherwise."""
UNTOUCHED = 0.05
"""Mean difference of pixels that still counts as the same background: an autoencoder's is .02."""
MARGIN = 4
"""Pixels around a box that belong to what is in it: outlines, antialiasing."""

Box = tuple[float, float, float, float]


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2)."""
    w, h = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    both = max(w, 0.0) * max(h, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return both / (areas - both) if both else 0.0


def difference(image: Tensor, other: Tensor, boxes: Sequence[Sequence[float]]) -> float:
    """Mean |difference| of two pictures (3, H, W) outside the boxes; 0 where nothing is left."""
    outside = torch.ones(image.shape[-2:], dtype=torch.bool)
    for x1, y1, x2, y2 in boxes:
        outside[max(int(y1) - MARGIN, 0) : int(y2) + MARGIN + 1,
                max(int(x1) - MARGIN, 0) : int(x2) + MARGIN + 1] = False  # fmt: skip
    gap = (image - other).abs().mean(0)[outside]
    return float(gap.mean()) if len(gap) else 0.0


@dataclass
class Sight:
    """What the detector found in a picture (3, H, W); objects are taken out as they are explained.

    color_of: names an object's colour. left: what has not been explained yet, best first.
    """

    image: Tensor
    left: list[Found]
    color_of: Callable[[Found], str]

    @classmethod
    def of(cls, image: Tensor, objects: Sequence[Found], judge: GenEvalScorer) -> Sight:
        above = [one for one in objects if one.score > judge.thresholds.threshold]
        return cls(image, sorted(above, key=lambda one: -one.score),
                   lambda one: judge.colors.classify([(image, one)])[0])  # fmt: skip

    def take(self, cls: str, box: Sequence[float] | None = None, at_least: float = SAME_PLACE
             ) -> Found | None:  # fmt: skip
        """The class's object that fits the box best, or its likeliest anywhere; taken out."""
        group = [one for one in self.left if one.cls == cls]
        if box is not None:
            group = sorted((one for one in group if iou(one.box, box) >= at_least),
                           key=lambda one: -iou(one.box, box))  # fmt: skip
        if not group:
            return None
        self.left.remove(group[0])
        return group[0]


def wrong_color(thing: Placed, found: Found, sight: Sight) -> str:
    """GenEval's words for another colour than the thing's; "" for the right one or a natural."""
    if thing.color is None or (seen := sight.color_of(found)) == thing.color:
        return ""
    return f"expected {thing.color} {thing.cls}>=1, found 0 {thing.color}; and 1 {seen}"


@dataclass
class _Look:
    """One edited picture against its edit. edit, rest: what is wrong with either, a line each."""

    truth: Edit
    sight: Sight
    edit: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)
    touched: list[Box] = field(default_factory=list)

    def judged(self, source: Tensor) -> Score:
        scene = self.truth.source
        places = dict(zip(scene.objects, scene.boxes(sprites()), strict=True))
        anchor = self._kept(places)
        self.touched += [places[thing] for thing in self.truth.gone]
        for thing in self.truth.new:
            self._new(thing, anchor)
        self._leftover(places)
        gap = difference(self.sight.image, source, self.touched)
        if gap > UNTOUCHED:
            self.rest.append(f"changed: the rest of the picture, by {gap:.2f} on average")
        scores = {"edit": float(not self.edit), "rest": float(not self.rest)}
        correct = not (self.edit or self.rest)
        return Score(value=float(correct), correct=correct,
                     reason="\n".join([*self.edit, *self.rest]), scores=scores)  # fmt: skip

    def _kept(self, places: dict[Placed, Box]) -> Box | None:
        """Looks for what had to stay; the box of what the instruction refers to."""
        beside, anchor = self.truth.beside, None
        for i, thing in enumerate(self.truth.source.objects):
            if thing in self.truth.gone:
                continue
            found = self.sight.take(thing.cls, places[thing])
            if found is None:
                self.rest.append(f"changed: {thing.cls} is not at its place")
            elif wrong := wrong_color(thing, found, self.sight):
                self.rest.append(f"changed: {wrong}")
            if beside is not None and i == beside[1]:
                anchor = found.box if found else places[thing]
        return anchor

    def _new(self, thing: Placed, anchor: Box | None) -> None:
        bound = bool(self.truth.gone) and anchor is None
        place = tuple(boxes_of([thing], sprites())[0].tolist()) if bound else None
        found = self.sight.take(thing.cls, place, NEW_SHAPE)
        if found is None:
            self.edit.append(f"expected {thing.cls}>=1, found 0")
            return
        self.touched.append(found.box)
        if wrong := wrong_color(thing, found, self.sight):
            self.edit.append(wrong)
        if anchor is not None and self.truth.beside is not None:
            relation, held = self.truth.beside[0], relations(found.box, anchor)
            if relation not in held:
                self.edit.append(f"expected {thing.cls} {relation} target, found "
                                 f"{' and '.join(held)} target")  # fmt: skip

    def _leftover(self, places: dict[Placed, Box]) -> None:
        """What is there and explained by nothing: still to go, or not asked for."""
        for one in self.sight.left:
            old = any(one.cls == thing.cls and iou(one.box, places[thing]) >= SAME_PLACE
                      for thing in self.truth.gone)  # fmt: skip
            if old:
                self.edit.append(f"expected {one.cls}<1, found 1")
            else:
                self.rest.append(f"changed: a further {one.cls}")


class StickerEditScorer(Scorer):
    """Correct where the edit was done and the rest stayed. Parts: "edit", "rest", each 0 or 1.

    judge: whose detector and colour classifier look.
    """

    gives_verdict: ClassVar[bool] = True
    by_key: ClassVar[bool] = True

    def __init__(self, judge: GenEvalScorer) -> None:
        self.judge = judge

    def score(self, images: Tensor, specs: Sequence[Spec]) -> list[Score]:
        """Pictures of another size are brought to the source's. Raises ValueError for a spec
        whose key names no edit."""
        edits = [edit_of(spec.key) for spec in specs]
        fitted = torch.stack([resized(image, edit.source.size, edit.source.size)
                              for image, edit in zip(images, edits, strict=True)])  # fmt: skip
        seen = self.judge.detector.detect(fitted)
        return [_Look(edit, Sight.of(image, objects, self.judge)).judged(drawn(edit.source))
                for image, edit, objects in zip(fitted, edits, seen, strict=True)]  # fmt: skip

    def self_test(self) -> None:
        self.judge.self_test()

    def provenance(self) -> dict[str, Any]:
        record = self.judge.provenance()
        kept = ("sha256", "thresholds", "preprocessing")
        return {"id": "sticker-edits", "rule": "edit done, rest kept; impasto's own",
                "iou": [SAME_PLACE, NEW_SHAPE], "untouched": UNTOUCHED,
                **{key: record[key] for key in kept}}  # fmt: skip


@SCORERS.register("sticker-edits")
def sticker_edits(*, device: str = "cpu") -> StickerEditScorer:
    """Whether an edit of a sticker picture was done and the rest stayed, by detector and CLIP.

    Raises FileNotFoundError when the weights are not in this installation.
    """
    from impasto.score.sticker import sticker

    return StickerEditScorer(sticker(device=device))
