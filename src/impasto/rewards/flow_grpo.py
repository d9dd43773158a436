"""GenEval's reward in the two signatures of flow_grpo (yifan123/flow_grpo, commit 54809b5).

    reward_fn(images, prompts, metadata, ref_images=None, only_strict=True)
        -> (dict of lists, {})                        what its training loops call
    geneval_score(device)(images, prompts, metadatas, only_strict)
        -> scores, accuracies, strict ones, and both by tag      an entry of its `multi_score`

By tag, a picture of another tag holds -10, which its means leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from impasto.rewards.inputs import as_pictures, as_specs
from impasto.rewards.source import LocalReward, Rewarder
from impasto.score.geneval import GenEvalScorer
from impasto.score.reward import Reward
from impasto.spec import Spec

__all__ = ["FILLER", "TAGS", "GenEvalReward", "geneval_score"]

FILLER = -10.0
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

Groups = dict[str, list[float]]
FiveLists = tuple[list[float], list[float], list[float], Groups, Groups]


def _by_tag(specs: Sequence[Spec], values: Sequence[float]) -> Groups:
    return {tag: [value if spec.tag == tag else FILLER
                  for spec, value in zip(specs, values, strict=True)] for tag in TAGS}  # fmt: skip


class GenEvalReward:
    """A reward function for flow_grpo's training loops.

    source: a scorer or its name ("geneval:detector=FOLDER,clip=FOLDER"), or a `RemoteReward`.
    device: of a scorer that is given by name. as_published: a failed place adds a 1 beside its
    0, as flow_grpo's own reward does. Raises ScorerBroken when the scorer fails its self-test.
    """

    def __init__(
        self, source: GenEvalScorer | Rewarder | str, *, device: str = "cpu",
        as_published: bool = False,
    ) -> None:  # fmt: skip
        named = isinstance(source, (str, GenEvalScorer))
        self.source: Rewarder = LocalReward(source, device) if named else source  # type: ignore
        self.as_published = as_published

    def rate(
        self, images: Any, prompts: Sequence[str], metadata: Sequence[Any]
    ) -> tuple[list[Spec], list[Reward]]:
        """Specs and rewards of a batch. images: see `inputs.as_pictures`; metadata: lines of
        GenEval's metadata, as dicts or JSON. Raises ValueError."""
        specs = as_specs(metadata, prompts)
        return specs, self.source.rate(as_pictures(images), specs, as_published=self.as_published)

    def lists(self, images: Any, prompts: Sequence[str], metadata: Sequence[Any]) -> FiveLists:
        """Scores, accuracies, strict accuracies, and the latter two by tag."""
        specs, rewards = self.rate(images, prompts, metadata)
        accuracy = [one.accuracy for one in rewards]
        strict = [one.strict_accuracy for one in rewards]
        return ([one.score for one in rewards], accuracy, strict,
                _by_tag(specs, accuracy), _by_tag(specs, strict))  # fmt: skip

    def __call__(
        self, images: Any, prompts: Sequence[str], metadata: Sequence[Any],
        ref_images: Any = None, only_strict: bool = True,
    ) -> tuple[dict[str, list[float]], dict[str, Any]]:  # fmt: skip
        """Lists under flow_grpo's keys; "avg" is what it optimises, here the score.

        only_strict changes nothing: where flow_grpo's service then answers 0 for the accuracy to
        save time, it comes here from the same look at the picture. Raises ValueError for
        ref_images, which no demand of GenEval speaks of.
        """
        if ref_images is not None:
            raise ValueError("ref_images are given; GenEval's reward compares with no picture")
        scores, accuracy, strict, tag_accuracy, tag_strict = self.lists(images, prompts, metadata)
        named = {"accuracy": accuracy, "strict_accuracy": strict}
        named |= {f"{tag}_strict_accuracy": values for tag, values in tag_strict.items()}
        named |= {f"{tag}_accuracy": values for tag, values in tag_accuracy.items()}
        return named | {"geneval": scores, "avg": list(scores)}, {}


def geneval_score(
    source: GenEvalScorer | Rewarder | str, *, as_published: bool = False
) -> Callable[[Any], Callable[..., FiveLists]]:
    """What stands for `flow_grpo.rewards.geneval_score`, so that its `multi_score` mixes
    GenEval's with other rewards. source, as_published: as `GenEvalReward` takes them.
    """

    # A plain function: flow_grpo looks for `device` among the names in its code.
    def factory(device: Any) -> Callable[..., FiveLists]:
        reward = GenEvalReward(source, device=str(device), as_published=as_published)

        def rate(
            images: Any, prompts: Sequence[str], metadatas: Sequence[Any], only_strict: bool
        ) -> FiveLists:
            """only_strict changes nothing, see `GenEvalReward.__call__`."""
            return reward.lists(images, prompts, metadatas)

        return rate

    return factory
