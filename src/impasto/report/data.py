"""Finished run folders as the report reads them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto.bench import IncompleteError, Record, read_results
from impasto.report.labels import labels
from impasto.run.compare import Difference
from impasto.run.directory import RunDirectory, read_json
from impasto.run.judge import read_second
from impasto.run.seen import View, read_seen
from impasto.score.statistics import Interval, Outcome, bootstrap

__all__ = ["Run", "check_differences", "read_runs"]


@dataclass(frozen=True)
class Run:
    """One finished run.

    label: its short name beside the others. record, summary, cost: its `run.json`, `summary.json`
    and `cost.json` ({} without one). records: the results, one per picture. second: the second
    scorer's value by the picture's file name, {} where the run has no second scorer; seen: what
    the results' scorer saw, by the same ({} for a run judged before that was kept).
    """

    folder: RunDirectory
    label: str
    record: dict[str, Any]
    summary: dict[str, Any]
    cost: dict[str, Any]
    records: tuple[Record, ...]
    second: dict[str, float]
    seen: dict[str, View]

    @property
    def drawn(self) -> bool:
        """Whether the run drew its own pictures, and so can tell how."""
        return self.record["search"] is not None

    @property
    def reward(self) -> str:
        """The name of what its search was rewarded by, "" without one."""
        reward = (self.record["search"] or {}).get("reward") or {}
        return str(reward.get("name", ""))

    @property
    def coverage(self) -> str:
        """ "11 of 12 pictures" for an incomplete set, else ""."""
        done, of = (self.summary["coverage"][key] for key in ("images", "of"))
        return f"{done:,} of {of:,} pictures" if done < of else ""

    @property
    def verdicts(self) -> bool:
        """Whether the results are right or wrong; else some are numbers. What could not be read
        is neither."""
        return all(record.correct is not None or record.value is None for record in self.records)

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest score of the bench."""
        low, high = self.summary.get("scale", (0.0, 1.0))
        return low, high

    def second_score(self) -> Interval | None:
        """Mean of the second scorer's values over tasks, with its interval over prompts."""
        if not self.second:
            return None
        values = [Outcome(r.tag, r.metadata, r.sample, self.second[r.filename])
                  for r in self.records]  # fmt: skip
        return bootstrap(values).overall

    def doubts(self) -> dict[str, float]:
        """How far the second scorer stands from each verdict, 0 to 1, by file name.

        With r, the share of the run's other pictures that have a lower second score (and half of
        the equal ones): 1 - r of a picture judged right, r of one judged wrong. {} without
        verdicts or second scores.
        """
        if not (self.second and self.verdicts):
            return {}
        values = sorted(self.second[record.filename] for record in self.records)
        others = len(values) - 1
        rank = {v: (bisect_left(values, v) + bisect_right(values, v) - 1) / 2 / others
                if others else 0.5 for v in set(values)}  # fmt: skip
        places = {record: rank[self.second[record.filename]] for record in self.records}
        return {r.filename: 1 - place if r.correct else place for r, place in places.items()
                if r.correct is not None}  # fmt: skip

    def prompts_with(self, rule: Callable[[Iterable[bool]], bool]) -> Interval:
        """Share of prompts whose verdicts fulfil `rule` (any, all), with its interval."""
        verdicts: dict[str, list[bool]] = {}
        for record in self.records:
            if record.correct is not None:
                verdicts.setdefault(record.metadata, []).append(record.correct)
        return bootstrap([Outcome("prompts", prompt, 0, float(rule(correct)))
                          for prompt, correct in verdicts.items()]).overall  # fmt: skip


def read_runs(paths: Sequence[Path]) -> tuple[Run, ...]:
    """Read the folders, in order.

    Raises ValueError for no folders, one that is no run or whose files do not fit each other, and
    IncompleteError for a run that is not finished.
    """
    if not paths:
        raise ValueError("no run folders were given; a report needs at least one")
    folders = [RunDirectory.judged(path) for path in paths]
    records = [folder.record for folder in folders]
    names = labels(records, [folder.path for folder in folders])
    return tuple(_run(*row) for row in zip(folders, names, records, strict=True))


def _run(folder: RunDirectory, label: str, record: dict[str, Any]) -> Run:
    if not folder.summary.is_file():
        raise IncompleteError(0, 1, [str(folder.summary)], what=f"summary of {folder.path}")
    summary = read_json(folder.summary)
    records, second = read_results(folder.results), read_second(folder.second)
    known = record["second"] is None or all(r.filename in second for r in records)
    readable = sum(r.number is not None for r in records)
    if readable != summary["images"] or not known:
        raise ValueError(f"{folder.path}: summary.json is of {summary['images']} pictures, "
                         f"results.jsonl has {readable} and second.jsonl {len(second)}; "
                         f"finish the run by its own command again")  # fmt: skip
    cost = read_json(folder.cost) if folder.cost.is_file() else {}
    seen = read_seen(folder.seen) if folder.seen.is_file() else {}
    return Run(folder, label, record, summary, cost, tuple(records), second, seen)


def check_differences(runs: Sequence[Run], differences: Sequence[Difference]) -> None:
    """Raises ValueError unless there is one difference per further run, from the first."""
    wanted = [(runs[0].folder.path, run.folder.path) for run in runs[1:]]
    given = [(Path(difference.a), Path(difference.b)) for difference in differences]
    if given != wanted:
        raise ValueError(f"the differences are of {_pairs(given)}, but the runs need "
                         f"{_pairs(wanted)}; give impasto.run.compare.compare(runs)")  # fmt: skip


def _pairs(pairs: Sequence[tuple[Path, Path]]) -> str:
    return ", ".join(f"({a}, {b})" for a, b in pairs) or "none"
