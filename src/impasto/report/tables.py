"""What fails, and on what: tables of `summary.json` ready to be laid out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from impasto.bench.reasons import KINDS
from impasto.report.data import Run
from impasto.report.words import DASH, at_budget, quantity, size
from impasto.run.budget import Budgets, Entry
from impasto.spec import COLORS

__all__ = ["Cell", "Costs", "Failures", "Table", "at_cost", "class_table",
           "color_table", "confusion", "failures"]  # fmt: skip

HEATS = 5
"""Shades of a cell, `.heat-1` … in the style; 0 is none."""


@dataclass(frozen=True)
class Cell:
    """text: as shown. order: what a column is sorted by. heat: shade, 0 to HEATS.

    own: where a confusion is none, on the diagonal.
    """

    text: str
    order: float
    heat: int = 0
    own: bool = False


@dataclass(frozen=True)
class Table:
    """corner: heading of the rows' names. runs: those that have the columns each; () for none."""

    corner: str
    runs: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Failures:
    """kinds: the columns. tasks: (task, per run its cells)."""

    kinds: tuple[str, ...]
    tasks: tuple[tuple[str, tuple[tuple[Cell, ...], ...]], ...]


@dataclass(frozen=True)
class Costs:
    """Runs at equal cost. groups: rows of (budget, per run (score, perfect chooser's or ""))."""

    groups: tuple[tuple[tuple[str, tuple[tuple[str, str], ...]], ...], ...]
    notes: tuple[str, ...]


def at_cost(budgets: Budgets) -> Costs:
    """Equal pictures, then equal FLOPs; notes: what is lacking, each once."""
    samples = tuple((f"{size(k, 'picture')} drawn", tuple(map(_entry, row)))
                    for k, row in budgets.equal_samples.items())  # fmt: skip
    flops = tuple((quantity(spent, "FLOP"), tuple(map(_entry, row)))
                  for spent, row in budgets.equal_flops.items())  # fmt: skip
    rows = [*budgets.equal_samples.values(), *budgets.equal_flops.values()]
    notes = dict.fromkeys(entry.note for row in rows for entry in row if entry.note)
    return Costs((samples, flops), tuple(notes))


def _entry(entry: Entry) -> tuple[str, str]:
    perfect = "" if entry.perfect is None else f"any right {entry.perfect:.2f}"
    return at_budget(entry), perfect


def _count(number: int, most: int) -> Cell:
    return Cell(f"{number:,}" if number else "·", number, math.ceil(HEATS * number / most))


def failures(runs: Sequence[Run]) -> Failures:
    """Task × run × kind of failure; only kinds that occur. A picture may have several."""
    counts = [run.summary.get("failures", {}) for run in runs]
    every = [kinds for run in counts for kinds in run.values()]
    kinds = tuple(kind for kind in KINDS if any(kind in found for found in every))
    most = max((number for found in every for number in found.values()), default=1)
    return Failures(kinds, tuple(
        (task, tuple(tuple(_count(run.get(task, {}).get(kind, 0), most) for kind in kinds)
                     for run in counts))
        for task in _union(counts)
    ))  # fmt: skip


def _union(keyed: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(key for one in keyed for key in one))


def _share(row: Mapping[str, int] | None, key: str) -> Cell:
    """ "12 / 16", shaded by what is lacking; a dash where nothing was asked."""
    if row is None:
        return Cell(DASH, -1)
    share = row[key] / row["asked"]
    return Cell(f"{row[key]:,} / {row['asked']:,}", share, round(HEATS * (1 - share)))


def _shares(
    runs: Sequence[Run], key: str, corner: str, columns: Mapping[str, str], names: Sequence[str]
) -> Table:
    """A table of `summary.json` with "asked" and the keys in `columns` (key -> heading)."""
    tables = [run.summary.get(key, {}) for run in runs]
    labels = tuple(run.label for run in runs)
    return Table(corner, labels, tuple(columns.values()), tuple(
        (name, tuple(_share(table.get(name), column) for table in tables for column in columns))
        for name in names
    ))  # fmt: skip


def class_table(runs: Sequence[Run]) -> Table:
    """Class -> per run: enough of it found, and the whole picture right, of so many asked."""
    columns = {"found": "found", "correct": "picture right"}
    names = sorted(_union([run.summary.get("classes", {}) for run in runs]))
    return _shares(runs, "classes", "class", columns, names)


def color_table(runs: Sequence[Run]) -> Table:
    """Colour -> per run: enough of the class found, and so coloured, of so many asked."""
    names = [c for c in COLORS if any(c in run.summary.get("colors", {}) for run in runs)]
    return _shares(runs, "colors", "colour", {"found": "found", "right": "colour right"}, names)


def confusion(run: Run) -> Table:
    """Colour asked × colour seen -> objects, shaded by their share of the row."""
    counts = run.summary.get("color_confusion", {})
    seen = [c for c in COLORS if any(c in row for row in counts.values())]
    return Table("asked", (), tuple(seen), tuple(
        (asked, tuple(_seen(asked, color, row) for color in seen)) for asked, row in counts.items()
    ))  # fmt: skip


def _seen(asked: str, color: str, row: Mapping[str, int]) -> Cell:
    cell = _count(row.get(color, 0), sum(row.values()))
    return Cell(cell.text, cell.order, cell.heat, own=asked == color)
