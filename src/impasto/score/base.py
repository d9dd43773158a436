"""What every scorer is: pictures and specs in, one `Score` each out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from impasto.spec import Spec

__all__ = ["Found", "Inspected", "Inspector", "Score", "Scorer", "ScorerBroken", "Seen",
           "Wanted"]  # fmt: skip


class ScorerBroken(RuntimeError):
    """The scorer failed its self-test: no score may be printed."""


@dataclass(frozen=True)
class Found:
    """One object that a detector found. box: (x1, y1, x2, y2), end-exclusive pixels."""

    cls: str
    box: tuple[float, float, float, float]
    score: float
    mask: Tensor | None = field(default=None, repr=False, compare=False)
    """(H, W) bool, in the picture's own size; None from a detector that was told that nobody
    will look at it."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What will be looked at of one picture's objects: a detector may leave out the rest.

    classes: of the objects; None for all. above: objects count at scores strictly above this.
    masks: classes whose masks are looked at; None for all.
    """

    classes: frozenset[str] | None = None
    above: float = 0.0
    masks: frozenset[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """The judgement of one picture.

    value: the number that a search maximises (1.0 or 0.0 for a verdict); NaN where a judge's
    answer could not be read. correct: the verdict, or None where the scorer gives none. reason:
    why not, one failure a line. details: class -> list of [x1, y1, x2, y2, score] of the objects
    that counted. scores: the parts that the value is made of, by name.
    """

    value: float
    correct: bool | None = None
    reason: str = ""
    details: Mapping[str, list[list[float]]] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


class Seen(NamedTuple):
    """An object that counted. shares: probabilities of `COLORS`, where its colour was asked."""

    found: Found
    shares: tuple[float, ...] | None = None


class Inspected(NamedTuple):
    """A picture's score with the objects it comes from, class by class, best first."""

    score: Score
    objects: tuple[Seen, ...]


@runtime_checkable
class Inspector(Protocol):
    """A scorer that can show what its verdict comes from."""

    def inspect(self, images: Tensor, specs: Sequence[Spec]) -> list[Inspected]:
        """`score`, with the objects that were seen."""


class Scorer(ABC):
    """Judges pictures against specs. Subclasses register in `impasto.zoo.registry.SCORERS`."""

    gives_verdict: ClassVar[bool] = False
    """Whether `Score.correct` is set: only such scorers can judge a bench with a rule."""
    by_key: ClassVar[bool] = False
    """Whether it judges numbered items by the specs' keys (edits, compositions, a file's items)
    and not what a prompt demands."""

    @abstractmethod
    def score(self, images: Tensor, specs: Sequence[Spec]) -> list[Score]:
        """Judge picture i, (B, 3, H, W) in [0, 1], against spec i."""

    def flops(self, height: int, width: int) -> float | None:
        """FLOPs of judging one picture of this size, 2 per multiply-add; None where it does not
        count them."""
        return None

    @abstractmethod
    def self_test(self) -> None:
        """Score built-in pictures with known verdicts. Raises ScorerBroken when one is wrong."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Id, sha256 of the weights, thresholds, preprocessing."""
