"""What runs cost, line by line; a dash where it is not known (pictures drawn elsewhere)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from impasto.report.data import Run
from impasto.report.words import DASH, quantity

__all__ = ["COSTS", "TERMINAL", "costs"]


def _seconds(number: float | None) -> str:
    if number is None:
        return DASH
    return f"{number:,.0f} s" if number >= 100 else f"{number:.3g} s"


def _phase(phase: str) -> Callable[[Run], str]:
    return lambda run: _seconds(run.cost.get("seconds", {}).get(phase))


def _per_picture(run: Run) -> str:
    seconds = run.cost.get("seconds", {}).get("generate")
    return DASH if seconds is None else _seconds(seconds / run.summary["images"])


def _flops_per_picture(run: Run) -> str:
    flops = run.cost.get("flops")
    return quantity(None if flops is None else flops / run.summary["images"], "FLOP")


def _count(key: str) -> Callable[[Run], str]:
    def text(run: Run) -> str:
        number = run.cost.get(key)
        return DASH if number is None else f"{number:,}"

    return text


def _memory(place: str) -> Callable[[Run], str]:
    return lambda run: quantity(run.cost.get("peak_memory_bytes", {}).get(place), "B")


def _resumed(run: Run) -> str:
    return {True: "yes", False: "no"}.get(run.cost.get("resumed"), DASH)  # type: ignore[arg-type]


COSTS: dict[str, Callable[[Run], str]] = {
    "time to draw": _phase("generate"),
    "time to judge": _phase("score"),
    "time to draw, per picture kept": _per_picture,
    "FLOPs per picture kept": _flops_per_picture,
    "FLOPs in all": lambda run: quantity(run.cost.get("flops"), "FLOP"),
    "pictures drawn, candidates included": _count("images"),
    "row-steps": _count("row_steps"),
    "tokens drawn": _count("tokens"),
    "pictures decoded, previews included": _count("decodes"),
    "pictures rewarded by the search": _count("reward_calls"),
    "pictures clustered by the search": _count("feature_calls"),
    "FLOPs of rewards and clustering": lambda run: quantity(run.cost.get("reward_flops"), "FLOP"),
    "peak memory, host": _memory("host"),
    "peak memory, GPU": _memory("device"),
    "device": lambda run: run.cost.get("device", DASH),
    "interrupted and resumed": _resumed,
}
"""Line -> a run's entry in it."""

TERMINAL = {
    "seconds, generate": "time to draw",
    "seconds, score": "time to judge",
    "FLOPs per picture": "FLOPs per picture kept",
    "FLOPs in all": "FLOPs in all",
    "peak memory, host": "peak memory, host",
    "peak memory, GPU": "peak memory, GPU",
}
"""Line of the terminal's table -> line above."""


def costs(
    runs: Sequence[Run], lines: Mapping[str, Callable[[Run], str]]
) -> dict[str, list[str]]:  # fmt: skip
    """Line -> each run's entry. Where no run drew its pictures, what drawing costs is left out."""
    rows = {line: [text(run) for run in runs] for line, text in lines.items()}
    drawn = any(run.drawn for run in runs)
    return {line: texts for line, texts in rows.items() if drawn or set(texts) != {DASH}}
