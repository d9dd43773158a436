"""`results.jsonl`: one verdict a line, as GenEval's tools write and read it.

Keys in order: filename, tag, prompt, correct, reason, metadata, details; the last two are JSON
held in strings. The bytes are those of pandas' `DataFrame.to_json(orient="records", lines=True)`:
ASCII, no spaces outside strings, "/" written as "\\/" (only U+007F, escaped here, is not there).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from impasto.files import write_text
from impasto.score.base import Score
from impasto.score.statistics import Outcome
from impasto.spec import Spec

__all__ = ["Record", "outcomes", "read_results", "write_results"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """The verdict on one picture. Fields and their order are the file's keys.

    filename: the picture's path. reason: one failure a line, "" when correct. metadata: the
    spec's JSON. details: JSON of class -> [[x1, y1, x2, y2, score], …] of the kept objects.
    """

    filename: str
    tag: str
    prompt: str
    correct: bool
    reason: str
    metadata: str
    details: str

    @classmethod
    def of(cls, filename: str, spec: Spec, score: Score) -> Record:
        """Raises ValueError when the scorer gave no verdict, which GenEval's rule needs."""
        if score.correct is None:
            raise ValueError(f"{filename}: the scorer gave {score.value} but no verdict; "
                             f"take a scorer that says correct or not")  # fmt: skip
        return cls(
            filename=filename,
            tag=spec.tag,
            prompt=spec.prompt,
            correct=score.correct,
            reason=score.reason,
            metadata=spec.to_json(),
            details=json.dumps(dict(score.details)),
        )

    @property
    def spec(self) -> Spec:
        return Spec.from_dict(json.loads(self.metadata))

    @property
    def objects(self) -> dict[str, list[list[float]]]:
        """The kept objects: class -> [[x1, y1, x2, y2, score], …], most confident first."""
        objects: dict[str, list[list[float]]] = json.loads(self.details)
        return objects

    @property
    def sample(self) -> int:
        """The sample's index, from the digits that begin the picture's name."""
        digits = re.match("[0-9]+", PurePosixPath(self.filename).name)
        if digits is None:
            raise ValueError(f"{self.filename}: the name does not begin with the sample's number")
        return int(digits[0])

    def to_line(self) -> str:
        """The file's line, without its end."""
        # "/" stands in JSON only inside strings, so escaping all of them escapes just those.
        return json.dumps(asdict(self), separators=(",", ":")).replace("/", "\\/")


TYPES = {f.name: bool if f.name == "correct" else str for f in fields(Record)}


def write_results(path: str | Path, records: Iterable[Record]) -> None:
    """Write `results.jsonl`, whole or not at all."""
    write_text(path, "".join(f"{record.to_line()}\n" for record in records))


def _record(line: str, where: str) -> Record:
    try:
        values: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}); was the file cut off?") from error
    for key, kind in TYPES.items():
        given = values.get(key) if isinstance(values, dict) else None
        if not isinstance(given, kind):
            raise ValueError(f"{where}: {key!r} is {given!r}, must be a {kind.__name__}; each "
                             f"line needs {', '.join(TYPES)}")  # fmt: skip
    return Record(**{key: values[key] for key in TYPES})


def read_results(path: str | Path) -> list[Record]:
    """The records of a `results.jsonl`, ours or the official tools'; further keys are left out.

    Raises ValueError, with file and line, for a line that is cut off or lacks a key.
    """
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    return [_record(line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line.strip()]


def outcomes(records: Sequence[Record]) -> list[Outcome]:
    """The verdicts as numbers for `impasto.score.statistics`; a prompt is its metadata."""
    return [Outcome(r.tag, r.metadata, r.sample, float(r.correct)) for r in records]
