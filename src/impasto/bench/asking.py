"""One question's answer: right, wrong, or unreadable.

    right       same(read(answer), truth)
    unreadable  read(answer) is nothing, or there was no answer: counted, never a number; only
                where a benchmark's own reading says so an answer without yes or no is wrong (MME)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from impasto.score.base import Score

__all__ = ["Asking", "marked"]


@dataclass(frozen=True)
class Asking:
    """text: what is asked, instructions included. truth: the right answer. read: what an answer
    says, None for nothing. same: whether that is the truth. strict: what says nothing is wrong."""

    text: str
    truth: str
    read: Callable[[str], str | None]
    same: Callable[[str, str], bool] = str.__eq__
    strict: bool = False
    max_tokens: int = 16


def marked(asking: Asking, answer: str | None) -> Score:
    """Right or wrong; NaN for no answer, or for one that cannot be read unless `strict`."""
    said = None if answer is None else asking.read(answer)
    if said is None:
        if answer is not None and asking.strict:
            return Score(value=0.0, correct=False, reason=f"expected {asking.truth}, unreadable")
        return Score(value=math.nan, reason="no answer" if answer is None else "unreadable answer")
    correct = asking.same(said, asking.truth)
    reason = "" if correct else f"expected {asking.truth}, answered {said}"
    return Score(value=float(correct), correct=correct, reason=reason)
