"""Answers kept on disk: nobody pays twice for a question.

    FOLDER/ab/abcdef….json      key = sha256 of judge, question, pictures and what was asked of it

A file holds its key's parts in clear, so that a transcript can be read. Written whole or not at
all; several processes may share a folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from impasto.files import write_json
from impasto.images import to_pil
from impasto.score.judges.base import Judge, Question

__all__ = ["CachedJudge", "picture_sha256"]


def picture_sha256(question: Question) -> list[str]:
    """Of each picture's size and 8-bit pixels, whatever file they came from."""
    pictures = [to_pil(image) for image in question.images]
    return [hashlib.sha256(f"{p.size}".encode() + p.tobytes()).hexdigest() for p in pictures]


class CachedJudge(Judge):
    """`judge`, asked only what is not in `folder` yet. asked, found: how often which happened."""

    def __init__(self, judge: Judge, folder: str | Path) -> None:
        self.judge, self.folder = judge, Path(folder)
        self.asked = self.found = 0

    def ask(self, question: Question, max_tokens: int = 512, attempt: int = 0) -> str:
        what = {"words": max_tokens, "attempt": attempt}
        answer: str = self._kept(
            question, what, str, lambda: self.judge.ask(question, max_tokens, attempt)
        )
        return answer

    def probability(
        self, question: Question, variants: Sequence[str], deduplicate: bool = True
    ) -> float:
        what = {"variants": list(variants), "deduplicate": deduplicate}
        value: float = self._kept(
            question, what, float, lambda: self.judge.probability(question, variants, deduplicate)
        )
        return value

    def _kept(self, question: Question, what: dict[str, Any], kind: type,
              answer: Callable[[], Any]) -> Any:  # fmt: skip
        key: dict[str, Any] = {
            "judge": self.judge.provenance(), "system": question.system, "text": question.text,
            "pictures": picture_sha256(question), "asked": what,
        }  # fmt: skip
        if question.text_first:
            key["text_first"] = True
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        path = self.folder / digest[:2] / f"{digest}.json"
        if path.is_file():
            self.found += 1
            return _read(path, kind)
        value = answer()
        self.asked += 1
        write_json(path, key | {"answer": value})
        return value

    def provenance(self) -> dict[str, Any]:
        return self.judge.provenance()


def _read(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))["answer"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not an answer of the cache ({error}); delete it") from error
    if not isinstance(value, kind):
        raise ValueError(f"{path}: the answer is {value!r}, not a {kind.__name__}; delete it")
    return value
