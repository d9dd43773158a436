"""Where numbers come from: every setting of `run.json`, run beside run, and the whole files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from impasto.files import json_text
from impasto.report.words import DASH
from impasto.run.directory import RunDirectory

__all__ = ["FILES", "Setting", "files", "settings", "whole"]

FILES = ("run.json", "summary.json", "cost.json", "results.jsonl", "second.jsonl", "seen.jsonl",
         "pictures.jsonl", "codes.json", "images")  # fmt: skip
LONG = ("texts",)
"""Settings too long for a table; they are in the whole record."""


class Recorded(Protocol):
    """A finished run of any kind."""

    @property
    def folder(self) -> RunDirectory: ...
    @property
    def record(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Setting:
    """One leaf of `run.json`, "scorer.sha256", with its value in each run."""

    key: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        return len(set(self.values)) > 1


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    elif key not in LONG:
        yield key, DASH if value is None or value == {} else str(value)


def _part(key: str) -> str:
    return key.partition(".")[0]


def settings(runs: Sequence[Recorded]) -> list[Setting]:
    """Every leaf of the runs' records, in their order; a dash where one has none."""
    records = [dict(_leaves(run.record)) for run in runs]
    keys = list(dict.fromkeys(key for record in records for key in record))
    parts = list(dict.fromkeys(map(_part, keys)))
    keys.sort(key=lambda key: parts.index(_part(key)))
    return [Setting(key, tuple(record.get(key, DASH) for record in records)) for key in keys]


def whole(run: Recorded) -> str:
    """`run.json`, indented."""
    return json_text(run.record)


def files(run: Recorded, page: Path) -> list[str]:
    """The run's files that are there, relative to the page's folder, with "/"."""
    start = page.resolve().parent
    there = [run.folder.path.resolve() / name for name in FILES]
    return [Path(os.path.relpath(path, start)).as_posix() for path in there if path.exists()]
