"""The world's own questions: sticker pictures and what is asked about them, no file needed.

Four kinds (count, color, position, existence), a picture each, with the answers that the scenes'
data give; exact match, numbers and articles in any form, mean over kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from impasto.bench.asked import SUFFIX, answer_summary
from impasto.bench.asking import Asking
from impasto.bench.base import Bench
from impasto.bench.gqa import said
from impasto.bench.results import Record
from impasto.bench.sticker_edits import checked
from impasto.bench.understanding import same_answer
from impasto.spec import Spec
from impasto.world.suites import QUESTIONS, drawn, key_of, question_of
from impasto.zoo.registry import BENCHES

__all__ = ["sticker_questions"]


def _sources(spec: Spec) -> tuple[Tensor, ...]:
    return (drawn(question_of(spec.key)[0]),)


def _asks(spec: Spec) -> Asking:
    question = question_of(spec.key)[1]
    return Asking(f"{question.text} {SUFFIX}", question.answer, said, same_answer)


def _rule(records: Sequence[Record]) -> dict[str, Any]:
    return answer_summary(records, QUESTIONS)


@BENCHES.register("sticker-questions")
def sticker_questions(seed: int = 0, per_kind: int = 50) -> Bench:
    """Questions about sticker pictures (--answers or --judge), answers by the scenes' own data.

    Raises ValueError for per_kind outside 1 to 500.
    """
    keys = {key_of(kind, seed, i): kind for kind in QUESTIONS
            for i in range(checked("per_kind", per_kind))}  # fmt: skip
    specs = tuple(Spec(tag=kind, include=(), prompt=question_of(key)[1].text, key=key)
                  for key, kind in keys.items())  # fmt: skip
    return Bench(name=f"sticker-questions:seed={seed},per_kind={per_kind}", specs=specs,
                 samples_per_prompt=1, scorer="", second="", rule=_rule, sources=_sources,
                 asks=_asks)  # fmt: skip
