"""Features of the package's own networks, and of CLIP models for CMMD.

    sticker-detector   mean over places of the U-Net's innermost features (128)
    sticker-clip       the picture's CLIP feature, of length 1 (128)
    clip               the same of any CLIP folder; CMMD's is OpenAI's ViT-L/14 at 336 px

CMMD resizes by PyTorch's bicubic without antialiasing (Jayasumana et al. 2024, released code).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from impasto.files import sha256_file
from impasto.score.clip import OPENAI, Normalisation, image_features, load_clip
from impasto.score.features.base import Extractor, Measures
from impasto.score.official import exact_float32
from impasto.score.voting import VotingDetector, read_maps
from impasto.zoo.registry import FEATURES
from impasto.zoo.weights import shipped_folder

__all__ = ["ClipExtractor", "DetectorExtractor"]

OWN: Measures = {"fd": {}, "kd": {}, "precision_recall": {"k": 3}}
PUBLISHED = {"hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14, "image_size": 336,
             "hidden_act": "quick_gelu"}  # fmt: skip
"""CMMD's network, in the words of its vision config."""


class DetectorExtractor(Extractor):
    """What the sticker detector's narrowest layer holds, averaged over places."""

    def __init__(self, detector: VotingDetector, sha256: str, only: str | None = None) -> None:
        """detector: of `VotingDetector.from_pretrained`. sha256: of its weights."""
        self.model, self.sha256 = detector.model, sha256
        width = int(self.model.config["block_out_channels"][-1])
        super().__init__("sticker_detector", OWN, {"pool": width}, only)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Raises ValueError when a side is not a multiple of 16 pixels."""
        kept: list[Tensor] = []
        hook = self.model.mid_block.register_forward_hook(
            lambda module, inputs, output: kept.append(output.mean((2, 3)))
        )
        try:
            with exact_float32():
                read_maps(self.model, images.to(self.model.device))
        finally:
            hook.remove()
        return {"pool": kept[0].float().cpu()}

    def provenance(self) -> dict[str, Any]:
        return self.record(self.sha256, "none")


class ClipExtractor(Extractor):
    """A CLIP model's feature of the whole picture, of length 1."""

    def __init__(
        self, model: CLIPModel, name: str, sha256: str, measures: Measures,
        normalisation: Normalisation, *, antialias: bool, only: str | None = None,
    ) -> None:  # fmt: skip
        """antialias: bilinear with it, as the sticker CLIP was trained; else bicubic without."""
        self.model, self.sha256, self.normalisation = model, sha256, normalisation
        self.mode = "bilinear" if antialias else "bicubic"
        self.antialias = antialias
        self.size: int = model.config.vision_config.image_size
        super().__init__(name, measures, {"pool": model.config.projection_dim}, only)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        small = F.interpolate(images.float().to(self.model.device), size=(self.size, self.size),
                              mode=self.mode, antialias=self.antialias)  # fmt: skip
        with exact_float32():
            return {"pool": image_features(self.model, self.normalisation(small))}

    def provenance(self) -> dict[str, Any]:
        how = f"{self.mode}, {'' if self.antialias else 'not '}antialiased, {self.size} px"
        return self.record(self.sha256, how)


@FEATURES.register("sticker-detector")
def sticker_detector(*, measures: str | None = None, device: str = "cpu") -> DetectorExtractor:
    """FD, KD, precision, recall by what the sticker detector sees.

    Raises FileNotFoundError when the weights are not in this installation.
    """
    folder = shipped_folder("sticker-detector")
    sha256 = sha256_file(folder / "diffusion_pytorch_model.safetensors")
    return DetectorExtractor(VotingDetector.from_pretrained(folder, device), sha256, measures)


@FEATURES.register("sticker-clip")
def sticker_clip(*, measures: str | None = None, device: str = "cpu") -> ClipExtractor:
    """FD, KD, CMMD, precision, recall by the CLIP trained on the sticker world.

    Raises FileNotFoundError when the weights are not in this installation.
    """
    model, _, sha256 = load_clip(shipped_folder("sticker-clip"), device)
    given = {**OWN, "cmmd": {}}
    return ClipExtractor(model, "sticker_clip", sha256, given, Normalisation(), antialias=True,
                         only=measures)  # fmt: skip


@FEATURES.register("clip")
def clip(*, folder: str, measures: str | None = None, device: str = "cpu") -> ClipExtractor:
    """CMMD (of OpenAI's ViT-L/14 at 336 px: cmmd_clip_l14_336), FD, KD, precision, recall.

    folder: what CLIPModel's and its tokenizer's `save_pretrained` wrote, with OpenAI's
    normalisation. Another architecture's results bear eight digits of its weights' sha256.
    """
    model, _, sha256 = load_clip(folder, device)
    vision = model.config.vision_config
    same = all(getattr(vision, key) == value for key, value in PUBLISHED.items())
    name = "clip_l14_336" if same else f"clip_{sha256[:8]}"
    return ClipExtractor(model, name, sha256, {"cmmd": {}, **OWN}, OPENAI, antialias=False,
                         only=measures)  # fmt: skip
