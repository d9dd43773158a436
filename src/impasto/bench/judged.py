"""Judgements that may be missing: counted, and never a number.

    score over those judged;  below full coverage only where that is asked for
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from impasto.bench.layout import IncompleteError
from impasto.score.statistics import Interval

__all__ = ["answered", "interval"]

K = TypeVar("K")
V = TypeVar("V")


def answered(judged: Mapping[K, V | None], expected: int, allow_incomplete: bool
             ) -> tuple[dict[K, V], dict[str, int]]:  # fmt: skip
    """What has a value, and the coverage: judged, unreadable, of.

    judged: picture -> value, None where the judge's answer could not be read. Raises
    IncompleteError below `expected` unless `allow_incomplete`, and ValueError where nothing is
    left.
    """
    values = {key: value for key, value in judged.items() if value is not None}
    unreadable = len(judged) - len(values)
    if len(values) < expected and not allow_incomplete:
        failed = [str(key) for key, value in judged.items() if value is None]
        raise IncompleteError(len(values), expected, failed or ["pictures not judged"],
                              what="judged pictures")  # fmt: skip
    if not values:
        raise ValueError("no answer of the judge could be read: there is nothing to sum up")
    return values, {"judged": len(values), "unreadable": unreadable, "of": expected}


def interval(value: Interval) -> dict[str, Any]:
    """JSON-ready: score, low, high."""
    return {"score": value.value, "low": value.low, "high": value.high}
