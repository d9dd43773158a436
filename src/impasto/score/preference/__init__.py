"""Published preference scores by name. Importing this registers them.

The networks' libraries load when a scorer is made, not when this module is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from impasto.score.preference.variants import VARIANTS, Variant
from impasto.zoo.registry import SCORERS

if TYPE_CHECKING:
    from impasto.score.preference.aesthetic import AestheticScorer
    from impasto.score.preference.clip_scores import ClipPreference
    from impasto.score.preference.image_reward import ImageRewardScorer

__all__ = ["aesthetic_v1", "aesthetic_v2", "image_reward"]


def _register(variant: Variant) -> None:
    """A scorer for each cosine score; those whose square is resized in float have `antialias`."""
    name = variant.name

    def cosine(*, weights: str | None = None, tokenizer: str | None = None,
               device: str = "cpu") -> ClipPreference:  # fmt: skip
        from impasto.score.preference.load import load_cosine

        return load_cosine(name, weights, tokenizer, device)

    def hps(*, weights: str | None = None, tokenizer: str | None = None, antialias: bool = True,
            device: str = "cpu") -> ClipPreference:  # fmt: skip
        from impasto.score.preference.load import load_cosine

        return load_cosine(name, weights, tokenizer, device, antialias)

    factory = hps if variant.square == "padded" else cosine
    factory.__doc__ = variant.about
    SCORERS.register(name)(factory)


for _variant in VARIANTS.values():
    _register(_variant)


@SCORERS.register("image-reward-v1.0")
def image_reward(
    *, weights: str | None = None, tokenizer: str | None = None, device: str = "cpu"
) -> ImageRewardScorer:
    """ImageReward v1.0, BLIP's text encoder and a head (weights=FOLDER of impasto convert)

    tokenizer: BERT's, where the folder has none. Raises ValueError for another network.
    """
    from impasto.score.preference.load import load_image_reward

    return load_image_reward("image-reward-v1.0", weights, tokenizer, device)


@SCORERS.register("laion-aesthetic-v2")
def aesthetic_v2(
    *, weights: str | None = None, clip: str | None = None, device: str = "cpu"
) -> AestheticScorer:
    """LAION's aesthetic predictor v2, sac+logos+ava1; blind to prompts (weights=FILE,clip=FOLDER)

    weights: the published .pth. clip: ViT-L/14 of OpenAI. Raises ValueError for another head.
    """
    from impasto.score.preference.load import load_aesthetic

    return load_aesthetic("laion-aesthetic-v2", weights, clip, device)


@SCORERS.register("laion-aesthetic-v1")
def aesthetic_v1(
    *, weights: str | None = None, clip: str | None = None, device: str = "cpu"
) -> AestheticScorer:
    """LAION's aesthetic predictor v1, linear; blind to prompts (weights=FILE,clip=FOLDER)

    weights: the published .pth. clip: ViT-L/14 of OpenAI. Raises ValueError for another head.
    """
    from impasto.score.preference.load import load_aesthetic

    return load_aesthetic("laion-aesthetic-v1", weights, clip, device)
