"""From a bench's questions to a score: who answers is a file, or a judge that is asked.

A run of answers is a run folder as any other: its pictures are those that were asked about, its
results hold the answers. Interrupted, the same call goes on; what has no readable answer is asked
again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from impasto.bench import Bench, IncompleteError, Record, read_results, write_results
from impasto.bench.asked import read_answers
from impasto.bench.asking import Asking, marked
from impasto.bench.layout import metadata_name, picture_name, write_metadata
from impasto.files import sha256_file, write_json
from impasto.images import write_png
from impasto.run.cost import Meter
from impasto.run.directory import RunDirectory, opened
from impasto.run.provenance import default_folder, normal, versions
from impasto.score.judges import Judge, Question, Unanswered
from impasto.score.judges.parse import TRIES
from impasto.spec import Spec

__all__ = ["Answerer", "FileAnswers", "JudgeAnswers", "evaluate_answers"]

SAVES = 100
"""How often at least the results are written in a long run."""


class Answerer(Protocol):
    """Who answers questions about pictures."""

    def check(self, specs: Sequence[Spec], allow_incomplete: bool) -> None:
        """Raises ValueError or IncompleteError where it cannot answer these."""

    def answer(self, spec: Spec, asking: Asking, images: tuple[Tensor, ...]) -> str | None:
        """Words; None for no answer."""

    def provenance(self) -> dict[str, Any]: ...


class FileAnswers:
    """Answers that somebody wrote down, as `read_answers` reads them."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.answers = Path(path), read_answers(path)

    def check(self, specs: Sequence[Spec], allow_incomplete: bool) -> None:
        """Raises ValueError where no question has an answer, IncompleteError where some have
        none unless `allow_incomplete`."""
        missing = [spec.key for spec in specs if spec.key not in self.answers]
        if len(missing) == len(specs):
            raise ValueError(f"{self.path} answers none of the bench's questions; its keys are "
                             f"such as {next(iter(self.answers))!r}, the bench's such as "
                             f"{specs[0].key!r}")  # fmt: skip
        if missing and not allow_incomplete:
            raise IncompleteError(len(specs) - len(missing), len(specs), missing, what="answers")

    def answer(self, spec: Spec, asking: Asking, images: tuple[Tensor, ...]) -> str | None:
        return self.answers.get(spec.key)

    def provenance(self) -> dict[str, Any]:
        return {"id": "answers", "sha256": sha256_file(self.path)}


class JudgeAnswers:
    """A judge that is shown the pictures and asked; again where it cannot be read."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def check(self, specs: Sequence[Spec], allow_incomplete: bool) -> None:
        """It can be asked anything."""

    def answer(self, spec: Spec, asking: Asking, images: tuple[Tensor, ...]) -> str | None:
        question, said = Question(images, asking.text), None
        for attempt in range(TRIES):
            try:
                said = self.judge.ask(question, asking.max_tokens, attempt)
            except Unanswered:
                break
            if asking.read(said) is not None:
                break
        return said

    def provenance(self) -> dict[str, Any]:
        return self.judge.provenance()


@dataclass
class _Album:
    """The run's pictures. One that was shown before is a link to where it was first."""

    run: RunDirectory
    first: dict[str, Path]

    def keep(self, index: int, spec: Spec, image: Tensor) -> None:
        path = self.run.images / picture_name(index, 0)
        digest = hashlib.sha256(image.numpy().tobytes()).hexdigest()
        known = self.first.setdefault(digest, path)
        if not (self.run.images / metadata_name(index)).is_file():
            write_metadata(self.run.images, index, spec)
        if path.exists():
            return
        if known == path:
            write_png(path, image)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(known, path.parent))


def _record(bench: Bench, who: Answerer, name: str) -> dict[str, Any]:
    return normal({
        "kind": "eval",
        "bench": bench.provenance(),
        "texts": [spec.prompt for spec in bench.specs],
        "rewriter": None,
        "scorer": {"name": "the bench's own reading", "id": "answers"},
        "second": None,
        "versions": versions(),
        "model": {"name": name} | who.provenance(),
        "search": None, "seed": None, "sampling": None,
    })  # fmt: skip


def _before(run: RunDirectory, bench: Bench) -> dict[int, Record]:
    """Index -> what was answered before, and could be read."""
    if not run.results.is_file():
        return {}
    names = {f"images/{picture_name(i, 0)}": i for i in range(len(bench.specs))}
    return {names[r.filename]: r for r in read_results(run.results)
            if r.filename in names and r.number is not None}  # fmt: skip


def evaluate_answers(
    bench: Bench,
    who: Answerer,
    name: str,
    out: str | Path | None = None,
    *,
    allow_incomplete: bool = False,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> RunDirectory:
    """Ask `who`, called `name` in the record, the bench's questions; write a run folder.

    Raises ValueError for a bench that asks nothing, and IncompleteError for questions without a
    readable answer unless `allow_incomplete`.
    """
    if bench.asks is None or bench.sources is None:
        raise ValueError(f"{bench.name} asks no questions; it is judged by pictures")
    who.check(bench.specs, allow_incomplete)
    record = _record(bench, who, name)
    with opened(out or default_folder("eval", record), record) as run:
        meter, done, album = Meter(run, drawn=False), _before(run, bench), _Album(run, {})
        every = max(len(bench.specs) // SAVES, 1)

        def save() -> list[Record]:
            records = [done[i] for i in sorted(done)]
            write_results(run.results, records)
            progress("asking", len(records), len(bench.specs))
            return records

        with meter.timing("score"):
            left = [i for i in range(len(bench.specs)) if i not in done]
            for count, i in enumerate(left, 1):
                spec = bench.specs[i]
                images, asking = bench.sources(spec), bench.asks(spec)
                album.keep(i, spec, images[0])
                answer = who.answer(spec, asking, images)
                done[i] = Record.of(f"images/{picture_name(i, 0)}", spec, marked(asking, answer),
                                    answer)  # fmt: skip
                if count % every == 0:
                    save()
            records = save()
        write_json(run.summary, bench.summarise(records, allow_incomplete=allow_incomplete))
    return run
