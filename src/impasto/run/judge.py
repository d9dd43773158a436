"""Judging the pictures of a run from their files, resumable at any picture.

`seen.jsonl`, `second.jsonl` and `results.jsonl` are replaced whole after every batch, in that
order; what all three hold and is newer than the picture is not judged again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from impasto.bench import Picture, Record, read_results, write_results
from impasto.files import write_text
from impasto.images import ImageError, read_image
from impasto.run.batches import in_batches
from impasto.run.directory import RunDirectory
from impasto.run.seen import line_of, objects_of, read_lines
from impasto.score.base import Inspected, Inspector, Scorer
from impasto.spec import Spec

__all__ = ["JudgeBatch", "Judged", "Verdicts", "judge", "read_second"]


Judges = tuple[Scorer, Scorer | None]
"""The scorer, and the second one where there is one."""


@dataclass(frozen=True)
class Judged:
    """A picture's result, and its value by the second, independent scorer where there is one.

    seen: its line of `seen.jsonl`.
    """

    record: Record
    second: float | None
    seen: str


def read_second(path: Path) -> dict[str, float]:
    """`second.jsonl` as filename -> value; {} where the run has no second scorer."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {row["filename"]: row["value"] for row in map(json.loads, lines)}


def _second_line(filename: str, scorer: str, value: float) -> str:
    row = {"filename": filename, "scorer": scorer, "value": value}
    return json.dumps(row, allow_nan=False) + "\n"


class _Book:
    """What has been judged so far, by file name; `pictures` gives the order in the files."""

    def __init__(
        self, run: RunDirectory, pictures: Sequence[Picture], second_name: str | None
    ) -> None:
        self.run, self.second_name = run, second_name
        self.names = [f"images/{picture.filename}" for picture in pictures]
        self.judged = dict(self._before())

    def _before(self) -> Iterator[tuple[str, Judged]]:
        files = [self.run.results, self.run.seen]
        if self.second_name is not None:
            files.append(self.run.second)
        if not all(path.is_file() for path in files):
            return
        time = self.run.results.stat().st_mtime_ns
        second, seen = read_second(self.run.second), read_lines(self.run.seen)
        for record in read_results(self.run.results):
            name = record.filename
            known = (name in second or self.second_name is None) and name in seen
            known = known and record.number is not None  # the unreadable is asked again
            if known and name in self.names and self._age(name) < time:
                yield name, Judged(record, second.get(name), seen[name])

    def _age(self, name: str) -> int:
        return (self.run.path / name).stat().st_mtime_ns

    def save(self) -> list[Record]:
        rows = [(name, self.judged[name]) for name in self.names if name in self.judged]
        write_text(self.run.seen, "".join(judged.seen for _, judged in rows))
        if (second := self.second_name) is not None:
            text = "".join(_second_line(n, second, j.second) for n, j in rows
                           if j.second is not None)  # fmt: skip
            write_text(self.run.second, text)
        records = [judged.record for _, judged in rows]
        write_results(self.run.results, records)
        return records


@dataclass(frozen=True)
class Verdicts:
    """By file name; and the errors of the pictures that cannot be read."""

    judged: dict[str, Judged]
    damaged: list[ImageError]


@dataclass(frozen=True)
class JudgeBatch:
    """Judging some pictures of a run; in this process or, by pickle, in a worker."""

    run: RunDirectory
    specs: Sequence[Spec]
    size: int

    def __call__(self, judges: Judges, batch: Sequence[Picture]) -> Verdicts:
        """What `judges`, the scorer and the second one, say of each picture."""
        found = Verdicts({}, [])
        in_batches(batch, self.size, lambda some, size: self.add(judges, some, found))
        return found

    def add(self, judges: Judges, batch: Sequence[Picture], found: Verdicts) -> None:
        """Judge `batch` all together, into `found`."""
        groups, unreadable = _read(self.run, batch)
        for readable in groups:
            images = torch.stack([image for _, image in readable])
            wanted = [self.specs[picture.spec] for picture, _ in readable]
            pairs = zip(_inspect(judges[0], images, wanted), _values(judges[1], images, wanted),
                        strict=True)  # fmt: skip
            for (picture, image), (first, second) in zip(readable, pairs, strict=True):
                name = f"images/{picture.filename}"
                record = Record.of(name, self.specs[picture.spec], first.score)
                seen = line_of(name, image, first.objects)
                found.judged[name] = Judged(record, second, seen)
        found.damaged.extend(unreadable)


def judge(
    run: RunDirectory,
    pictures: Sequence[Picture],
    specs: Sequence[Spec],
    scorer: Scorer,
    second: tuple[str, Scorer] | None,
    *,
    batch_size: int,
    progress: Callable[[str, int, int], None],
    over: Callable[[JudgeBatch, Sequence[Sequence[Picture]]], Iterator[Verdicts]] | None = None,
) -> tuple[list[Record], list[ImageError]]:
    """Judge `pictures`; writes the files. Returns the records and what cannot be read.

    second: the second scorer with the name that its values are stored under, None for none. over:
    applies a `JudgeBatch` to batches somewhere else, in any order; by default here, one after the
    other.
    """
    name, other = (None, None) if second is None else second
    book = _Book(run, pictures, name)
    left = [picture for picture, name in zip(pictures, book.names, strict=True)
            if name not in book.judged]  # fmt: skip
    damaged: list[ImageError] = []

    def take(verdicts: Verdicts) -> None:
        book.judged.update(verdicts.judged)
        damaged.extend(verdicts.damaged)
        book.save()
        progress("judging", len(book.judged) + len(damaged), len(pictures))

    progress("judging", len(book.judged), len(pictures))
    one = JudgeBatch(run, specs, batch_size)

    def here(batch: Sequence[Picture], size: int) -> None:
        verdicts = Verdicts({}, [])
        one.add((scorer, other), batch, verdicts)
        take(verdicts)

    if over is None:
        in_batches(left, batch_size, here)
    elif left:
        batches = [left[i : i + batch_size] for i in range(0, len(left), batch_size)]
        for verdicts in over(one, batches):
            take(verdicts)
    return book.save(), sorted(damaged, key=str)


def _values(scorer: Scorer | None, images: Tensor, specs: Sequence[Spec]) -> list[float | None]:
    """The second scorer's values; None for each where there is no such scorer."""
    if scorer is None:
        return [None] * len(specs)
    return [float(score.value) for score in scorer.score(images, specs)]


def _inspect(scorer: Scorer, images: Tensor, specs: Sequence[Spec]) -> list[Inspected]:
    """What the scorer says and saw; of one that cannot show it, the boxes of its details."""
    if isinstance(scorer, Inspector):
        return scorer.inspect(images, specs)
    return [Inspected(score, objects_of(score)) for score in scorer.score(images, specs)]


def _read(
    run: RunDirectory, batch: Sequence[Picture]
) -> tuple[list[list[tuple[Picture, Tensor]]], list[ImageError]]:
    """The batch's pictures in groups of one size, and the errors of the unreadable ones."""
    images, damaged = [], []
    for picture in batch:
        try:
            images.append((picture, read_image(run.images / picture.filename)))
        except ImageError as error:
            damaged.append(error)
    groups = groupby(images, key=lambda pair: pair[1].shape)
    return [list(group) for _, group in groups], damaged
