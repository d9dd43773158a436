"""The reward of a search: a scorer that must give a finite number for every candidate, in time."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from impasto.sample.protocol import Cost
from impasto.score.base import Score, Scorer, ScorerBroken
from impasto.spec import Spec
from impasto.zoo.registry import SCORERS

__all__ = ["REWARD", "TIMEOUT", "Reward", "RewardBroken"]

REWARD = "sticker-match"
"""The default: neither the sticker world's judge nor its second scorer."""
TIMEOUT = 600.0
"""Seconds that a reward may take for one draw's candidates."""


class RewardBroken(ScorerBroken):
    """The reward raised, gave no number or did not come back: nothing can be chosen by it."""


class Reward:
    """Rewards of one draw's candidates, asked of together and by themselves.

    scorer: a scorer, or the name of one, of which `scorers` makes one. timeout: seconds for one
    call. Raises ValueError for an unknown name or a timeout that is not positive, ScorerBroken
    when the scorer fails its self-test.
    """

    def __init__(
        self, scorer: Scorer | str, scorers: Callable[[str], Scorer] = SCORERS.create,
        timeout: float = TIMEOUT,
    ) -> None:  # fmt: skip
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
            raise ValueError(f"timeout must be a positive number of seconds, given {timeout!r}")
        self.timeout = min(float(timeout), threading.TIMEOUT_MAX)
        self.name = scorer if isinstance(scorer, str) else type(scorer).__name__
        self.scorer = scorers(scorer) if isinstance(scorer, str) else scorer
        self.scorer.self_test()

    def __call__(self, images: Tensor, spec: Spec, where: str = "") -> tuple[float, ...]:
        """One finite number for each candidate, (n, 3, H, W).

        where: added to "candidate 2 of 'a prompt'" in messages. Raises RewardBroken;
        torch.OutOfMemoryError goes through, since the caller can go on with smaller batches.
        """
        of = f"{spec.prompt!r}{where}"
        try:
            scores = self._bounded(images, spec)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise RewardBroken(self._blame(images, spec, of, error)) from error
        if len(scores) != len(images):
            raise RewardBroken(f"reward {self.name!r} gave {len(scores)} scores for "
                               f"{len(images)} candidates of {of}")  # fmt: skip
        for candidate, score in enumerate(scores):
            if not math.isfinite(score.value):
                raise RewardBroken(f"reward {self.name!r} gave {score.value} for candidate "
                                   f"{candidate} of {of}")  # fmt: skip
        return tuple(float(score.value) for score in scores)

    def cost(self, images: Tensor) -> Cost:
        """Of one call."""
        each = self.scorer.flops(*images.shape[-2:])
        return Cost(reward_calls=len(images),
                    reward_flops=None if each is None else len(images) * each)  # fmt: skip

    def _bounded(self, images: Tensor, spec: Spec) -> Sequence[Score]:
        """The scores. Raises what the scorer raises, and TimeoutError.

        Nothing can stop a thread that hangs: it is a daemon, so the process can end without it.
        """
        answer: list[Sequence[Score]] = []
        failure: list[BaseException] = []

        def ask() -> None:
            try:
                with torch.cuda.device_of(images):
                    answer.append(self.scorer.score(images, [spec] * len(images)))
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=ask, name=f"reward {self.name}", daemon=True)
        thread.start()
        thread.join(self.timeout)
        if thread.is_alive():
            raise TimeoutError(f"no answer within {self.timeout:g} s")
        if failure:
            raise failure[0]
        return answer[0]

    def _blame(self, images: Tensor, spec: Spec, of: str, error: Exception) -> str:
        """What to say of a reward that failed: the first candidate that it fails on alone."""
        culprit = f"the {len(images)} candidates together"
        for candidate, image in enumerate(images):
            try:
                self._bounded(image[None], spec)
            except Exception as alone:
                culprit, error = f"candidate {candidate}", alone
                break
        return (f"reward {self.name!r} failed on {culprit} of {of}: "
                f"{type(error).__name__}: {error}")  # fmt: skip

    def provenance(self) -> dict[str, Any]:
        return {"name": self.name} | self.scorer.provenance()
