"""Scale schedules: the sizes of the K token maps of a picture, from 1 x 1 to its full size.

One template a shape (height over width), for about a million pixels at stride 16. A smaller
picture uses the first entries of the same template: 7 for 0.06M pixels, 10 for 0.25M, 12 for 0.6M,
13 for 1M. A picture's pixels are the stride times the last size. Shapes wider than high are those
higher than wide with the sides swapped.

Source: Han et al. 2024 (Infinity, arXiv 2412.04431), and the official repository's templates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

__all__ = ["LEVELS", "TEMPLATES", "Schedule", "Size", "Sizes", "nearest_ratio", "own_schedule",
           "schedule", "tokens"]  # fmt: skip

Size = tuple[int, int]
"""(height, width) of a token map."""
Sizes = tuple[Size, ...]


class Schedule(NamedTuple):
    """sizes: of the K scales. grid: the last size of the whole template, on which rotary positions
    lie, also those of smaller pictures."""

    sizes: Sizes
    grid: Size


LEVELS = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
"""Pixels of a picture -> entries of its template."""

_HIGH = {
    1.0: "1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64",
    1.25: "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
    1.333: "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
    1.5: "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
    1.75: "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
    2.0: "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45",
    2.5: "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
    3.0: "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
}
_WIDE = {1.25: 0.8, 1.333: 0.75, 1.5: 0.666, 1.75: 0.571, 2.0: 0.5, 2.5: 0.4, 3.0: 0.333}


def _sizes(text: str) -> Sizes:
    return tuple((int(h), int(w)) for h, _, w in (pair.partition("x") for pair in text.split()))


TEMPLATES: dict[float, Sizes] = {ratio: _sizes(text) for ratio, text in _HIGH.items()} | {
    wide: tuple((w, h) for h, w in _sizes(_HIGH[high])) for high, wide in _WIDE.items()
}
"""Height over width -> the 13 sizes."""


def nearest_ratio(ratio: float, known: Iterable[float] = TEMPLATES) -> float:
    """The one of `known` nearest to a picture's height over width."""
    return min(known, key=lambda own: abs(own - ratio))


def schedule(ratio: float, scales: int) -> Schedule:
    """The first `scales` sizes of a template. Raises ValueError for others than there are."""
    if ratio not in TEMPLATES:
        raise ValueError(f"no schedule for height/width {ratio!r}; there are "
                         f"{', '.join(map(str, sorted(TEMPLATES)))}")  # fmt: skip
    if not 1 <= scales <= 13:
        raise ValueError(f"a schedule has 1 to 13 scales, given {scales!r}")
    return Schedule(TEMPLATES[ratio][:scales], TEMPLATES[ratio][-1])


def own_schedule(sizes: Sequence[Sequence[int]]) -> Schedule:
    """The schedule of a model that follows no template: its last size is the grid.

    Raises ValueError unless it begins with 1 x 1 and no side shrinks.
    """
    plan = tuple((int(h), int(w)) for h, w in sizes)
    grows = all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(plan))
    if not plan or plan[0] != (1, 1) or not grows:
        raise ValueError(f"sizes must begin with (1, 1) and never shrink, given {plan}")
    return Schedule(plan, plan[-1])


def tokens(sizes: Sequence[Size]) -> int:
    """Tokens of all scales together."""
    return sum(h * w for h, w in sizes)
