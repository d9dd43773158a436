"""Inline SVG: points with intervals upwards and a label each, on two axes with units.

Points differ in shape as well as in colour, and every one is named beside it. The figures are in
the table that the drawing stands below.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import NamedTuple

from markupsafe import Markup, escape

from impasto.report.bars import COLORS
from impasto.score.statistics import Interval

__all__ = ["Point", "scatter", "standalone", "ticks"]

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 50
"""Room around the plot."""
LINE, LETTER = 14, 6.4
"""Height of a label and of its letters' mean width, in the drawing's units."""
SHAPES = ("M-4 -4h8v8h-8z", "M0 -5.5L5.5 0L0 5.5L-5.5 0z", "M0 -5.5L5.5 4H-5.5z",
          "M0 5.5L5.5 -4H-5.5z", "M-5 -5L5 5M-5 5L5 -5", "M-6 0h12M0 -6v12")  # fmt: skip
Box = tuple[float, float, float, float]


class Point(NamedTuple):
    """name: its label. x: on the axis along. y: with its interval, on the one upwards."""

    name: str
    x: float
    y: Interval


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from below `low` to above `high`."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(k * power for k in (1, 2, 5, 10) if span / (k * power) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def scatter(points: Sequence[Point], along: str, upwards: str) -> Markup:
    """The drawing. along, upwards: the axes' titles, with units. The axis along begins at 0.
    Raises ValueError for no points."""
    if not points:
        raise ValueError("a plot needs at least one point")
    xs = ticks(0.0, max(point.x for point in points))
    ys = ticks(min(point.y.low for point in points), max(point.y.high for point in points))

    def right(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - xs[0]) / (xs[-1] - xs[0])

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - ys[0]) / (ys[-1] - ys[0])

    parts = [*_axes([(right(x), x) for x in xs], [(down(y), y) for y in ys], along, upwards)]
    places = [(right(point.x), down(point.y.value)) for point in points]
    labels = _labels(places, [point.name for point in points])
    for i, (point, (x, y), (left, top)) in enumerate(zip(points, places, labels, strict=True)):
        low, high = down(point.y.low), down(point.y.high)
        color = f"run-{i % COLORS}"
        parts.append(f'<path class="whisker {color}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
        shape = SHAPES[(i + i // COLORS) % len(SHAPES)]  # another for each use of a colour
        parts.append(f'<path class="point {color}" transform="translate({x:.1f} {y:.1f})" '
                     f'd="{shape}"/>')  # fmt: skip
        middle = top + LINE / 2
        if abs(middle - y) > LINE:
            near = left if left > x else left + LETTER * len(point.name)
            parts.append(f'<path class="leader" d="M{x:.1f} {y:.1f}L{near:.1f} {middle:.1f}"/>')
        parts.append(f'<text x="{left:.1f}" y="{middle + 4:.1f}">{escape(point.name)}</text>')
    name = escape(f"{upwards} against {along}; the figures are in the table")
    return Markup(f'<svg class="scatter" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
                  f'aria-label="{name}">{"".join(parts)}</svg>')  # fmt: skip


def standalone(drawing: Markup) -> str:
    """A drawing as a file of its own, in the page's colours, light or dark as the reader's are."""
    css = (resources.files("impasto.report") / "page.css").read_text(encoding="utf-8")
    colors = css[css.index(":root {") : css.index("* { box-sizing")]
    rules = re.findall(r"^\.scatter .*$", css, re.MULTILINE)
    style = "\n".join([colors.strip(), "rect { fill: var(--card); }", *rules])
    return str(drawing).replace(
        '<svg class="scatter"', '<svg xmlns="http://www.w3.org/2000/svg" class="scatter"', 1
    ).replace(">", f'><style>\n{style}\n</style><rect width="{WIDTH}" height="{HEIGHT}"/>', 1)


def _axes(
    xs: Sequence[tuple[float, float]], ys: Sequence[tuple[float, float]], along: str, upwards: str
) -> Iterator[str]:
    bottom, middle = HEIGHT - BOTTOM, (HEIGHT - BOTTOM + TOP) / 2
    for y, value in ys:
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}' \
              f'</text>'  # fmt: skip
    for x, value in xs:
        yield f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>'
        yield f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{value:g}' \
              f'</text>'  # fmt: skip
    yield (f'<text class="title" x="{(LEFT + WIDTH - RIGHT) / 2:.1f}" y="{HEIGHT - 8}" '
           f'text-anchor="middle">{escape(along)}</text>')  # fmt: skip
    yield (f'<text class="title" transform="translate(14 {middle:.1f}) rotate(-90)" '
           f'text-anchor="middle">{escape(upwards)}</text>')  # fmt: skip


def _labels(
    places: Sequence[tuple[float, float]], names: Sequence[str]
) -> list[tuple[float, float]]:
    """Left and top of each label: beside its point, moved up or down until it is over no other
    label and no point."""
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    found = []
    for (x, y), name in zip(places, names, strict=True):
        width = LETTER * len(name)
        boxes = [(left, y + shift - LINE / 2, left + width, y + shift + LINE / 2)
                 for far in range(HEIGHT // 4) for shift in ((4 * far, -4 * far) if far else (0,))
                 for left in (x + 10, x - 10 - width)]  # fmt: skip
        inside = [box for box in boxes if box[0] >= LEFT and box[2] <= WIDTH
                  and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM] or boxes[:1]  # fmt: skip
        box = next((box for box in inside if not any(_over(box, other) for other in taken)),
                   inside[0])  # fmt: skip
        taken.append(box)
        found.append(box[:2])
    return found


def _over(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
