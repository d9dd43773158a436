"""The run directory: one folder, one writer, every file whole or absent.

Layout and meaning are in docs/architecture.md. `run.json` is written first and decides what the
folder is; a picture's presence means that its sample is complete, so its record goes before it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from impasto.bench.layout import metadata_name, picture_name, write_metadata
from impasto.files import lock, sweep, write_bytes, write_json
from impasto.images import write_png
from impasto.run.provenance import check_same
from impasto.sample.protocol import Cost
from impasto.spec import Spec

__all__ = ["ForeignFolder", "RunDirectory", "opened", "read_json"]


class ForeignFolder(ValueError):
    """The folder holds something that is not a run."""


def read_json(path: Path) -> Any:
    """Parsed JSON. Raises ValueError that names a damaged file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); it was changed from outside, "
                         f"start anew in another folder") from error  # fmt: skip


class RunDirectory:
    """Paths and records of one run. To write, get it from `opened`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.images = self.path / "images"
        self.trees = self.path / "search"
        self.results = self.path / "results.jsonl"
        self.second = self.path / "second.jsonl"
        self.seen = self.path / "seen.jsonl"
        self.summary = self.path / "summary.json"
        self.cost = self.path / "cost.json"

    @classmethod
    def existing(cls, path: str | Path) -> RunDirectory:
        """A finished or unfinished run, to read. Raises ValueError when `path` is none."""
        run = cls(path)
        if not (run.path / "run.json").is_file():
            raise ValueError(f"{path} is not a run folder: it has no run.json")
        return run

    @classmethod
    def judged(cls, path: str | Path) -> RunDirectory:
        """`existing`, of `impasto eval`. Raises ValueError for a run of another kind."""
        run = cls.existing(path)
        if (kind := run.record.get("kind")) != "eval":
            raise ValueError(f"{run.path} holds a run of kind {kind!r}; reports and comparisons "
                             f"are of judged runs ('eval'): make one by impasto eval"
                             )  # fmt: skip
        return run

    @property
    def record(self) -> dict[str, Any]:
        """The provenance record in `run.json`."""
        return read_json(self.path / "run.json")

    def image(self, index: int, sample: int) -> Path:
        """Where the picture of prompt `index`, sample `sample` is or will be."""
        return self.images / picture_name(index, sample)

    def sample(self, index: int, sample: int) -> dict[str, Any]:
        """How that picture was drawn: seed, candidates, chosen, what it cost, the trace."""
        return read_json(self.image(index, sample).with_suffix(".json"))

    def tree(self, filename: str) -> Path:
        """Where the candidates of the picture `filename` (as results name it) are or would be."""
        index, name = Path(filename).parts[-3], Path(filename).stem
        return self.trees / index / f"{name}.webp"

    def missing(self, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of the (index, sample) `pairs` whose picture is not there yet."""
        return [pair for pair in pairs if not self.image(*pair).is_file()]

    def save(
        self, index: int, sample: int, spec: Spec, picture: Tensor, drawn: Mapping[str, Any],
        *, sheet: bytes = b"",
    ) -> None:  # fmt: skip
        """Store one sample; sheet: its search's candidates, where there was a search.

        The picture, (3, H, W), goes last: it says that all is there.
        """
        path = self.image(index, sample)
        if sheet:
            write_bytes(self.tree(str(path)), sheet)
        if not (self.images / metadata_name(index)).is_file():
            write_metadata(self.images, index, spec)
        write_json(path.with_suffix(".json"), drawn)
        write_png(path, picture)

    def total(self, pairs: Sequence[tuple[int, int]]) -> Cost:
        """What the samples' own records say they cost. A count that an older record has not is
        left out of the sum."""
        counts = [field.name for field in fields(Cost) if field.name != "images"]
        records = map(lambda pair: self.sample(*pair), pairs)
        return Cost.total(Cost(images=len(drawn["candidates"]),
                               **{name: drawn[name] for name in counts if name in drawn})
                          for drawn in records)  # fmt: skip


@contextlib.contextmanager
def opened(path: str | Path, record: Mapping[str, Any]) -> Iterator[RunDirectory]:
    """Hold the folder as its only writer: a new run, or the same run resumed.

    Raises SettingsDiffer when it holds a run with another record, ForeignFolder when it holds
    something else, LockedError when someone else writes, StorageError when it cannot be written.
    """
    run = RunDirectory(path)
    _check_foreign(run.path)
    with lock(run.path):
        sweep(run.path)
        fresh = not (run.path / "run.json").exists()
        if fresh:
            write_json(run.path / "run.json", record)
        else:
            check_same(run.record, record, run.path)
        try:
            yield run
        except BaseException:
            if fresh:
                _forget_if_empty(run.path)
            raise


def _forget_if_empty(path: Path) -> None:
    """Take back a run that failed before its first picture: refused settings claim no folder."""
    if {entry.name for entry in path.iterdir()} <= {".lock", "run.json", "cost.json"}:
        (path / "cost.json").unlink(missing_ok=True)
        (path / "run.json").unlink()


def _check_foreign(path: Path) -> None:
    """A folder without run.json may hold only what a run killed at its very start leaves."""
    if not path.is_dir() or (path / "run.json").exists():
        return
    others = [p.name for p in sorted(path.iterdir())
              if p.name != ".lock" and not p.name.endswith(".tmp")]  # fmt: skip
    if others:
        raise ForeignFolder(f"{path} is not empty and is not a run (it holds {others[0]!r}); "
                            f"choose another --out")  # fmt: skip
