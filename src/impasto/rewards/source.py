"""Where rewards come from: a scorer in this process, or anything else with the same method."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from impasto.score.geneval import GenEvalScorer
from impasto.score.reward import Reward
from impasto.spec import Spec

__all__ = ["LocalReward", "Rewarder", "named"]


class Rewarder(Protocol):
    """Rewards of pictures."""

    def rate(
        self, images: Sequence[Tensor], specs: Sequence[Spec], *, as_published: bool = False
    ) -> list[Reward]:
        """The rewards of picture i, (3, H, W) in [0, 1], by spec i."""


class LocalReward:
    """A scorer of this process, asked by one thread at a time.

    scorer: one that judges by GenEval's rule, or its name with options. It is self-tested here:
    raises ScorerBroken, and ValueError for a scorer that gives no reward.
    """

    def __init__(self, scorer: GenEvalScorer | str, device: str = "cpu") -> None:
        self.scorer = named(scorer, device) if isinstance(scorer, str) else scorer
        if not isinstance(self.scorer, GenEvalScorer):
            raise ValueError(f"scorer {scorer!r} does not judge by GenEval's rule, so it gives no "
                             f"reward; allowed: geneval, sticker (scores of picture and prompt: "
                             f"impasto.rewards.PreferenceReward, in the trainer's process)"
                             )  # fmt: skip
        self.scorer.rewards([], [])  # refuses another rule
        self.scorer.self_test()
        # Trainers call from several threads; a scorer's precision is a setting of the process.
        self._lock = threading.Lock()

    def rate(
        self, images: Sequence[Tensor], specs: Sequence[Spec], *, as_published: bool = False
    ) -> list[Reward]:
        with self._lock:
            return self.scorer.rewards(images, specs, as_published=as_published)

    def provenance(self) -> dict[str, Any]:
        return self.scorer.provenance()


def named(name: str, device: str) -> Any:
    """The scorer called `name`, on `device`."""
    import impasto.score  # noqa: F401  its scorers register
    from impasto.zoo.registry import SCORERS

    return SCORERS.create(name, device=device)
