"""What runs are called beside each other: by what tells them apart, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["labels"]

OWN = "own prompts"
UNSAID = {"none": "no search", OWN: OWN}
"""Names of nothing: left out beside others, and in words where they stand alone."""


def labels(records: Sequence[Mapping[str, Any]], paths: Sequence[Path]) -> list[str]:
    """One short, distinct name per run. records: the `run.json` of each.

    The model's and the search's name, and whose the prompts are, each only where runs differ in
    it; then what differs in the sampling, then the folder's name, each only where the names before
    are still the same.
    """
    names = _shown([_names(record) for record in records])
    names = _told_apart(names, _shown([_sampling(record) for record in records]))
    names = _told_apart(names, [path.resolve().name for path in paths])
    return _told_apart(names, [f"({i})" for i in range(1, len(paths) + 1)])


def _names(record: Mapping[str, Any]) -> list[str]:
    """The model's name, the search's ("" for pictures drawn elsewhere) and the prompts'."""
    search, rewriter = record["search"], record.get("rewriter")
    return [record["model"]["name"], "" if search is None else search["name"],
            OWN if rewriter is None else f"rewritten by {rewriter['file']}"]  # fmt: skip


def _sampling(record: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in (record["sampling"] or {}).items()]


def _shown(parts: Sequence[Sequence[str]]) -> list[str]:
    """Each run's parts in one line: those that differ, or all those of a run alone."""
    common = set.intersection(*map(set, parts)) if len(parts) > 1 else set()
    return [_joined([part for part in run if part and part not in common]) for run in parts]


def _joined(parts: Sequence[str]) -> str:
    """Beside a model's name, the lack of a search needs no word."""
    if len(parts) == 1:
        return UNSAID.get(parts[0], parts[0])
    return " · ".join(part for part in parts if part not in UNSAID)


def _told_apart(names: Sequence[str], more: Sequence[str]) -> list[str]:
    """The names; where one is empty or there twice, with its `more`."""
    counts = Counter(names)
    return [" · ".join(filter(None, (name, extra))) if not name or counts[name] > 1 else name
            for name, extra in zip(names, more, strict=True)]  # fmt: skip
