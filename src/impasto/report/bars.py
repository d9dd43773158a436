"""Inline SVG: bars with or without an interval, a difference with its own on an axis through zero,
and curves.

Widths stretch with their column (no aspect ratio is kept); strokes do not scale. Colours come
from the page's style by class. The numbers stand beside every drawing, so it is hidden from
screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from impasto.score.statistics import Interval

__all__ = ["COLORS", "bar", "curves", "forest", "level", "reach"]

COLORS = 6
"""How many runs have a colour of their own (`.run-0` … in the style); then they repeat."""
WIDTH, HEIGHT = 200, 20


def _svg(kind: str, *parts: str) -> Markup:
    # Only numbers are formatted into the parts, so nothing in them can be markup.
    return Markup(f'<svg class="{kind}" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" '
                  f'aria-hidden="true" focusable="false">{"".join(parts)}</svg>')  # fmt: skip


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="{kind}" d="M{x1:.2f} {y1:g}L{x2:.2f} {y2:g}"/>'


def _whisker(low: float, high: float) -> str:
    """The interval: a line with an end mark on each side, in pixels of the drawing."""
    ends = (_line("whisker", x, 6, x, HEIGHT - 6) for x in (low, high))
    return _line("whisker", low, HEIGHT / 2, high, HEIGHT / 2) + "".join(ends)


def bar(interval: Interval, run: int) -> Markup:
    """A score in [0, 1] as a bar in the colour of run number `run`, its interval as a whisker."""
    score, low, high = (WIDTH * x for x in interval)
    grid = (_line("grid", WIDTH * x, 0, WIDTH * x, HEIGHT) for x in (0, 0.25, 0.5, 0.75, 1))
    rect = f'<rect class="bar run-{run % COLORS}" y="4" width="{score:.2f}" height="12"/>'
    return _svg("bars", *grid, rect, _whisker(low, high))


def reach(intervals: Iterable[Interval]) -> float:
    """End of an axis through zero that holds all the intervals: a whole number of tenths."""
    furthest = max((abs(x) for interval in intervals for x in interval), default=0.0)
    return max(math.ceil(10 * furthest - 1e-9), 1) / 10


def forest(interval: Interval, end: float, run: int) -> Markup:
    """A difference as a dot with whiskers, on an axis from -end to end."""
    x, low, high = (WIDTH / 2 * (1 + value / end) for value in interval)
    # A line of no length with round ends is a dot that stays round when the drawing stretches.
    dot = f'<path class="dot run-{run % COLORS}" d="M{x:.2f} {HEIGHT // 2}h0"/>'
    return _svg("forest", _line("zero", WIDTH / 2, 0, WIDTH / 2, HEIGHT), _whisker(low, high), dot)


def level(share: float, run: int) -> Markup:
    """A share in [0, 1] as a bar in the colour of run number `run`."""
    grid = (_line("grid", WIDTH * x, 0, WIDTH * x, HEIGHT) for x in (0, 0.5, 1))
    rect = f'<rect class="bar run-{run % COLORS}" y="4" width="{WIDTH * share:.2f}" height="12"/>'
    return _svg("bars", *grid, rect)


def curves(lines: Sequence[tuple[Sequence[tuple[float, float]], int]]) -> Markup:
    """Curves through points (x, y) in [0, 1], y upwards, each in the colour of a run's number."""
    tall = 100
    grid = [_line("grid", 0, tall * y, WIDTH, tall * y) for y in (0, 0.5, 1)]
    paths = []
    for points, run in lines:
        d = "L".join(f"{WIDTH * x:.2f} {tall * (1 - y):.2f}" for x, y in points)
        paths.append(f'<path class="curve run-{run % COLORS}" d="M{d}"/>')
    return Markup(f'<svg class="curves" viewBox="0 0 {WIDTH} {tall}" preserveAspectRatio="none" '
                  f'aria-hidden="true" focusable="false">{"".join([*grid, *paths])}</svg>'
                  )  # fmt: skip
