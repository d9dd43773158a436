"""A table ready to be laid out, and how its figures are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from impasto.report.words import DASH, change, estimate, excludes_zero
from impasto.score.statistics import Interval

__all__ = ["Sheet", "Values", "changed", "numbered", "percented", "scored"]

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Sheet:
    """A table ready to be laid out; the first column names the rows. notes: sentences below.
    figures: titles and drawings, below these on a page."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    figures: tuple[tuple[str, Markup], ...] = ()


def scored(values: Sequence[float] | None, decimals: int = 3) -> str:
    return DASH if values is None else estimate(Interval(*values), decimals)


def changed(values: Sequence[float] | None, decimals: int = 3) -> str:
    """A difference, starred where its interval excludes zero."""
    if values is None:
        return DASH
    interval = Interval(*values)
    return change(interval, decimals) + ("*" if excludes_zero(interval) else "")


def percented(values: Sequence[float] | None) -> str:
    """ "+8.7 % [+6.1, +11.2]". """
    if values is None:
        return DASH
    value, low, high = (f"{100 * x:+z.1f}" for x in values)
    return f"{value} % [{low}, {high}]"


def numbered(value: float | None) -> str:
    return DASH if value is None else f"{value:,.4g}"
