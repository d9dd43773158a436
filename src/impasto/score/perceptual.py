"""Perceptual distances on the world's own networks, by LPIPS's formula without learnt heads.

    d(x, y) = mean over layers l of mean over places of |f_l(x) - f_l(y)|^2

f_l: a layer's features, of length 1 at every place, so d is from 0 to 4.

    sticker-detector   every block of the sticker detector's U-Net: also a loss to train by
    sticker-clip       every layer of the sticker CLIP's picture tower: what a loss by the detector
                       has not seen

LPIPS itself needs weights that cannot come with the package (`score.lpips`). Formula: Zhang et al.
2018 (arXiv 1801.03924), equation 1, all w = 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.files import sha256_file
from impasto.score.clip import Normalisation, load_clip_model
from impasto.score.lpips import Lpips
from impasto.score.official import exact_float32
from impasto.score.voting import VotingDetector, cells
from impasto.zoo.registry import PERCEPTUAL
from impasto.zoo.weights import shipped_folder

__all__ = ["ClipDistance", "DetectorDistance", "Lpips", "NetworkDistance"]


class NetworkDistance(ABC):
    """name: of the distance. sha256: of the network's weights."""

    def __init__(self, model: nn.Module, name: str, sha256: str) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.name, self.sha256 = name, sha256

    @abstractmethod
    def features(self, images: Tensor) -> list[Tensor]:
        """(B, C_l, ...) a layer, of pictures (B, 3, H, W) in [0, 1]."""

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,) distances of pictures (B, 3, H, W) in [0, 1], with y's gradient; x is the truth.

        Raises ValueError for pictures of different sizes.
        """
        if x.shape != y.shape or x.ndim != 4:
            raise ValueError(f"pictures must be two of (B, 3, H, W), given {tuple(x.shape)} and "
                             f"{tuple(y.shape)}")  # fmt: skip
        with torch.no_grad():
            truth = self.features(x)
        layers = [(F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1)
                  for a, b in zip(truth, self.features(y), strict=True)]  # fmt: skip
        return torch.stack([layer.flatten(1).mean(1) for layer in layers]).mean(0)

    @torch.inference_mode()
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """`distance` in float32 on the network's device; (B,) on the CPU."""
        device = next(self.model.parameters()).device
        with exact_float32():
            return self.distance(x.to(device).float(), y.to(device).float()).cpu()

    def provenance(self) -> dict[str, Any]:
        return {"name": self.name, "sha256": self.sha256}


class DetectorDistance(NetworkDistance):
    """Of the sticker detector's U-Net; sides must be multiples of 16 pixels."""

    def features(self, images: Tensor) -> list[Tensor]:
        model, x = self.model, cells(images)
        at = model.time_embedding(model.time_proj(x.new_zeros(len(x))).to(x.dtype))
        x = model.conv_in(x)
        kept, skipped = [], [x]
        for block in model.down_blocks:
            x, states = block(hidden_states=x, temb=at)
            skipped += states
            kept.append(x)
        x = model.mid_block(x, at)
        kept.append(x)
        for block in model.up_blocks:
            n = len(block.resnets)
            states, skipped = tuple(skipped[-n:]), skipped[:-n]
            x = block(x, states, at)
            kept.append(x)
        return kept


class ClipDistance(NetworkDistance):
    """Of a CLIP's picture tower (transformers' CLIPVisionModel); the picture comes to its square
    whole, bilinear and antialiased."""

    def features(self, images: Tensor) -> list[Tensor]:
        side = self.model.config.image_size
        small = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        states = self.model(pixel_values=Normalisation()(small), output_hidden_states=True)
        return [state.transpose(1, 2) for state in states.hidden_states]


@PERCEPTUAL.register("sticker-detector")
def sticker_detector(*, device: str = "cpu") -> DetectorDistance:
    """Distance of the sticker detector's features, all layers.

    Raises FileNotFoundError when the weights are not in this installation.
    """
    folder = shipped_folder("sticker-detector")
    model = VotingDetector.from_pretrained(folder, device).model
    sha256 = sha256_file(folder / "diffusion_pytorch_model.safetensors")
    return DetectorDistance(model, "perceptual_sticker_detector", sha256)


@PERCEPTUAL.register("sticker-clip")
def sticker_clip(*, device: str = "cpu") -> ClipDistance:
    """Distance of the sticker CLIP's features, all layers.

    Raises FileNotFoundError when the weights are not in this installation.
    """
    model, sha256 = load_clip_model(shipped_folder("sticker-clip"), device)
    return ClipDistance(model.vision_model, "perceptual_sticker_clip", sha256)
