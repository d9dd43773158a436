"""GenEval as a training reward: in this process, or asked of `impasto serve --rewards`.

    reward = GenEvalReward("geneval:detector=FOLDER,clip=FOLDER", device="cuda")
    scores, _ = reward(images, prompts, metadata)          # as flow_grpo calls it

`PreferenceReward` is the same for scores of picture and prompt, such as PickScore's.
`rewards.flow_factory` holds the classes that Flow-Factory loads by their paths.
"""

from impasto.rewards.client import RemoteReward, ServerError
from impasto.rewards.flow_grpo import GenEvalReward, geneval_score
from impasto.rewards.preference import PreferenceReward, preference_score
from impasto.rewards.source import LocalReward, Rewarder

__all__ = ["GenEvalReward", "LocalReward", "PreferenceReward", "RemoteReward", "Rewarder",
           "ServerError", "geneval_score", "preference_score"]  # fmt: skip
