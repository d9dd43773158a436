"""The summary's rows: every task, the overall score, prompts, and the second score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from impasto.report.bars import bar, forest, reach
from impasto.report.data import Run
from impasto.report.words import (
    am_of,
    change,
    digits,
    estimate,
    excludes_zero,
    interval_of,
    p_value,
)
from impasto.run.compare import Difference
from impasto.score.statistics import Interval

__all__ = ["Change", "Group", "Line", "Second", "axis", "groups", "second"]


@dataclass(frozen=True)
class Change:
    """A paired difference from the first run: its drawing, its text, whether it excludes zero.

    p: of a task, adjusted for their number, as text.
    """

    text: str
    clear: bool
    drawing: Markup
    p: str = ""


@dataclass(frozen=True)
class Line:
    """One run's score. count: "12 / 16" pictures or prompts, where that is the score."""

    run: int
    label: str
    text: str
    count: str
    drawing: Markup
    change: Change | None = None


@dataclass(frozen=True)
class Group:
    """The runs' scores in one task, or overall. kind: "task", "overall" or "prompts"."""

    name: str
    kind: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Second:
    """One run's second score and its difference from the first run's."""

    run: int
    label: str
    text: str
    change: Change | None


def axis(differences: Sequence[Difference]) -> float:
    """End of the axis that all differences in score are drawn on."""
    scores = [difference.score for difference in differences]
    return reach(interval for s in scores for interval in (s.overall, *s.tasks.values()))


def groups(runs: Sequence[Run], differences: Sequence[Difference]) -> list[Group]:
    """Tasks in the bench's order, overall, then shares of prompts with any / all right."""
    end = axis(differences)
    tasks = dict.fromkeys(task for run in runs for task in run.summary["tasks"])
    return [
        *(_task(runs, differences, task, end) for task in tasks),
        _overall(runs, differences, end),
        *_am(runs, differences, end),
        *_shares(runs),
    ]


def _change(interval: Interval, end: float, run: int, decimals: int = 2) -> Change:
    return Change(change(interval, decimals), excludes_zero(interval), forest(interval, end, run))


def _change_in(difference: Difference, task: str, end: float, run: int) -> Change:
    found = _change(difference.score.tasks[task], end, run)
    return replace(found, p=p_value(difference.holm[task]))


def _changes(intervals: Iterable[Interval], end: float, decimals: int = 2) -> list[Change | None]:
    """One per run; none for the first."""
    return [None, *(_change(interval, end, run, decimals)
                    for run, interval in enumerate(intervals, 1))]  # fmt: skip


def _line(number: int, run: Run, interval: Interval, count: str, by: Change | None = None) -> Line:
    return Line(number, run.label, estimate(interval), count, bar(interval, number), by)


def _scored(
    number: int, run: Run, score: Mapping[str, Any], count: str, by: Change | None
) -> Line:
    """`_line` of a score on the bench's own scale."""
    (low, high), interval = run.scale, interval_of(score)
    share = Interval(*((x - low) / (high - low) for x in interval))
    return replace(_line(number, run, interval, count, by), drawing=bar(share, number))


def _task(
    runs: Sequence[Run], differences: Sequence[Difference], task: str, end: float
) -> Group:
    changes = [None, *(_change_in(difference, task, end, number)
                       for number, difference in enumerate(differences, 1))]  # fmt: skip
    lines = []
    for number, (run, by) in enumerate(zip(runs, changes, strict=True)):
        if score := run.summary["tasks"].get(task):  # an incomplete set may lack a task
            right = f"{score['correct']:,} / " if "correct" in score else ""
            count = f"{right}{score['images']:,}"
            lines.append(_scored(number, run, score, count, by))
    return Group(task, "task", tuple(lines))


def _overall(runs: Sequence[Run], differences: Sequence[Difference], end: float) -> Group:
    changes = _changes((difference.score.overall for difference in differences), end)
    scores = [run.summary["overall"] for run in runs]
    lines = [_scored(number, run, score, "", by) for number, (run, score, by)
             in enumerate(zip(runs, scores, changes, strict=True))]  # fmt: skip
    labels = [score["label"] for score in scores]
    return Group(min(labels, key=len), "overall", tuple(lines))


def _am(runs: Sequence[Run], differences: Sequence[Difference], end: float) -> list[Group]:
    """Soft-TIFA's other mean; nothing on a bench of verdicts."""
    if not all("soft_tifa" in run.summary for run in runs):
        return []
    changes = _changes((difference.soft["am"].overall for difference in differences), end)
    lines = [_line(number, run, am_of(run.summary), "", by)
             for number, (run, by) in enumerate(zip(runs, changes, strict=True))]  # fmt: skip
    return [Group("Soft-TIFA AM", "overall", tuple(lines))]


def _shares(runs: Sequence[Run]) -> list[Group]:
    """Prompts with any and with all pictures right; of one picture each, that is the same.

    None where results are numbers.
    """
    if not all(run.verdicts for run in runs):
        return []
    most = max(run.summary["images_per_prompt"][1] for run in runs)
    if most == 1:
        return [_prompts(runs, "prompts right", all)]
    return [_prompts(runs, f"prompts, any of {most} right", any),
            _prompts(runs, f"prompts, all of {most} right", all)]  # fmt: skip


def _prompts(runs: Sequence[Run], name: str, rule: Callable[[Iterable[bool]], bool]) -> Group:
    lines = []
    for number, run in enumerate(runs):
        share, prompts = run.prompts_with(rule), run.summary["prompts"]
        count = f"{round(share.value * prompts):,} / {prompts:,}"
        lines.append(_line(number, run, share, count))
    return Group(name, "prompts", tuple(lines))


def second(runs: Sequence[Run], differences: Sequence[Difference]) -> list[Second]:
    """The second scorer's means over tasks, to as many decimals as its scale needs; [] of none."""
    means = [mean for run in runs if (mean := run.second_score()) is not None]
    if not means:
        return []
    decimals = digits(means[0].value)
    intervals = [one.second.overall for one in differences if one.second is not None]
    end = max((abs(x) for interval in intervals for x in interval), default=0.0) or 1.0
    changes = _changes(intervals, end, decimals)
    return [Second(number, run.label, estimate(mean, decimals), by) for number, (run, mean, by)
            in enumerate(zip(runs, means, changes, strict=True))]  # fmt: skip
