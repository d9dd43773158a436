"""Benches that ask: pictures and a question in, an answer in words out.

What is right and what is unreadable says `impasto.bench.asking`. Answers come from a file
(`read_answers`) or from a judge that is asked (`impasto.run.answer`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from impasto.bench.asking import Asking
from impasto.bench.base import Bench
from impasto.bench.judged import interval
from impasto.bench.results import Record, outcomes
from impasto.bench.summary import summarise
from impasto.score.statistics import bootstrap
from impasto.spec import Spec

__all__ = ["SUFFIX", "Asked", "answer_summary", "question_bench", "read_answers"]  # fmt: skip

SUFFIX = "Answer the question using a single word or phrase."
KEYS, TEXTS = ("key", "question_id"), ("answer", "text")
"""Names under which a file of answers may have its two columns."""


@dataclass(frozen=True)
class Asked:
    """A question as a file has it. picture: its name; image: reads it, (3, H, W).

    options: letter -> option, of a multiple choice.
    """

    key: str
    task: str
    text: str
    truth: str
    picture: str
    image: Callable[[], Tensor]
    options: Mapping[str, str] = field(default_factory=dict)


def question_bench(
    name: str, items: Sequence[Asked], asking: Callable[[Asked], Asking],
    rule: Callable[[Sequence[Record], dict[str, Asked]], dict[str, Any]],
) -> Bench:  # fmt: skip
    """A bench that asks these, each once. asking: how it is asked and read."""
    of = {item.key: item for item in items}
    if len(of) < len(items):
        twice = next(key for key, n in Counter(item.key for item in items).items() if n > 1)
        raise ValueError(f"{name}: the question {twice!r} is there more than once")

    def sources(spec: Spec) -> tuple[Tensor, ...]:
        return (of[spec.key].image(),)

    def asks(spec: Spec) -> Asking:
        return asking(of[spec.key])

    specs = tuple(Spec(tag=i.task, include=(), prompt=i.text, key=i.key) for i in items)
    return Bench(name=name, specs=specs, samples_per_prompt=1, scorer="", second="",
                 sources=sources, asks=asks, rule=partial(rule, **{"of": of}))  # fmt: skip


def answer_summary(
    records: Sequence[Record], tasks: Sequence[str], label: str = ""
) -> dict[str, Any]:
    """`summarise` of the readable answers. label: what the overall score is called where it is
    the share of all questions instead of the mean over tasks."""
    readable = [record for record in records if record.correct is not None]
    found = summarise(readable, tasks)
    if label:
        rows = [o._replace(task="all") for o in outcomes(readable)]
        found["overall"] |= {"label": label} | interval(bootstrap(rows).overall)
        found["pooled"] = True
    return found


def _row(line: str, where: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error})") from error
    row = row if isinstance(row, dict) else {}
    key, text = (next((row[name] for name in names if name in row), None)
                 for names in (KEYS, TEXTS))  # fmt: skip
    if not isinstance(key, str | int) or not isinstance(text, str):
        raise ValueError(f"{where} needs a key under {' or '.join(KEYS)} and a text under "
                         f"{' or '.join(TEXTS)}")  # fmt: skip
    return str(key), text


def read_answers(path: str | Path) -> dict[str, str]:
    """Key -> answer of JSON Lines {"key", "answer"}. Raises ValueError, naming the line, for
    another shape or a key that is there twice."""
    answers: dict[str, str] = {}
    text = Path(path).read_text(encoding="utf-8-sig").replace("\r\n", "\n").removesuffix("\n")
    for number, line in enumerate(text.split("\n"), 1):
        key, answer = _row(line, f"{path}, line {number}")
        if key in answers:
            raise ValueError(f"{path}, line {number}: {key!r} has an answer already")
        answers[key] = answer
    return answers
