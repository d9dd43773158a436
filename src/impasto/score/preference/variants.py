"""The published cosine scores, each with all that decides its number."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HUB", "VARIANTS", "Variant"]

HUB = {
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "ViT-H/14": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
}
"""Architecture -> hub id that has its config and tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A score's name and what it computes.

    about: a line for lists. architecture: of `ARCHITECTURES`. function: of `FUNCTIONS`. square: of
    `SQUARES`. weights: whose. prefix: before the prompt. kind: of the conversion that made the
    folder, where the weights are not published in transformers' form.
    """

    name: str
    about: str
    architecture: str
    function: str
    square: str
    weights: str
    prefix: str = ""
    kind: str | None = None


PHOTO = "A photo depicts "
"""Hessel et al. 2021, `clipscore.py`."""
B32, L14, H14 = HUB

# Hessel's code is for B/32; L/14 is the same formula with the larger model.
# torchmetrics clips at 0 as well, but only the mean of all pictures.
VARIANTS = {one.name: one for one in (
    Variant(name="clipscore-b32", about="CLIPScore, 2.5 max(cos, 0) by CLIP ViT-B/32, prefixed "
            "'A photo depicts' (weights=FOLDER)",
            architecture=B32, function="2.5 max(c, 0)", square="torchvision",
            weights=HUB[B32], prefix=PHOTO),
    Variant(name="clipscore-l14", about="CLIPScore's formula and prefix by CLIP ViT-L/14 "
            "(weights=FOLDER)",
            architecture=L14, function="2.5 max(c, 0)", square="torchvision",
            weights=HUB[L14], prefix=PHOTO),
    Variant(name="clip100-b32", about="100 cos by CLIP ViT-B/32, the bare prompt: torchmetrics' "
            "CLIPScore (weights=FOLDER)",
            architecture=B32, function="100 c", square="transformers", weights=HUB[B32]),
    Variant(name="clip100-l14", about="100 cos by CLIP ViT-L/14, the bare prompt: torchmetrics' "
            "CLIPScore and its default (weights=FOLDER)",
            architecture=L14, function="100 c", square="transformers", weights=HUB[L14]),
    Variant(name="clip-l14-nft", about="CLIP ViT-L/14's logit / 100 as DiffusionNFT's reward has "
            "it, resized bilinearly (weights=FOLDER)",
            architecture=L14, function="s c / 100", square="bilinear", weights=HUB[L14]),
    Variant(name="pickscore-v1", about="PickScore v1, scale × cos by its ViT-H/14 "
            "(weights=yuvalkirstain/PickScore_v1)",
            architecture=H14, function="s c", square="transformers",
            weights="yuvalkirstain/PickScore_v1"),
    Variant(name="pickscore-v1-over-26", about="PickScore v1 divided by 26, Flow-GRPO's reward "
            "(weights=yuvalkirstain/PickScore_v1)",
            architecture=H14, function="s c / 26", square="transformers",
            weights="yuvalkirstain/PickScore_v1"),
    Variant(name="hps-v2.0", about="Human Preference Score v2.0, cos by its ViT-H/14 "
            "(weights=FOLDER of impasto convert)",
            architecture=H14, function="c", square="padded",
            weights="HPS_v2_compressed.pt of xswu/HPSv2", kind="hps-v2.0"),
    Variant(name="hps-v2.1", about="Human Preference Score v2.1, cos by its ViT-H/14 "
            "(weights=FOLDER of impasto convert)",
            architecture=H14, function="c", square="padded",
            weights="HPS_v2.1_compressed.pt of xswu/HPSv2", kind="hps-v2.1"),
)}  # fmt: skip
