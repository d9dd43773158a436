"""Scores of pictures and prompts as rewards, in the two signatures of flow_grpo.

    reward_fn(images, prompts, metadata, ref_images=None, only_strict=True)
        -> (dict of lists, {})                        what its training loops call
    preference_score(scorer)(device)(images, prompts, metadata)
        -> scores, {}                                 an entry of its `multi_score`
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from impasto.rewards.inputs import as_pictures
from impasto.rewards.source import named
from impasto.score.base import Scorer, ScorerBroken
from impasto.spec import Spec

__all__ = ["PreferenceReward", "preference_score"]


class PreferenceReward:
    """A reward function for flow_grpo's training loops.

    scorer: one that reads prompts and gives no verdict ("pickscore-v1:weights=FOLDER"), or an
    object. device: of a scorer that is given by name. Raises ScorerBroken when it fails its
    self-test, ValueError for a scorer of verdicts.
    """

    def __init__(self, scorer: Scorer | str, *, device: str = "cpu") -> None:
        self.name = scorer.partition(":")[0] if isinstance(scorer, str) else ""
        self.scorer: Scorer = named(scorer, device) if isinstance(scorer, str) else scorer
        if self.scorer.gives_verdict:
            raise ValueError(f"scorer {scorer!r} judges demands, which a prompt alone does not "
                             f"state; use GenEvalReward")  # fmt: skip
        self.name = self.name or str(self.scorer.provenance()["id"])
        self.scorer.self_test()
        # Trainers call from several threads; a scorer's precision is a setting of the process.
        self._lock = threading.Lock()

    def rate(self, images: Any, prompts: Sequence[str]) -> list[float]:
        """The value of each picture by its prompt. images: see `inputs.as_pictures`.

        Raises ValueError when they differ in number, ScorerBroken for a value that is no number.
        """
        pictures = as_pictures(images)
        if len(pictures) != len(prompts):
            raise ValueError(f"{len(pictures)} pictures for {len(prompts)} prompts; give one for "
                             f"each")  # fmt: skip
        specs = [Spec(tag="", include=(), prompt=prompt) for prompt in prompts]
        if len({picture.shape for picture in pictures}) == 1:
            pictures = torch.stack(pictures)  # type: ignore[assignment]
        with self._lock:
            scores = self.scorer.score(pictures, specs)  # type: ignore[arg-type]
        for i, score in enumerate(scores):
            if not math.isfinite(score.value):
                raise ScorerBroken(f"{self.name} gave {score.value} for picture {i} of "
                                   f"{prompts[i]!r}; no reward is made of it")  # fmt: skip
        return [score.value for score in scores]

    def __call__(
        self, images: Any, prompts: Sequence[str], metadata: Any = None, ref_images: Any = None,
        only_strict: bool = True,
    ) -> tuple[dict[str, list[float]], dict[str, Any]]:  # fmt: skip
        """Lists under the scorer's name and "avg", which flow_grpo optimises.

        metadata and only_strict, which are GenEval's, are not looked at. Raises ValueError for
        ref_images.
        """
        if ref_images is not None:
            raise ValueError(f"ref_images are given; {self.name} compares with no picture")
        values = self.rate(images, prompts)
        return {self.name: values, "avg": list(values)}, {}


def preference_score(scorer: Scorer | str) -> Callable[[Any], Callable[..., Any]]:
    """What stands for `flow_grpo.rewards.pickscore_score` and its like in `multi_score`."""

    # A plain function: flow_grpo looks for `device` among the names in its code.
    def factory(device: Any) -> Callable[..., Any]:
        reward = PreferenceReward(scorer, device=str(device))

        def rate(
            images: Any, prompts: Sequence[str], metadata: Any
        ) -> tuple[list[float], dict[str, Any]]:
            return reward.rate(images, prompts), {}

        return rate

    return factory
