"""GenEval's summary, and what its users ask for beside it.

    task score = correct pictures / pictures;  overall = plain mean of the task scores

Intervals: 95 %, bootstrap over prompts (`impasto.score.statistics`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from impasto.bench.reasons import KINDS, Failure, read_reason
from impasto.bench.results import Record, outcomes
from impasto.score.statistics import Interval, bootstrap
from impasto.spec import COLORS, Item

__all__ = ["TASKS", "overall_label", "summarise", "summary_text"]

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's six: its overall score is the mean over all of them."""


def overall_label(tasks: Sequence[str], whole: Sequence[str] = TASKS) -> str:
    """What a mean over `tasks` may be called: "overall" for exactly the `whole` bench's."""
    if sorted(tasks) == sorted(whole):
        return "overall"
    return f"mean of {len(tasks)} task{'s' * (len(tasks) != 1)} ({', '.join(tasks)})"


def _by(records: Sequence[Record], key: str) -> dict[str, list[bool]]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for record in records:
        groups[getattr(record, key)].append(bool(record.correct))
    return groups


def _refuse_none(records: Sequence[Record]) -> None:
    if not records:
        raise ValueError("no results: there is nothing to sum up")


def summary_text(records: Sequence[Record]) -> str:
    """The lines that GenEval's summary script prints, in its words; ends with a line end.

    One line is added when the mean is not over GenEval's six tasks: which ones it is over.
    """
    _refuse_none(records)
    prompts, tasks = _by(records, "metadata"), _by(records, "tag")
    lines = [
        "Summary",
        "=======",
        f"Total images: {len(records)}",
        f"Total prompts: {len(prompts)}",
        f"% correct images: {np.mean([r.correct for r in records]):.2%}",
        f"% correct prompts: {np.mean([any(v) for v in prompts.values()]):.2%}",
        "",
        "Task breakdown",
        "==============",
        *(f"{t:<16} = {np.mean(v):.2%} ({sum(v)} / {len(v)})" for t, v in tasks.items()),
        "",
        f"Overall score (avg. over tasks): {np.mean([np.mean(v) for v in tasks.values()]):.5f}",
    ]
    if (label := overall_label(list(tasks))) != "overall":
        lines.append(f"Not GenEval's overall score: {label}")
    return "\n".join(lines) + "\n"


def summarise(records: Sequence[Record], tasks: Sequence[str] = TASKS) -> dict[str, Any]:
    """Scores with intervals, and tables of what failed; JSON-ready.

    tasks: all that the bench has; a mean over others is not called its overall score.

    images, prompts: numbers. correct_images: share of pictures. any_correct, all_correct: share
    of prompts with at least one / only correct pictures. images_per_prompt: [fewest, most].
    tasks: tag -> score, low, high, correct, images. overall: label, score, low, high, tasks.
    failures, classes, colors, color_confusion: see `failure_histogram`, `class_table`,
    `color_table`, `color_confusion`. Raises ValueError when there are no records.
    """
    _refuse_none(records)
    prompts, by_task = _by(records, "metadata"), _by(records, "tag")
    estimates = bootstrap(outcomes(records))
    sizes = [len(v) for v in prompts.values()]
    return {
        "images": len(records),
        "prompts": len(prompts),
        "images_per_prompt": [min(sizes), max(sizes)],
        "correct_images": float(np.mean([r.correct for r in records])),
        "any_correct": float(np.mean([any(v) for v in prompts.values()])),
        "all_correct": float(np.mean([all(v) for v in prompts.values()])),
        "tasks": {
            task: _score(estimates.tasks[task]) | {"correct": sum(v), "images": len(v)}
            for task, v in by_task.items()
        },
        "overall": {"label": overall_label(list(by_task), tasks), **_score(estimates.overall),
                    "tasks": list(by_task)},
        "failures": failure_histogram(records),
        "classes": class_table(records),
        "colors": color_table(records),
        "color_confusion": color_confusion(records),
    }  # fmt: skip


def _score(interval: Interval) -> dict[str, float]:
    return {"score": interval.value, "low": interval.low, "high": interval.high}


def _failures(record: Record) -> list[Failure]:
    return [read_reason(line) for line in record.reason.split("\n") if line]


def failure_histogram(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Task -> kind of failure -> how often. A picture with two failures counts twice."""
    counts = {record.tag: Counter[str]() for record in records}
    for record in records:
        counts[record.tag].update(failure.kind for failure in _failures(record))
    return {task: {k: c[k] for k in KINDS if c[k]} for task, c in counts.items()}


def _found(item: Item, failures: Sequence[Failure]) -> bool:
    """Whether as many objects as the item asks for were found, whatever their colour or place."""
    return not any(f.kind in ("missing", "too few") and (f.cls, f.n) == (item.cls, item.count)
                   for f in failures)  # fmt: skip


def _wrong_color(item: Item, failures: Sequence[Failure]) -> Failure | None:
    wanted = "wrong color", item.color, item.cls, item.count
    return next((f for f in failures if (f.kind, f.color, f.cls, f.n) == wanted), None)


def class_table(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Class -> asked (demands for it), found (enough of it), correct (whole pictures right)."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        failures = _failures(record)
        for item in record.spec.include:
            found = _found(item, failures)
            table[item.cls].update(asked=1, found=int(found), correct=int(bool(record.correct)))
    return {cls: dict(table[cls]) for cls in sorted(table)}


def color_table(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Color -> asked (demands for it), found (enough of the class), right (and so coloured)."""
    table: dict[str, Counter[str]] = {color: Counter() for color in COLORS}
    for record in records:
        failures = _failures(record)
        for item in record.spec.include:
            if item.color is not None:
                found = _found(item, failures)
                right = found and _wrong_color(item, failures) is None
                table[item.color].update(asked=1, found=int(found), right=int(right))
    return {color: dict(row) for color, row in table.items() if row}


def color_confusion(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Color asked -> color seen -> objects; only objects whose class was found enough times."""
    table: dict[str, Counter[str]] = {color: Counter() for color in COLORS}
    for record in records:
        failures = _failures(record)
        for item in record.spec.include:
            if item.color is not None and _found(item, failures):
                wrong = _wrong_color(item, failures)
                table[item.color].update(wrong.seen if wrong else {item.color: item.count})
    return {a: {s: row[s] for s in COLORS if row[s]} for a, row in table.items() if row}
