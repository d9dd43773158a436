"""Scenes: which objects stand where, exact by construction.

`compose` lays out a spec by rejection over many candidate layouts at once: boxes come from the
drawings' rotated outlines, so counts, regions, relative sizes and GenEval's position formula
(`impasto.spec.relations`) hold for the picture, not only for the intention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from impasto.spec import COLORS, Item, Spec
from impasto.world.sprites import NATURAL, Sprites

__all__ = ["Background", "Placed", "Scene", "boxes_of", "compose"]

SIZE = 128
"""Side of the canvas in pixels; positions and sizes below are in these pixels."""
RANGES = {1: (44, 100), 2: (34, 60), 3: (30, 50), 4: (28, 44)}
"""Object count -> range of the objects' long side; more objects use (24, 36)."""
LAYOUTS = 48
MAX_COVER = 0.06
"""Largest share of the smaller box that another box may cover."""
RELATION_MARGIN = 0.14
"""Relations are laid out with this threshold instead of GenEval's 0.1: room for a detector."""

AXES = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
"""Relation -> axis, and sign of the offset along it."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Placed:
    """One object. color: GenEval's name, None = natural. cx, cy, size: pixels; angle: radians."""

    cls: str
    color: str | None
    drawing: int
    cx: float
    cy: float
    size: float
    angle: float = 0.0
    flip: bool = False

    @property
    def color_index(self) -> int:
        return NATURAL if self.color is None else COLORS.index(self.color)


@dataclass(frozen=True)
class Background:
    """kind: "plain", "gradient", "stripes", "dots" or "noise", between two colours in [0, 1].

    angle: direction in radians; period: pixels of one repeat; phase: in [0, 1).
    """

    kind: str
    a: tuple[float, float, float]
    b: tuple[float, float, float]
    angle: float = 0.0
    period: float = 16.0
    phase: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A picture as data. objects: in depth order, the last is in front. size: side in pixels."""

    spec: Spec
    objects: tuple[Placed, ...]
    background: Background
    caption: str = ""
    size: int = SIZE

    def boxes(self, sprites: Sprites) -> list[tuple[float, float, float, float]]:
        """Tight boxes (x1, y1, x2, y2) of the objects as if nothing covered them."""
        return [tuple(box) for box in boxes_of(self.objects, sprites).tolist()]  # type: ignore[misc]

    def captioned(self, caption: str) -> Scene:
        return replace(self, caption=caption)


def _extents(hull: Floats, angle: float, flip: bool) -> Floats:
    """(4,) tight box of a turned outline about its centre, in units of its long side."""
    x, y = (-hull[:, 0] if flip else hull[:, 0]), hull[:, 1]
    c, s = np.cos(angle), np.sin(angle)
    u, v = c * x - s * y, s * x + c * y
    return np.array([u.min(), v.min(), u.max(), v.max()])


def boxes_of(objects: Sequence[Placed], sprites: Sprites) -> Floats:
    """(N, 4) tight boxes in pixels."""
    rows = [
        _extents(sprites.hulls[o.drawing], o.angle, o.flip) * o.size
        + np.array([o.cx, o.cy, o.cx, o.cy])
        for o in objects
    ]
    return np.array(rows).reshape(-1, 4)


def background(rng: np.random.Generator) -> Background:
    """A quiet background: light more often than dark, never as loud as an object."""
    kind = str(rng.choice(["plain", "gradient", "stripes", "dots", "noise"],
                          p=[0.4, 0.25, 0.12, 0.11, 0.12]))  # fmt: skip
    level = rng.uniform(0.65, 0.95) if rng.random() < 0.85 else rng.uniform(0.35, 0.6)
    a = np.clip(level + rng.uniform(-0.05, 0.05, 3), 0, 1)
    spread = 0.15 if kind == "gradient" else 0.05
    b = np.clip(a + rng.uniform(-spread, spread, 3), 0, 1)
    return Background(kind, tuple(a.tolist()), tuple(b.tolist()), float(rng.uniform(0, np.pi)),
                      float(rng.uniform(8, 28)), float(rng.random()))  # fmt: skip


def _members(spec: Spec) -> list[tuple[int, Item]]:
    """One (index into include, item) per object to draw."""
    return [(i, item) for i, item in enumerate(spec.include) for _ in range(item.count)]


def _base_sizes(members: Sequence[tuple[int, Item]], rng: np.random.Generator) -> Floats:
    """Long sides in pixels, one per object; "larger" and "smaller" differ by at least 1.7."""
    low, high = RANGES.get(len(members), (24, 36))
    sizes = rng.uniform(low, high, len(members))
    for k, (_, item) in enumerate(members):
        if item.size == "larger":
            sizes[k] = rng.uniform(52, 62)
        elif item.size == "smaller":
            sizes[k] = rng.uniform(22, 30)
    return sizes


def _uncovered(boxes: Floats) -> NDArray[np.bool_]:
    """(L,) whether no box of layout l, (L, N, 4), covers much of another."""
    low = np.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = np.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    share = shared / np.minimum(area[:, :, None], area[:, None, :])
    n = boxes.shape[1]
    share[:, np.arange(n), np.arange(n)] = 0
    return (share <= MAX_COVER).all((1, 2))


def _related(boxes: Floats, relation: str, of: Sequence[int], to: Sequence[int]
             ) -> NDArray[np.bool_]:  # fmt: skip
    """(L,) GenEval's position formula for every object in `of` to every object in `to`."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    extent = boxes[..., 2:] - boxes[..., :2]
    offset = centre[:, of][:, :, None] - centre[:, to][:, None]
    reach = RELATION_MARGIN * (extent[:, of][:, :, None] + extent[:, to][:, None])
    r = np.sign(offset) * np.clip(np.abs(offset) - reach, 0, None)
    d = r / np.maximum(np.linalg.norm(offset, axis=-1, keepdims=True), 1e-9)
    axis, sign = AXES[relation]
    return (sign * d[..., axis] > 0.55).all((1, 2))


def _in_region(boxes: Floats, region: str, of: Sequence[int], size: int) -> NDArray[np.bool_]:
    """(L,) whether the boxes of all of `of` have their middles well inside that half."""
    axis, low, high = _half(region)
    centre = (boxes[:, of, axis] + boxes[:, of, axis + 2]) / (2 * size)
    return np.asarray(((centre > low) & (centre < high)).all(1))


def _half(region: str) -> tuple[int, float, float]:
    """Axis of a half of the picture, and its share of it: 8 % away from the middle."""
    low, high = (0.0, 0.42) if region in ("left", "above") else (0.58, 1.0)
    return (0 if region in ("left", "right") else 1), low, high


def _valid(boxes: Floats, spec: Spec, groups: list[list[int]], size: int) -> NDArray[np.bool_]:
    good = _uncovered(boxes)
    for i, item in enumerate(spec.include):
        if item.position is not None:
            good &= _related(boxes, item.position[0], groups[i], groups[item.position[1]])
        if item.region is not None:
            good &= _in_region(boxes, item.region, groups[i], size)
    return good


def _layouts(
    members: Sequence[tuple[int, Item]], extents: Floats, rng: np.random.Generator, size: int
) -> Floats:
    """(L, N, 2) centres, uniform where the box stays on the canvas and in its item's region."""
    low, high = 2 - extents[:, :2], size - 2 - extents[:, 2:]
    off = (extents[:, :2] + extents[:, 2:]) / 2
    for k, (_, item) in enumerate(members):
        if item.region is not None:
            axis, start, end = _half(item.region)
            low[k, axis] = max(low[k, axis], start * size - off[k, axis])
            high[k, axis] = min(high[k, axis], end * size - off[k, axis])
    return low + rng.random((LAYOUTS, len(extents), 2)) * np.maximum(high - low, 0)


def _placed(spec: Spec, rng: np.random.Generator, sprites: Sprites) -> list[Placed]:
    """The objects without their places: drawing, colour, size, turn."""
    members = _members(spec)
    sizes = _base_sizes(members, rng)
    objects = []
    for (_, item), side in zip(members, sizes, strict=True):
        if item.cls not in sprites.of_class:
            raise ValueError(f"this art style has no drawing of {item.cls!r}")
        drawing = int(rng.choice(sprites.of_class[item.cls]))
        angle = float(np.clip(rng.normal(0, 0.08), -0.25, 0.25))
        flip = bool(rng.random() < 0.5) and sprites.mirrors[drawing]
        objects.append(Placed(item.cls, item.color, drawing, 0, 0, float(side), angle, flip))
    return objects


def compose(spec: Spec, rng: np.random.Generator, sprites: Sprites, size: int = SIZE) -> Scene:
    """A scene that shows `spec`: every demand holds, nothing else is drawn.

    Deterministic in (spec, rng state, sprites). Raises ValueError when the spec's demands
    contradict each other or need more room than the canvas has.
    """
    objects = _placed(spec, rng, sprites)
    members = _members(spec)
    groups = [[k for k, (i, _) in enumerate(members) if i == g] for g in range(len(spec.include))]
    for _ in range(40):
        extents = boxes_of(objects, sprites)
        centres = _layouts(members, extents, rng, size)
        boxes = extents[None] + np.concatenate([centres, centres], -1)
        good = np.flatnonzero(_valid(boxes, spec, groups, size))
        if len(good):
            x = centres[good[0]]
            placed = [replace(o, cx=float(x[k, 0]), cy=float(x[k, 1]))
                      for k, o in enumerate(objects)]  # fmt: skip
            order = rng.permutation(len(placed))
            return Scene(spec, tuple(placed[k] for k in order), background(rng), size=size)
        objects = [replace(o, size=max(o.size * 0.94, 18.0)) for o in objects]
    raise ValueError(f"no layout of {len(objects)} objects shows {spec.prompt!r} on {size} px")
