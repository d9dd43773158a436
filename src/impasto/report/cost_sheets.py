"""The table of the step `costs`, and the score against memory and against seconds."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from impasto.report.scatter import Point, scatter
from impasto.report.sheet import Sheet, Values, changed, numbered, scored
from impasto.report.words import DASH, quantity, size
from impasto.score.statistics import Interval

__all__ = ["costs"]

COLUMNS: dict[str, Callable[[Values], str]] = {
    "parameters": lambda row: _whole(row["parameters"]),
    "weights": lambda row: quantity(row["bytes"], "B"),
    "a forward": lambda row: quantity(row["forward"], "FLOP"),
    "a picture": lambda row: quantity(row["cost"]["flops"], "FLOP"),
    "s a picture": lambda row: numbered(row["seconds"]),
    "trained by": lambda row: ", ".join(step["kind"] for step in row["training"]["steps"]) or DASH,
    "pictures seen": lambda row: _whole(row["training"]["images"]),
    "training": lambda row: quantity(row["training"]["flops"], "FLOP"),
    "of the host's": lambda row: _share(row["training"]["share"]),
}
PLOTS = {"memory": ("bytes", 1e6, "transformer's weights (MB)"),
         "seconds": ("seconds", 1.0, "drawing a picture (seconds)")}  # fmt: skip
"""What the score is plotted against: a row's key, what of it is one, the axis's title."""


def _whole(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.3g} %"


def costs(table: Values) -> list[Sheet]:
    rows, base, bench = table["rows"], table["base"], table["bench"]
    lines = tuple((row["name"], scored(row["score"]), changed(row["difference"]),
                   *(say(row) for say in COLUMNS.values())) for row in rows)  # fmt: skip
    devices = sorted({name for row in rows for name in row["devices"]})
    return [Sheet(
        table["title"], ("model", "score", f"difference from {base}", *COLUMNS), lines, (
            f"{bench['name']}: {size(bench['prompts'], 'prompt')}, "
            f"{size(table['seeds'], 'seed')}; verdicts by {table['scorer']['name']}; 95 % "
            f"intervals over prompts; differences paired, * the interval excludes zero.",
            "Of the transformer: parameters (quantised weights as many as they stand for), bytes "
            "of weights (2 for a number that is not quantised), FLOPs of one pass. A picture: "
            "FLOPs and seconds of drawing one that is kept, with all that was drawn for it, on "
            f"{', '.join(devices)}.",
            "Training: what was trained since the host, by training.json; FLOPs at most, three "
            "passes a picture and one of a teacher, with nothing taken off for what is frozen; "
            f"of the host's: share of that of {base}, by the record it ships with.",
        ), tuple(_plot(table, key, one, along) for key, one, along in PLOTS.values()
                 if any(row[key] is not None for row in rows)),
    )]  # fmt: skip


def _plot(table: Values, key: str, one: float, along: str) -> tuple[str, Markup]:
    points = [Point(row["name"], row[key] / one, Interval(*row["score"]))
              for row in table["rows"] if row[key] is not None]  # fmt: skip
    title = f"score of {table['bench']['name']} (95 % interval)"
    return f"Score against {along}", scatter(points, along, title)
