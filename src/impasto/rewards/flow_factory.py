"""Reward models of Flow-Factory (X-GenGroup/Flow-Factory, commit 5f6cda1): GenEval, preferences.

    rewards:
      - name: geneval
        reward_model: impasto.rewards.flow_factory.GenEvalRewardModel
        batch_size: 16
        scorer: "geneval:detector=FOLDER,clip=FOLDER"     # or server_url: http://127.0.0.1:8000

      - name: pickscore
        reward_model: impasto.rewards.flow_factory.PreferenceRewardModel
        scorer: "pickscore-v1:weights=FOLDER"

Further keys of GenEval's: token (of the service), reward (score, accuracy or strict_accuracy) and
as_published. Flow-Factory imports this module; without Flow-Factory it cannot be imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from flow_factory.rewards.abc import PointwiseRewardModel, RewardModelOutput

from impasto.rewards.client import RemoteReward
from impasto.rewards.flow_grpo import GenEvalReward
from impasto.rewards.preference import PreferenceReward

__all__ = ["REWARDS", "GenEvalRewardModel", "PreferenceRewardModel"]

REWARDS = ("score", "accuracy", "strict_accuracy")


class GenEvalRewardModel(PointwiseRewardModel):  # type: ignore[misc]
    """One of `REWARDS` per picture; the others and the reasons are in `extra_info`."""

    required_fields: ClassVar[tuple[str, ...]] = ("prompt", "image", "metadata")
    use_tensor_inputs: ClassVar[bool] = True

    def __init__(self, config: Any, accelerator: Any) -> None:
        super().__init__(config, accelerator)
        self.reward = getattr(config, "reward", "score")
        if self.reward not in REWARDS:
            raise ValueError(f"unknown reward {self.reward!r}; allowed: {', '.join(REWARDS)}")
        published = getattr(config, "as_published", False)
        self.source = GenEvalReward(_source(config), device=str(self.device),
                                    as_published=published)  # fmt: skip

    def __call__(
        self, prompt: Sequence[str], image: Sequence[Any] | None = None,
        metadata: Sequence[Any] | None = None,
    ) -> Any:  # fmt: skip
        """Rewards of pictures. image: (3, H, W) tensors or PIL images; metadata: JSON, or dicts,
        of GenEval. Raises ValueError where one is missing."""
        if image is None or metadata is None:
            missing = "image" if image is None else "metadata"
            raise ValueError(f"the samples have no {missing}; GenEval's reward needs pictures, "
                             f"and a data set whose lines hold tag and include")  # fmt: skip
        _, rewards = self.source.rate(image, prompt, metadata)
        values = {name: [getattr(one, name) for one in rewards] for name in REWARDS}
        return RewardModelOutput(
            rewards=torch.tensor(values[self.reward], dtype=torch.float32, device=self.device),
            extra_info=values | {"reason": [one.reason for one in rewards]},
        )


def _source(config: Any) -> Any:
    scorer, url = getattr(config, "scorer", None), getattr(config, "server_url", None)
    if (scorer is None) == (url is None):
        raise ValueError("give either scorer (GenEval in the trainer's process) or server_url "
                         "(of impasto serve --rewards)")  # fmt: skip
    return scorer if url is None else RemoteReward(url, token=getattr(config, "token", None))


class PreferenceRewardModel(PointwiseRewardModel):  # type: ignore[misc]
    """The value of a scorer that reads prompts, one per picture."""

    required_fields: ClassVar[tuple[str, ...]] = ("prompt", "image")
    use_tensor_inputs: ClassVar[bool] = True

    def __init__(self, config: Any, accelerator: Any) -> None:
        super().__init__(config, accelerator)
        if (scorer := getattr(config, "scorer", None)) is None:
            raise ValueError("give scorer, such as pickscore-v1:weights=FOLDER")
        self.source = PreferenceReward(scorer, device=str(self.device))

    def __call__(self, prompt: Sequence[str], image: Sequence[Any] | None = None) -> Any:
        """Rewards of pictures: (3, H, W) tensors or PIL images. Raises ValueError without."""
        if image is None:
            raise ValueError("the samples have no image; a preference is of pictures")
        values = self.source.rate(image, prompt)
        rewards = torch.tensor(values, dtype=torch.float32, device=self.device)
        return RewardModelOutput(rewards=rewards, extra_info={})
