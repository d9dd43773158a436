"""The comparison in plain text, for the terminal."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from impasto.report.costs import COSTS, TERMINAL, costs
from impasto.report.data import Run, check_differences, read_runs
from impasto.report.words import (
    DASH,
    am_of,
    at_budget,
    change,
    compared_by,
    digits,
    directions,
    estimate,
    excludes_zero,
    interval_of,
    not_independent,
    p_value,
    plan_text,
    quantity,
    rewriting,
)
from impasto.run.budget import Budgets, Entry
from impasto.run.compare import Difference
from impasto.score.power import Power
from impasto.score.statistics import Interval

__all__ = ["comparison_table"]

WIDTH = 100
HEADING = 22
"""Longest line of a column's heading: not wider than a difference below it."""


def comparison_table(
    runs: Sequence[Path], differences: Sequence[Difference], budgets: Budgets | None = None,
    plans: Sequence[Power] = (),
) -> str:  # fmt: skip
    """Tasks × runs with 95 % intervals and paired differences, then second score and cost.

    budgets: also the runs at equal pictures and equal FLOPs. plans: also how many prompts show a
    difference; as `impasto.run` gives both for these runs. About 100 columns wide, without colour
    codes or a final line end. Raises ValueError for folders that are no runs or differences that
    are not theirs, IncompleteError for an unfinished run.
    """
    read = read_runs(runs)
    check_differences(read, differences)
    lines = _lines(_table(read, differences))
    if budgets is not None and budgets.equal_samples:
        lines += [*_lines(_at_budgets(read, budgets)), *_budget_notes(budgets), ""]
    return "\n".join([*lines, *_notes(read, differences), *_plans(read, plans)])


def _at_budgets(runs: Sequence[Run], budgets: Budgets) -> Table:
    """Equal pictures, then equal FLOPs; a perfect chooser's score beside a run without search."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("equal cost, for each picture kept")
    for run in runs:
        table.add_column(Text(_wrapped(run.label)), justify="right")
    for k, row in budgets.equal_samples.items():
        table.add_row(f"{k} picture{'s' * (k != 1)} drawn", *map(_cell, row))
    table.add_row()
    for flops, row in budgets.equal_flops.items():
        table.add_row(quantity(flops, "FLOP"), *map(_cell, row))
    return table


def _cell(entry: Entry) -> Text:
    perfect = "" if entry.perfect is None else f"\nany right {entry.perfect:.2f}"
    return Text(at_budget(entry) + perfect)


def _budget_notes(budgets: Budgets) -> list[str]:
    """What is lacking, each once."""
    rows = [*budgets.equal_samples.values(), *budgets.equal_flops.values()]
    notes = dict.fromkeys(entry.note for row in rows for entry in row if entry.note)
    return [line for note in notes for line in textwrap.wrap(f"{note}.", WIDTH)]


def _plans(runs: Sequence[Run], plans: Sequence[Power]) -> list[str]:
    names = [run.label for run in runs[1:]] if len(plans) > 1 else [""]
    return [line for plan, name in zip(plans, names, strict=bool(plans))
            for line in textwrap.wrap(plan_text(plan, name), WIDTH)]  # fmt: skip


def _lines(table: Table) -> list[str]:
    """The table's lines, as wide as it needs to be and no less than WIDTH."""
    text = io.StringIO()
    console = Console(file=text, width=10_000, color_system=None, force_terminal=False)
    console.width = max(WIDTH, console.measure(table).maximum)
    console.print(table)
    lines = [line.rstrip() for line in text.getvalue().split("\n")]
    return [*"\n".join(lines).strip("\n").split("\n"), ""]


def _table(runs: Sequence[Run], differences: Sequence[Difference]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task")
    for lines in [*([run.label] for run in runs), *_headings(runs)]:
        table.add_column(Text("\n".join(map(_wrapped, lines))), justify="right")
    for _ in differences:
        table.add_column("p", justify="right")
    stacked = len(runs) + len(differences) > 3
    for row in [*_scores(runs, differences), [], *_below(runs, differences)]:
        table.add_row(*(Text(cell.replace(" [", "\n[") if stacked else cell) for cell in row))
    return table


def _wrapped(line: str) -> str:
    return textwrap.fill(line, HEADING, break_on_hyphens=False)


def _headings(runs: Sequence[Run]) -> list[list[str]]:
    return [[run.label, f"− {runs[0].label}"] for run in runs[1:]]


def _changes(intervals: Sequence[Interval], decimals: int = 2) -> list[str]:
    """Differences; those whose interval excludes zero are starred."""
    return [change(i, decimals) + ("*" if excludes_zero(i) else " ") for i in intervals]


def _scores(runs: Sequence[Run], differences: Sequence[Difference]) -> list[list[str]]:
    tasks = list(dict.fromkeys(task for run in runs for task in run.summary["tasks"]))
    rows = [
        [task, *(_score(run, task) for run in runs),
         *_changes([difference.score.tasks[task] for difference in differences]),
         *(p_value(difference.holm[task]) for difference in differences)]
        for task in tasks
    ]  # fmt: skip
    overall = [estimate(interval_of(run.summary["overall"])) for run in runs]
    changes = _changes([difference.score.overall for difference in differences])
    return [*rows, [_overall(tasks, runs[0]), *overall, *changes], *_am(runs, differences)]


def _am(runs: Sequence[Run], differences: Sequence[Difference]) -> list[list[str]]:
    """Soft-TIFA's other mean, below GM; nothing on a bench of verdicts."""
    if not all("soft_tifa" in run.summary for run in runs):
        return []
    scores = [estimate(am_of(run.summary)) for run in runs]
    changes = _changes([difference.soft["am"].overall for difference in differences])
    return [["Soft-TIFA AM", *scores, *changes]]


def _overall(tasks: Sequence[str], run: Run) -> str:
    """ "overall", or over how many tasks the mean is; which, the rows above say."""
    label: str = run.summary["overall"]["label"]
    return label.partition(" (")[0]


def _score(run: Run, task: str) -> str:
    """A task's score; a dash where an incomplete set has none of its pictures."""
    score = run.summary["tasks"].get(task)
    return DASH if score is None else estimate(interval_of(score))


def _below(runs: Sequence[Run], differences: Sequence[Difference]) -> list[list[str]]:
    """The second score, then the costs."""
    second = _second(runs, differences)
    entries = costs(runs, {line: COSTS[name] for line, name in TERMINAL.items()})
    kept = [[line, *texts, *("" for _ in differences)] for line, texts in entries.items()
            if set(texts) != {DASH} or "GPU" not in line]
    return [second, *kept] if second else kept


def _second(runs: Sequence[Run], differences: Sequence[Difference]) -> list[str]:
    """The second score's row; [] where the runs have none."""
    seconds = [mean for run in runs if (mean := run.second_score()) is not None]
    if not seconds:
        return []
    decimals = digits(seconds[0].value)
    changes = _changes([d.second.overall for d in differences if d.second is not None], decimals)
    return ["second score", *(estimate(i, decimals) for i in seconds), *changes]


def _notes(runs: Sequence[Run], differences: Sequence[Difference]) -> list[str]:
    """What the numbers are, and what must be known to believe them."""
    bench, scorer = (runs[0].record[key]["name"] for key in ("bench", "scorer"))
    second = (runs[0].record["second"] or {}).get("name", "")
    what = "verdicts" if runs[0].verdicts else "scores"
    also = f", second score by {second}" if second else ""
    notes = [f"{bench}; {what} by {scorer}{also}; 95 % intervals over prompts."]
    if differences:
        paired = differences[0].paired_by
        notes.append(f"Differences are paired by {paired}; * the interval excludes zero. p: no "
                     f"difference in this task, adjusted for the number of tasks (Holm).")
    notes += [f"{run.label}: {line}." for run in runs for line in run.summary.get("also", ())]
    notes += [*rewriting(runs), compared_by(runs, differences)]
    notes += [f"Incomplete: {run.label} has {run.coverage}." for run in runs if run.coverage]
    notes += [not_independent(run.label, run.record, role)
              for run in runs for role in ("scorer", "second")]  # fmt: skip
    for run, difference in zip(runs[1:], differences, strict=True):
        notes += directions(runs[0].label, run.label, difference, (scorer, second))
    return [line for note in notes for line in textwrap.wrap(note, WIDTH)]
