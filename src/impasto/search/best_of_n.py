"""Best of N: draw N candidates of each picture and keep the one with the highest reward.

i* = argmax_i r(x_i, spec),    i = 0 .. N - 1;    the lowest i among equals
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from impasto.sample.protocol import Cost, Generator, Sampling
from impasto.score.base import Scorer, ScorerBroken
from impasto.search.base import Candidate, Draw, Drawn, Progress, Search, draw_rows
from impasto.spec import Spec
from impasto.zoo.registry import SCORERS, SEARCHES

__all__ = ["BestOfN", "RewardBroken"]


class RewardBroken(ScorerBroken):
    """The reward raised, or gave no number: there is no best candidate."""


class BestOfN(Search):
    """The best of `n` pictures per draw by a reward.

    reward: a scorer, or the name of one. A draw's candidates are scored together and by
    themselves, so what a reward says of them does not depend on the batch they were drawn in.
    """

    independent = True

    def __init__(self, n: int, reward: Scorer | str = "sticker-clip",
                 scorers: Callable[[str], Scorer] = SCORERS.create) -> None:  # fmt: skip
        """scorers: how a name becomes a scorer. Raises ValueError for n < 1 or an unknown name,
        ScorerBroken when the reward fails its self-test."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"best-of-n: n must be an integer >= 1, given {n!r}")
        self.n = self.width = n
        self.name = reward if isinstance(reward, str) else type(reward).__name__
        self.reward = scorers(reward) if isinstance(reward, str) else reward
        self.reward.self_test()

    def draw(
        self, generator: Generator, draws: Sequence[Draw], sampling: Sampling, batch_size: int,
        progress: Progress | None = None,
    ) -> list[Drawn]:  # fmt: skip
        """The best candidate of each draw, in order; candidates of all draws share batches.

        Raises RewardBroken naming prompt and candidate.
        """
        rows = [(draw, candidate) for draw in draws for candidate in range(self.n)]
        drawn = draw_rows(generator, rows, sampling, batch_size, progress)
        return [self._best(draw, list(islice(drawn, self.n))) for draw in draws]

    def _best(self, draw: Draw, drawn: Sequence[tuple[Tensor, Cost]]) -> Drawn:
        values = self._values(torch.stack([image for image, _ in drawn]), draw.spec)
        chosen = values.index(max(values))
        candidates = tuple(Candidate(draw.row_seed(i), value) for i, value in enumerate(values))
        return Drawn(drawn[chosen][0], candidates, chosen, sum((c for _, c in drawn), Cost()))

    def _values(self, images: Tensor, spec: Spec) -> list[float]:
        """The rewards of one draw's candidates (n, 3, H, W)."""
        try:
            scores = self.reward.score(images, [spec] * len(images))
        except torch.OutOfMemoryError:
            raise  # the caller can go on with smaller batches
        except Exception as error:
            raise RewardBroken(self._blame(images, spec, error)) from error
        if len(scores) != len(images):
            raise RewardBroken(f"reward {self.name!r} gave {len(scores)} scores for "
                               f"{len(images)} candidates of {spec.prompt!r}")  # fmt: skip
        for candidate, score in enumerate(scores):
            if not math.isfinite(score.value):
                raise RewardBroken(f"reward {self.name!r} gave {score.value} for candidate "
                                   f"{candidate} of {spec.prompt!r}")  # fmt: skip
        return [float(score.value) for score in scores]

    def _blame(self, images: Tensor, spec: Spec, error: Exception) -> str:
        """What to say of a reward that raised: the first candidate that it raises on alone."""
        culprit = f"the {len(images)} candidates together"
        for candidate, image in enumerate(images):
            try:
                self.reward.score(image[None], [spec])
            except Exception as alone:
                culprit, error = f"candidate {candidate}", alone
                break
        return (f"reward {self.name!r} failed on {culprit} of {spec.prompt!r}: "
                f"{type(error).__name__}: {error}")  # fmt: skip

    def provenance(self) -> dict[str, Any]:
        return {"n": self.n, "reward": {"name": self.name} | self.reward.provenance()}


@SEARCHES.register("best-of-n")
def best_of_n(
    *, n: int = 4, reward: Scorer | str = "sticker-clip",
    scorers: Callable[[str], Scorer] = SCORERS.create,
) -> BestOfN:  # fmt: skip
    """The best of n pictures per draw by a reward; options n, reward."""
    return BestOfN(n, reward, scorers)
