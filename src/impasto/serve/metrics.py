"""Counters, in the text format that Prometheus reads."""

from __future__ import annotations

import threading
from collections import Counter

__all__ = ["Metrics"]

HELP = {
    "impasto_requests_total": "Answers, by path and status.",
    "impasto_pictures_total": "Pictures rated.",
    "impasto_batches_total": "Times that the scorer was asked.",
    "impasto_failures_total": "Times that the scorer failed.",
    "impasto_scoring_seconds_total": "Seconds spent on decoding and scoring.",
}


class Metrics:
    """Sums by name and labels; any thread may add."""

    def __init__(self) -> None:
        self._sums: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str, value: float = 1, **labels: object) -> None:
        """Add to a sum of `HELP`."""
        inside = ",".join(f'{key}="{label}"' for key, label in labels.items())
        with self._lock:
            self._sums[name, inside] += value  # type: ignore[assignment]

    def text(self, **gauges: float) -> str:
        """All sums, and `gauges` of this moment."""
        with self._lock:
            sums = dict(self._sums)
        lines: list[str] = []
        for name, words in HELP.items():
            lines += [f"# HELP {name} {words}", f"# TYPE {name} counter"]
            lines += [f"{name}{{{inside}}} {value:g}" if inside else f"{name} {value:g}"
                      for (other, inside), value in sorted(sums.items())
                      if other == name]  # fmt: skip
        for name, value in gauges.items():
            lines += [f"# TYPE {name} gauge", f"{name} {value:g}"]
        return "\n".join(lines) + "\n"
