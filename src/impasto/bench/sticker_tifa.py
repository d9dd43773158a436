"""GenEval 2's way of scoring in the sticker world: no file, no language model, no network.

The prompts are sticker-plus's (GenEval++'s seven tasks, up to four objects with numbers, colours,
halves and sizes); each demand is a question (`impasto.score.tifa_detector.asks_of`), an atom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from impasto.bench.base import Bench
from impasto.bench.geneval_plus import PER_TASK, sticker_plus
from impasto.bench.results import Record
from impasto.bench.tifa_summary import tifa_summary
from impasto.score.tifa_detector import asks_of
from impasto.spec import Spec
from impasto.zoo.registry import BENCHES

__all__ = ["sticker_tifa"]


def _atoms(spec: Spec) -> int:
    return len(asks_of(spec))


def _rule(records: Sequence[Record]) -> dict[str, Any]:
    return tifa_summary(records, asks_of, _atoms)


@BENCHES.register("sticker-tifa")
def sticker_tifa(seed: int = 0, per_task: int = PER_TASK) -> Bench:
    """sticker-plus's prompts summed up by Soft-TIFA; judged by scorer sticker-tifa.

    Raises ValueError for per_task outside 1 to 500.
    """
    bench = sticker_plus(seed, per_task)
    return replace(bench, name=f"sticker-tifa:seed={seed},per_task={per_task}", rule=_rule,
                   scorer="sticker-tifa")  # fmt: skip
