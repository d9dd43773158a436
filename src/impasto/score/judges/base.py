"""What a judge is: pictures and a question in; words, or the first word's probability, out.

    p(answer) = sum over variants v of p(first token of v)         the first step of greedy reading

Variants of an answer are its ways to be written (`variants_of`). Two that begin with one token
count once; GenEval 2's official script counts them twice, which `deduplicate=False` does too.
Source: Kamath et al. 2025, arXiv 2512.16853 (Soft-TIFA).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from impasto.spec import NUMBER_WORDS

__all__ = ["Judge", "LocalWords", "NoProbabilities", "Question", "Unanswered", "variants_of"]


class NoProbabilities(RuntimeError):
    """The judge can be asked for words only."""


class Unanswered(RuntimeError):
    """No answer after the allowed number of tries: it counts as a failure, never as a number."""


@dataclass(frozen=True)
class Question:
    """images: pictures (3, H, W) in [0, 1] in the order in which they are shown, of any sizes.
    text: follows them, or goes first. system: the system turn, "" for none."""

    images: tuple[Tensor, ...]
    text: str
    system: str = ""
    text_first: bool = False


def variants_of(answer: str) -> tuple[str, ...]:
    """The ways to write "yes", "no", a number word, or any other word, as Soft-TIFA has them.

    yes: Yes, yes, " yes", " Yes". two: two, Two, " two", " Two", 2, " 2". Without repetition.
    """
    word = answer.strip().lower()
    written = [word, word.capitalize()]
    forms = [*written, *(f" {form}" for form in written)]
    if word in NUMBER_WORDS:
        digit = str(NUMBER_WORDS.index(word))
        forms += [digit, f" {digit}"]
    return tuple(dict.fromkeys(forms))


class Judge(ABC):
    """Answers questions about pictures, the same each time: greedy, temperature 0."""

    @abstractmethod
    def ask(self, question: Question, max_tokens: int = 512, attempt: int = 0) -> str:
        """The answer in words. attempt: number of earlier answers that could not be read.

        Raises Unanswered when there is none.
        """

    @abstractmethod
    def probability(
        self, question: Question, variants: Sequence[str], deduplicate: bool = True
    ) -> float:
        """p(answer) of the module's equation.

        Raises NoProbabilities where the judge gives none, ValueError for no variants.
        """

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Id, sha256 of the weights where they are here, and how pictures reach the model."""


class LocalWords(Judge):
    """A judge whose first step can be looked at. name: for messages and the record."""

    name: str

    @property
    @abstractmethod
    def words(self) -> Any:
        """A tokenizer of transformers."""

    @abstractmethod
    def first_token(self, question: Question) -> Tensor:
        """(V,) float32 probabilities of the answer's first token, on the CPU."""

    def first_ids(self, variants: Sequence[str]) -> list[int]:
        """The first token of each variant, encoded without special tokens."""
        rows = [self.words(v, add_special_tokens=False).input_ids for v in variants]
        if not rows or not all(rows):
            raise ValueError(f"{list(variants)!r} must be texts of at least one token each")
        return [row[0] for row in rows]

    def probability(
        self, question: Question, variants: Sequence[str], deduplicate: bool = True
    ) -> float:
        ids = self.first_ids(variants)
        if deduplicate:
            ids = list(dict.fromkeys(ids))
        value = float(self.first_token(question)[ids].double().sum())
        if math.isnan(value):
            raise NoProbabilities(f"{self.name} gives probabilities that are not numbers")
        return value
