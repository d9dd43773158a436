"""What a wider search would choose among, each candidate as a picture of its own.

    sample j of a prompt  =  candidate j mod n of sample floor(j / n)

So a run of `n` times as many samples keeps all candidates of any search over independent draws, of
width n and below, and what such a search draws can be taken from there (`impasto.run.pool`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from impasto.sample.protocol import Generator, Sampling
from impasto.score.base import Scorer
from impasto.search.base import Candidate, Draw, Drawn, Progress, Search, draw_rows
from impasto.search.best_of_n import BestOfN
from impasto.zoo.registry import SCORERS, SEARCHES

__all__ = ["Candidates"]


class Candidates(Search):
    """Keeps every candidate. reward: a scorer, or the name of one, whose value of each is kept
    with it; None for no values."""

    def __init__(self, n: int, reward: Scorer | str | None = None,
                 scorers: Callable[[str], Scorer] = SCORERS.create) -> None:  # fmt: skip
        """Raises ValueError for n < 1 or an unknown name, ScorerBroken for a broken reward."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"candidates: n must be an integer >= 1, given {n!r}")
        self.n = n
        self.rated = None if reward is None else BestOfN(1, reward, scorers)

    def draw(
        self, generator: Generator, draws: Sequence[Draw], sampling: Sampling, batch_size: int,
        progress: Progress | None = None,
    ) -> list[Drawn]:  # fmt: skip
        """Each draw's own candidate, in order. Raises RewardBroken naming the prompt."""
        rows = [(replace(draw, sample=draw.sample // self.n), draw.sample % self.n)
                for draw in draws]  # fmt: skip
        drawn = draw_rows(generator, rows, sampling, batch_size, progress)
        return [Drawn(image, (Candidate(draw.row_seed(i), self._value(image, draw)),), 0, cost)
                for (draw, i), (image, cost) in zip(rows, drawn, strict=True)]  # fmt: skip

    def _value(self, image: Any, draw: Draw) -> float | None:
        """The reward of one picture (3, H, W), looked at by itself whatever the batch."""
        return None if self.rated is None else self.rated._values(image[None], draw.spec)[0]

    def provenance(self) -> dict[str, Any]:
        reward = None if self.rated is None else self.rated.provenance()["reward"]
        return {"n": self.n} | ({} if reward is None else {"reward": reward})


@SEARCHES.register("candidates")
def candidates(
    *, n: int = 1, reward: Scorer | str | None = None,
    scorers: Callable[[str], Scorer] = SCORERS.create,
) -> Candidates:  # fmt: skip
    """Every candidate that a search of width n has, as n samples each; options n, reward."""
    return Candidates(n, reward, scorers)
