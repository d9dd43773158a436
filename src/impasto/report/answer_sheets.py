"""The tables of the step `ask`: what each judge answers right, by kind of question."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from impasto.report.sheet import Sheet, Values, changed, scored
from impasto.report.words import size

__all__ = ["answers"]


def answers(table: Values) -> list[Sheet]:
    """Right answers of each judge; where there are several, their differences from the base."""
    base, *others = table["rows"]
    tasks = list(base["score"]["tasks"])
    names = ("all", *(task.replace("_", " ") for task in tasks))
    rows = tuple((row["name"], *_cells(row["score"], tasks),
                  f"{row['unreadable']:,} of {row['questions']:,}")
                 for row in table["rows"])  # fmt: skip
    found = [Sheet(table["title"], ("judge", *names, "unreadable"), rows, (
        f"Share of right answers to {size(base['questions'], 'question')} of "
        f"{table['bench']['name']}; all: the mean over kinds; 95 % intervals over questions. What "
        f"cannot be read is not right.",
    ))]  # fmt: skip
    if others:
        lines = tuple((row["name"], *_cells(row["difference"], tasks, changed)) for row in others)
        found.append(Sheet(f"{table['title']}: difference from {table['base']}",
                           ("judge", *names), lines,
                           ("Paired by question; * the interval excludes zero.",)))  # fmt: skip
    return found


def _cells(
    values: Values, tasks: list[str], words: Callable[[Sequence[float] | None], str] = scored
) -> list[str]:
    return [words(values["overall"]), *(words(values["tasks"][task]) for task in tasks)]
