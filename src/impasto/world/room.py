"""Where one more object fits among others that stay where they are.

Two objects may share at most MAX_COVER of the smaller one's box, as in composed scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from impasto.spec import Box, relations
from impasto.world.scenes import MAX_COVER, RELATION_MARGIN, Placed, boxes_of
from impasto.world.sprites import Sprites

__all__ = ["BESIDE", "NoRoomError", "Room", "beside"]

SMALLEST = 18.0
"""Least long side, in pixels, that an object is shrunk to where room is short."""
BESIDE = {"left of": "to the left of", "right of": "to the right of", "above": "above",
          "below": "below"}  # fmt: skip
"""Relation -> how it is said in a sentence."""
PLACES = 64

Accept = Callable[[Box], bool]


class NoRoomError(ValueError):
    """There is no place for an object that leaves the others visible."""


def beside(relation: str, box: Box) -> Accept:
    """Accepts boxes that stand in `relation` to `box`, with room to spare."""
    return lambda mine: relation in relations(mine, box, RELATION_MARGIN)


def _anywhere(box: Box) -> bool:
    return True


@dataclass(frozen=True)
class Room:
    """A canvas of `size` pixels on which `others` stand."""

    others: Sequence[Placed]
    size: int
    sprites: Sprites

    def free(self, box: NDArray[np.float64]) -> bool:
        """Whether `box` (4,) lies on the canvas and shares little with every other box."""
        others = boxes_of(self.others, self.sprites)
        low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
        shared = np.clip(high - low, 0, None).prod(-1)
        area = np.minimum((others[:, 2:] - others[:, :2]).prod(-1), (box[2:] - box[:2]).prod())
        inside = box.min() >= 0 and box.max() <= self.size
        return bool(inside and (shared <= MAX_COVER * area).all())

    def settled(self, thing: Placed, rng: np.random.Generator, accept: Accept = _anywhere,
                smallest: float = SMALLEST) -> Placed:  # fmt: skip
        """`thing` at a random free place whose box `accept` takes; smaller where there is none.

        Raises NoRoomError when not even `smallest` (pixels of its long side) finds a place.
        """
        extents = boxes_of([replace(thing, cx=0.0, cy=0.0)], self.sprites)[0]
        low, high = 2 - extents[:2], self.size - 2 - extents[2:]
        for share in rng.random((PLACES, 2)):
            cx, cy = (low + share * np.maximum(high - low, 0)).tolist()
            box = extents + np.array([cx, cy, cx, cy])
            if accept(tuple(box)) and self.free(box):
                return replace(thing, cx=cx, cy=cy)
        if thing.size <= smallest:
            raise NoRoomError(f"no room for another {thing.cls}")
        smaller = replace(thing, size=max(0.85 * thing.size, smallest))
        return self.settled(smaller, rng, accept, smallest)

    def fitted(self, thing: Placed) -> Placed:
        """`thing` where it is, smaller where it would cover others. Raises NoRoomError."""
        while not self.free(boxes_of([thing], self.sprites)[0]):
            if thing.size <= SMALLEST:
                raise NoRoomError(f"no room for a {thing.cls} in the place of another object")
            thing = replace(thing, size=max(0.9 * thing.size, SMALLEST))
        return thing
