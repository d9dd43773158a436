"""GenEval as a training reward: in this process, or asked of `impasto serve --rewards`.

    reward = GenEvalReward("geneval:detector=FOLDER,clip=FOLDER", device="cuda")
    scores, _ = reward(images, prompts, metadata)          # as flow_grpo calls it

`rewards.flow_factory` holds the class that Flow-Factory loads by its path.
"""

from impasto.rewards.client import RemoteReward, ServerError
from impasto.rewards.flow_grpo import GenEvalReward, geneval_score
from impasto.rewards.source import LocalReward, Rewarder

__all__ = ["GenEvalReward", "LocalReward", "RemoteReward", "Rewarder", "ServerError",
           "geneval_score"]  # fmt: skip
