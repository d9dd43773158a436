"""N pictures of each draw, and one of them: the best, or one drawn by its reward.

    best of N               i* = argmax_i r(x_i, spec)            the lowest i among equals
    importance sampling     i* ~ p,  p_i ∝ exp(lam r(x_i, spec))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from impasto.score.base import Scorer
from impasto.search.engine import TreeSearch
from impasto.search.reward import REWARD, TIMEOUT, Reward
from impasto.search.selectors import Best, Resample
from impasto.zoo.registry import SCORERS, SEARCHES

if TYPE_CHECKING:
    from impasto.score.features.patches import Patches

__all__ = ["BestOfN", "Importance", "check_n"]


def check_n(search: str, n: Any) -> int:
    """Raises ValueError unless n is an integer >= 1."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"{search}: n must be an integer >= 1, given {n!r}")
    return n


class BestOfN(TreeSearch):
    """The best of `n` pictures per draw by a reward: a scorer, or the name of one."""

    independent = True

    def __init__(
        self, n: int, reward: Scorer | str = REWARD,
        scorers: Callable[[str], Scorer] = SCORERS.create, timeout: float = TIMEOUT,
    ) -> None:  # fmt: skip
        """scorers, timeout: see `Reward`. Raises ValueError for n < 1, and what `Reward` does."""
        self.n = self.width = check_n("best-of-n", n)
        self.final = Best(Reward(reward, scorers, timeout))

    def provenance(self) -> dict[str, Any]:
        return {"n": self.n} | self.final.provenance()


class Importance(TreeSearch):
    """One of `n` pictures per draw, drawn with probability ∝ exp(lam reward).

    Its first k candidates are those of the search at k, but not its choice: `independent` is of
    searches that take the best.
    """

    def __init__(
        self, n: int, reward: Scorer | str = REWARD, *, lam: float = 10.0,
        scorers: Callable[[str], Scorer] = SCORERS.create, timeout: float = TIMEOUT,
    ) -> None:  # fmt: skip
        """scorers, timeout: see `Reward`. Raises ValueError for n < 1 or a lam that is not finite
        and >= 0, and what `Reward` does."""
        self.n = self.width = check_n("importance", n)
        asked = Reward(reward, scorers, timeout)
        self.final: Resample = Resample(asked, "value", lam, kind="final")

    def provenance(self) -> dict[str, Any]:
        return {"n": self.n, "lam": self.final.lam, "reward": self.final.reward.provenance()}


@SEARCHES.register("best-of-n")
def best_of_n(
    *, n: int = 4, reward: Scorer | str = REWARD, timeout: float = TIMEOUT,
    scorers: Callable[[str], Scorer] = SCORERS.create,
    patches: Callable[[str], Patches] | None = None,
) -> BestOfN:  # fmt: skip
    """The best of n pictures per draw by a reward; options n, reward, timeout."""
    return BestOfN(n, reward, scorers, timeout)


@SEARCHES.register("importance")
def importance(
    *, n: int = 4, lam: float = 10.0, reward: Scorer | str = REWARD,
    timeout: float = TIMEOUT, scorers: Callable[[str], Scorer] = SCORERS.create,
    patches: Callable[[str], Patches] | None = None,
) -> Importance:  # fmt: skip
    """One of n pictures, with probability ∝ exp(lam reward); options n, lam, reward, timeout."""
    return Importance(n, reward, lam=lam, scorers=scorers, timeout=timeout)
