"""Runs against each other, picture by picture: the same prompts, seeds and judges, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto.bench import IncompleteError, Record, outcomes, read_results
from impasto.run.directory import RunDirectory, read_json
from impasto.run.judge import read_second
from impasto.run.provenance import SettingsDiffer, differing
from impasto.score.statistics import Estimates, Outcome, paired_difference

__all__ = ["Difference", "check_comparable", "compare"]

SAME = ("bench", "texts", "rewriter", "scorer", "second", "seed")
"""What two runs must share for the difference to be the model's or the search's."""


@dataclass(frozen=True)
class Difference:
    """Run b minus run a, paired by prompt and seed; `second` is of the second scorer's values.

    paired_by: "prompt and seed", or "prompt" when the pictures of one were drawn elsewhere.
    """

    a: Path
    b: Path
    verdicts: Estimates
    second: Estimates
    paired_by: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: a, b, paired_by, overall, tasks, second; each [value, low, high]."""
        return {
            "a": str(self.a),
            "b": str(self.b),
            "paired_by": self.paired_by,
            "overall": list(self.verdicts.overall),
            "tasks": {task: list(v) for task, v in self.verdicts.tasks.items()},
            "second": list(self.second.overall),
        }


def check_comparable(a: RunDirectory, b: RunDirectory) -> str:
    """What the two can be paired by. Raises SettingsDiffer naming each key that differs.

    Pictures drawn elsewhere have no seed here: they pair with any run's by prompt and sample.
    """
    first, second = ({key: run.record.get(key) for key in SAME} for run in (a, b))
    by_seed = first["seed"] is not None and second["seed"] is not None
    if not by_seed:
        first["seed"] = second["seed"] = None
    found = list(differing(first, second))
    if found:
        lines = [f"  {key}: {str(x)[:60]!r} and {str(y)[:60]!r}" for key, x, y in found[:8]]
        raise SettingsDiffer(f"{a.path} and {b.path} cannot be compared, they differ in more than "
                             "model, search and sampling:\n" + "\n".join(lines))  # fmt: skip
    return "prompt and seed" if by_seed else "prompt"


def compare(paths: Sequence[str | Path]) -> list[Difference]:
    """The differences of each further run from the first.

    Raises ValueError for fewer than two, SettingsDiffer when they are not comparable and
    IncompleteError for a run that is not finished.
    """
    if len(paths) < 2:
        raise ValueError("a comparison needs at least two run folders")
    a, *others = [RunDirectory.existing(path) for path in paths]
    pairings = [check_comparable(a, b) for b in others]
    return [_difference(a, b, pairing) for b, pairing in zip(others, pairings, strict=True)]


def _difference(a: RunDirectory, b: RunDirectory, paired_by: str) -> Difference:
    (first, first_second), (second, second_second) = _values(a), _values(b)
    return Difference(a.path, b.path, paired_difference(first, second),
                      paired_difference(first_second, second_second), paired_by)  # fmt: skip


def _values(run: RunDirectory) -> tuple[list[Outcome], list[Outcome]]:
    """Verdicts and second scores of a finished, complete run."""
    if not run.summary.is_file():
        raise IncompleteError(0, 1, [str(run.summary)], what=f"summary of {run.path}")
    coverage = read_json(run.summary)["coverage"]
    if coverage["images"] < coverage["of"]:
        raise IncompleteError(coverage["images"], coverage["of"], [str(run.path)])
    records = read_results(run.results)
    values = read_second(run.second)
    return outcomes(records), [_second(record, values[record.filename]) for record in records]


def _second(record: Record, value: float) -> Outcome:
    return Outcome(record.tag, record.metadata, record.sample, value)
