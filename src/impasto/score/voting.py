"""The sticker detector: a U-Net finds objects, their extent and their class.

A convolutional U-Net (diffusers' class, its time input held at 0) looks at cells of 4 px. Each
cell gives the logits of 80 classes, and in each of its four quarters (2 px)

    f = sigmoid(foreground)          h = sigmoid(centre heat)          (u, v) = way to the centre

A peak of h is an object; every foreground pixel p votes for the peak nearest to p + 32 (u, v), as
in Panoptic-DeepLab (Cheng et al. 2020), so an object may have several parts. The class is voted
by the object's pixels, and

    score = softmax(mean class logits over the mask)_c * h(peak) * mean of f over the mask
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from diffusers.models import UNet2DModel
from torch import Tensor
from torch.nn import functional as F

from impasto.score.base import Found
from impasto.score.detector import tight_boxes
from impasto.spec import CLASSES
from impasto.zoo.weights import load_weights

__all__ = ["CELL", "OFFSET_SCALE", "Maps", "VotingDetector", "build_network", "cells",
           "read_maps"]  # fmt: skip

CELL = 4
"""Picture pixels per side of a cell."""
PART = 2
"""Quarters per side of a cell."""
OFFSET_SCALE = 32.0
"""Pixels per unit of the offset maps."""
PEAK = 0.3
"""Heat of the faintest centre."""
REACH = 14.0
"""A vote further than this many pixels from every peak belongs to no object."""
MINIMAL_PIXELS = 12
MULTIPLE = 16
"""Sides of pictures are multiples of this: a cell, halved twice by the U-Net."""


class Maps(NamedTuple):
    """What the network says of B pictures. foreground, heat: logits (B, H / 2, W / 2); offsets:
    (B, 2, H / 2, W / 2), xy in units of 32 px; classes: logits (B, 80, H / 4, W / 4)."""

    foreground: Tensor
    heat: Tensor
    offsets: Tensor
    classes: Tensor


def build_network(name: str = "sticker") -> UNet2DModel:
    """A network with random weights: "sticker" (3.6 M parameters), or "tiny" for tests.

    Raises ValueError for another name.
    """
    widths = {"sticker": (64, 96, 128), "tiny": (8, 8, 8)}
    if name not in widths:
        raise ValueError(f"unknown detector preset {name!r}; allowed: {', '.join(widths)}")
    model = UNet2DModel(
        sample_size=32, in_channels=3 * CELL**2, out_channels=4 * PART**2 + len(CLASSES),
        layers_per_block=1, down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3, block_out_channels=widths[name], norm_num_groups=8,
        add_attention=False,
    )  # fmt: skip
    # Centres are rare: the heat starts low, as CenterNet's does.
    torch.nn.init.constant_(model.conv_out.bias[PART**2 : 2 * PART**2], -3.0)
    return model


def cells(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] as the network takes them, (B, 48, H / 4, W / 4).

    Raises ValueError when a side is not a multiple of 16 pixels.
    """
    if images.shape[-1] % MULTIPLE or images.shape[-2] % MULTIPLE:
        raise ValueError(f"the sticker detector takes pictures whose sides are multiples of "
                         f"{MULTIPLE} pixels, not {images.shape[-1]} x {images.shape[-2]}; "
                         f"resize them")  # fmt: skip
    return F.pixel_unshuffle(images * 2 - 1, CELL)


def read_maps(model: UNet2DModel, images: Tensor) -> Maps:
    """The maps of pictures (B, 3, H, W) in [0, 1]. Raises ValueError as `cells`."""
    out = model(cells(images), 0).sample
    fine = F.pixel_shuffle(out[:, : 4 * PART**2], PART).float()
    return Maps(fine[:, 0], fine[:, 1], fine[:, 2:], out[:, 4 * PART**2 :].float())


def _peaks(heat: Tensor) -> tuple[Tensor, Tensor]:
    """Places (P, 2) xy in pixels and heights (P,) of the local maxima of heat (h, w)."""
    top = F.max_pool2d(heat[None, None], 5, 1, 2)[0, 0]
    at = torch.nonzero((heat == top) & (heat > PEAK))
    return (at.flip(1) + 0.5) * (CELL // PART), heat[at[:, 0], at[:, 1]]


class VotingDetector:
    """A U-Net of `build_network` that finds objects in pictures (B, 3, H, W)."""

    def __init__(self, model: UNet2DModel) -> None:
        self.model = model.eval()

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: str | torch.device = "cpu"
    ) -> VotingDetector:
        """Load a folder written by diffusers' `save_pretrained`; runs in float32.

        Raises FileNotFoundError for a file that is missing, ValueError for weights that do not
        fit: diffusers' own loading would go on with random ones.
        """
        model = UNet2DModel.from_config(UNet2DModel.load_config(path, local_files_only=True))
        load_weights(model, Path(path) / "diffusion_pytorch_model.safetensors")
        return cls(model.to(device))

    @torch.inference_mode()
    def detect(self, images: Tensor) -> list[list[Found]]:
        """All objects of each picture, in no particular order.

        Raises ValueError when a side is not a multiple of 16 pixels.
        """
        maps = read_maps(self.model, images.to(self.model.device))
        size = (images.shape[-2], images.shape[-1])
        rows = zip(*(m.cpu() for m in maps), strict=True)
        return [self._found(Maps(*row), size) for row in rows]

    def _found(self, maps: Maps, size: tuple[int, int]) -> list[Found]:
        """The objects of one picture, from its maps without the batch axis."""
        peaks, height = _peaks(maps.heat.sigmoid())
        fg = F.interpolate(maps.foreground.sigmoid()[None, None], size=size, mode="bilinear")[0, 0]
        # Nearest: between two objects a mean of their votes would be a vote for a third.
        votes = F.interpolate(maps.offsets[None] * OFFSET_SCALE, size=size)[0]
        ys, xs = torch.nonzero(fg > 0.5, as_tuple=True)
        if len(peaks) == 0 or len(ys) == 0:
            return []
        at = torch.stack([xs + 0.5 + votes[0][ys, xs], ys + 0.5 + votes[1][ys, xs]], 1)
        distance, owner = torch.cdist(at, peaks).min(1)
        masks = torch.zeros(len(peaks), *size, dtype=torch.bool)
        near = distance < REACH
        masks[owner[near], ys[near], xs[near]] = True
        objects = (self._object(m, fg, h, maps.classes) for m, h in zip(masks, height, strict=True)
                   if int(m.sum()) >= MINIMAL_PIXELS)  # fmt: skip
        return list(objects)

    def _object(self, mask: Tensor, fg: Tensor, height: Tensor, classes: Tensor) -> Found:
        """One object: mask (H, W) bool, fg (H, W), height of its peak, class logits (80, h, w)."""
        share = F.avg_pool2d(mask[None].float(), CELL)[0]
        p = ((classes * share).sum((1, 2)) / share.sum()).softmax(0)
        score = p.max() * height * fg[mask].mean()
        box = tuple(tight_boxes(mask[None])[0].tolist())
        return Found(CLASSES[int(p.argmax())], box, float(score), mask)
