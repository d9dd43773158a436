"""What a prompt demands, as data: objects, counts, colours, positions.

The vocabulary and the relation formula are GenEval's (Ghosh, Hajishirzi, Schmidt 2023):

    c = centre, d = (width, height) of a box;  o = c_A - c_B
    r = sign(o) * max(|o| - 0.1 * (d_A + d_B), 0)            per axis
    (dx, dy) = r / ||o||_2                                   the norm of the un-shrunk offset
    A left of B: dx < -0.5;  right of: dx > 0.5;  above: dy < -0.5;  below: dy > 0.5
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "CLASSES",
    "COLORS",
    "NUMBER_WORDS",
    "RELATIONS",
    "Item",
    "Spec",
    "article",
    "plural",
    "relations",
]

CLASSES: tuple[str, ...] = tuple(
    """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
    fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
    bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard,
    sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle,
    wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
    hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink,
    refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush""".replace(
        "\n    ", " "
    ).split(", ")
)
"""GenEval's 80 classes in detector order: COCO's, with three renamed."""

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
)  # fmt: skip

Box = Sequence[float]
"""Corners (x1, y1, x2, y2) in pixels, y downwards; x2 and y2 are exclusive."""


def article(word: str) -> str:
    """`word` with GenEval's indefinite article: "an" before a, e, i, o, u."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def plural(word: str) -> str:
    """GenEval's plural: + "es" after s, else + "s" (so: benchs, knifes, skises)."""
    return word + ("es" if word.endswith("s") else "s")


def relations(a: Box, b: Box, threshold: float = 0.1) -> tuple[str, ...]:
    """The relations in which box `a` stands to box `b`; none, one or two of `RELATIONS`.

    Source: GenEval's `relative_position`; `threshold` is its position threshold.
    """
    offset = [(a[i] + a[i + 2] - b[i] - b[i + 2]) / 2 for i in (0, 1)]
    size = [(a[i + 2] - a[i]) + (b[i + 2] - b[i]) for i in (0, 1)]
    r = [
        math.copysign(max(abs(o) - threshold * d, 0.0), o)
        for o, d in zip(offset, size, strict=True)
    ]
    if all(abs(v) < 1e-3 for v in r):
        return ()
    dx, dy = (v / math.hypot(*offset) for v in r)
    holds = (dx < -0.5, dx > 0.5, dy < -0.5, dy > 0.5)
    return tuple(name for name, yes in zip(RELATIONS, holds, strict=True) if yes)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One demand: `count` objects of class `cls`, maybe of one colour, maybe placed.

    position: (relation, index into `Spec.include` of the object it refers to), as GenEval.
    region, size: GenEval++'s demands ("left", "larger"); None in GenEval.
    """

    cls: str
    count: int = 1
    color: str | None = None
    position: tuple[str, int] | None = None
    region: str | None = None
    size: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Keys and key order of GenEval's metadata; absent demands are left out."""
        values: dict[str, Any] = {"class": self.cls, "count": self.count}
        for key in ("color", "size", "region"):
            if getattr(self, key) is not None:
                values[key] = getattr(self, key)
        if self.position is not None:
            values["position"] = list(self.position)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Item:
        """The inverse of `to_dict`. Raises ValueError on a key that no demand has."""
        known = {"class", "count", "color", "position", "region", "size"}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown key(s) {unknown} in an item; allowed: {sorted(known)}")
        position = values.get("position")
        return cls(
            cls=values["class"],
            count=int(values.get("count", 1)),
            color=values.get("color"),
            position=(position[0], int(position[1])) if position else None,
            region=values.get("region"),
            size=values.get("size"),
        )


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A prompt with its demands: all of `include`, and none of `exclude` reached.

    key: the item's own name in its bench, where two items may have the same words (an edit's
    instruction, a question); "" in GenEval.
    """

    tag: str
    include: tuple[Item, ...]
    prompt: str
    exclude: tuple[Item, ...] = ()
    key: str = ""

    def to_dict(self) -> dict[str, Any]:
        """GenEval's metadata: keys tag, include, [exclude], prompt, [key], in that order."""
        values: dict[str, Any] = {
            "tag": self.tag,
            "include": [item.to_dict() for item in self.include],
        }
        if self.exclude:
            values["exclude"] = [item.to_dict() for item in self.exclude]
        return values | {"prompt": self.prompt} | ({"key": self.key} if self.key else {})

    def to_json(self) -> str:
        """One line of `evaluation_metadata.jsonl`, byte for byte."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Spec:
        """The inverse of `to_dict`."""
        return cls(
            tag=values["tag"],
            include=tuple(Item.from_dict(item) for item in values["include"]),
            exclude=tuple(Item.from_dict(item) for item in values.get("exclude", ())),
            prompt=values["prompt"],
            key=values.get("key", ""),
        )
