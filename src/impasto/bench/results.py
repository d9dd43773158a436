"""`results.jsonl`: one verdict a line, as GenEval's tools write and read it.

Keys in order: filename, tag, prompt, correct, reason, metadata, details; the last two are JSON
held in strings. Where a bench's result is more than a verdict, further keys follow:

    value     a number on the bench's own scale; there where "correct" is null, null if unreadable
    scores    {name: number}: the parts that the value or the verdict is made of
    answer    what was answered, in words

The bytes are those of pandas' `DataFrame.to_json(orient="records", lines=True)`:
ASCII, no spaces outside strings, "/" written as "\\/" (only U+007F, escaped here, is not there).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from impasto.files import write_text
from impasto.score.base import Score
from impasto.score.statistics import Outcome
from impasto.spec import Spec

__all__ = ["Record", "outcomes", "read_results", "write_results"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """The result of one picture. Fields and their order are the file's keys.

    filename: the picture's path. correct: the verdict, None where the result is a number. reason:
    one failure a line, "" when correct. metadata: the spec's JSON. details: JSON of class ->
    [[x1, y1, x2, y2, score], …] of the kept objects. value: the number; None beside a verdict, and
    where no answer could be read. scores: its parts. answer: in words, None where none is asked.
    """

    filename: str
    tag: str
    prompt: str
    correct: bool | None
    reason: str
    metadata: str
    details: str
    value: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)
    answer: str | None = None

    @classmethod
    def of(cls, filename: str, spec: Spec, score: Score, answer: str | None = None) -> Record:
        """From what a scorer says of the picture."""
        number = None if math.isnan(score.value) else score.value
        return cls(
            filename=filename,
            tag=spec.tag,
            prompt=spec.prompt,
            correct=score.correct,
            reason=score.reason,
            metadata=spec.to_json(),
            details=json.dumps(dict(score.details)),
            value=number if score.correct is None else None,
            scores=dict(score.scores),
            answer=answer,
        )

    @property
    def number(self) -> float | None:
        """The verdict as 1 or 0, or the value; None where no answer could be read."""
        return self.value if self.correct is None else float(self.correct)

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
        row: dict[str, Any] = {key: getattr(self, key) for key in TYPES}
        if self.correct is None:
            row["value"] = self.value
        if self.scores:
            row["scores"] = dict(self.scores)
        if self.answer is not None:
            row["answer"] = self.answer
        text = json.dumps(row, separators=(",", ":"), allow_nan=False)
        # "/" stands in JSON only inside strings, so escaping all of them escapes just those.
        return text.replace("/", "\\/")


TYPES = {"filename": str, "tag": str, "prompt": str, "correct": bool, "reason": str,
         "metadata": str, "details": str}  # fmt: skip
"""The official seven."""


def write_results(path: str | Path, records: Iterable[Record]) -> None:
    """Write `results.jsonl`, whole or not at all."""
    write_text(path, "".join(f"{record.to_line()}\n" for record in records))


def _record(line: str, where: str) -> Record:
    try:
        values: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}); was the file cut off?") from error
    number_only = isinstance(values, dict) and values.get("correct", "") is None
    for key, kind in TYPES.items():
        given = values.get(key) if isinstance(values, dict) else None
        if not isinstance(given, kind) and not (key == "correct" and number_only
                                                and "value" in values):  # fmt: skip
            raise ValueError(f"{where}: {key!r} is {given!r}, must be a {kind.__name__}; each "
                             f"line needs {', '.join(TYPES)}")  # fmt: skip
    return Record(**{key: values[key] for key in TYPES}, **_further(values, where))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _further(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """value, scores and answer, where the line has them."""
    value, scores, answer = (values.get(key) for key in ("value", "scores", "answer"))
    good = {
        "value": value is None or _is_number(value),
        "scores": scores is None or (isinstance(scores, dict)
                                     and all(map(_is_number, scores.values()))),
        "answer": answer is None or isinstance(answer, str),
    }  # fmt: skip
    if wrong := [key for key, fits in good.items() if not fits]:
        raise ValueError(f"{where}: {wrong[0]!r} is {values[wrong[0]]!r}; value is a number or "
                         f"null, scores an object of numbers, answer a text")  # fmt: skip
    return {"value": value, "scores": scores or {}, "answer": answer}


def read_results(path: str | Path) -> list[Record]:
    """The records of a `results.jsonl`, ours or the official tools'; foreign keys are left out.

    Raises ValueError, with file and line, for a line that is cut off or lacks a key.
    """
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    return [_record(line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line.strip()]


def outcomes(records: Sequence[Record]) -> list[Outcome]:
    """The results as numbers for `impasto.score.statistics`; a prompt is its metadata.

    What could not be read is left out.
    """
    return [Outcome(r.tag, r.metadata, r.sample, r.number) for r in records
            if r.number is not None]  # fmt: skip
