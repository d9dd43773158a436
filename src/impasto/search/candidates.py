"""What a wider search would choose among, each candidate as a picture of its own.

    sample j of a prompt  =  candidate j mod n of sample floor(j / n)

So a run of `n` times as many samples keeps all candidates of any search over finished pictures, of
width n and below, and what such a search draws can be taken from there (`impasto.run.pool`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from impasto.sample.protocol import Generator, Sampling
from impasto.score.base import Scorer
from impasto.search.base import Draw, Drawn, Progress
from impasto.search.best_of_n import check_n
from impasto.search.engine import Selector, TreeSearch
from impasto.search.reward import TIMEOUT, Reward
from impasto.search.selectors import Best, Only
from impasto.zoo.registry import SCORERS, SEARCHES

if TYPE_CHECKING:
    from impasto.score.features.patches import Patches

__all__ = ["Candidates"]


@dataclass(frozen=True)
class _Candidate(Draw):
    """A draw whose first candidate is the draw's candidate of this number."""

    number: int = 0

    def row_seed(self, candidate: int = 0) -> int:
        return super().row_seed(self.number + candidate)


class Candidates(TreeSearch):
    """Keeps every candidate. reward: a scorer, or the name of one, whose value of each is kept
    with it; None for no values."""

    def __init__(
        self, n: int, reward: Scorer | str | None = None,
        scorers: Callable[[str], Scorer] = SCORERS.create, timeout: float = TIMEOUT,
    ) -> None:  # fmt: skip
        """scorers, timeout: see `Reward`. Raises ValueError for n < 1, and what `Reward` does."""
        self.n = check_n("candidates", n)
        self.final: Selector = (
            Only() if reward is None else Best(Reward(reward, scorers, timeout)))

    def draw(
        self, generator: Generator, draws: Sequence[Draw], sampling: Sampling, batch_size: int,
        progress: Progress | None = None,
    ) -> list[Drawn]:  # fmt: skip
        """Each draw's own candidate, in order. Errors: as of every search by the engine."""
        own = [_Candidate(draw.spec, draw.seed, draw.sample // self.n, draw.text,
                          draw.sample % self.n) for draw in draws]  # fmt: skip
        return super().draw(generator, own, sampling, batch_size, progress)

    def provenance(self) -> dict[str, Any]:
        return {"n": self.n} | self.final.provenance()


@SEARCHES.register("candidates")
def candidates(
    *, n: int = 1, reward: Scorer | str | None = None, timeout: float = TIMEOUT,
    scorers: Callable[[str], Scorer] = SCORERS.create,
    patches: Callable[[str], Patches] | None = None,
) -> Candidates:  # fmt: skip
    """Keeps every one of n candidates, not the best alone; options n, reward, timeout."""
    return Candidates(n, reward, scorers, timeout)
