"""The sticker detector: a U-Net finds objects and their extent, CLIP names them.

A convolutional U-Net (diffusers' class, its time input held at 0) gives four maps, 2 px a cell:

    f = sigmoid(foreground)          h = sigmoid(centre heat)          (u, v) = offset to the centre

A peak of h is an object; every foreground pixel p votes for the peak nearest to p + 32 (u, v), as
in Panoptic-DeepLab (Cheng et al. 2020), so an object may have several parts. Its class is CLIP's:
with one text column per class and colour, p(class) is the sum of the softmax over the colours.

    score = p(class) * h(peak) * mean of f over the mask
"""

from __future__ import annotations

import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CELL", "OFFSET_SCALE", "Maps", "build_segmenter", "group", "read_maps", "segment"]

CELL = 2
"""Picture pixels per cell of the maps."""
OFFSET_SCALE = 32.0
"""Pixels per unit of the offset maps."""
PEAK = 0.3
REACH = 14.0
"""A vote further than this many pixels from every peak belongs to no object."""
MINIMAL_PIXELS = 12

Maps = tuple[Tensor, Tensor, Tensor]


def build_segmenter(name: str = "sticker") -> UNet2DModel:
    """A network with random weights: "sticker" (1.3 M parameters), or "tiny" for tests.

    Raises ValueError for another name.
    """
    widths = {"sticker": (32, 48, 64, 96), "tiny": (8, 8, 8, 8)}
    if name not in widths:
        raise ValueError(f"unknown segmenter preset {name!r}; allowed: {', '.join(widths)}")
    return UNet2DModel(
        sample_size=64, in_channels=3 * CELL**2, out_channels=4, layers_per_block=1,
        down_block_types=("DownBlock2D",) * 4, up_block_types=("UpBlock2D",) * 4,
        block_out_channels=widths[name], norm_num_groups=8, add_attention=False,
    )  # fmt: skip


def segment(model: UNet2DModel, images: Tensor) -> Tensor:
    """Maps' logits (B, 4, H / CELL, W / CELL) of pictures (B, 3, H, W) in [0, 1].

    Raises ValueError when a side is not a multiple of 16 pixels.
    """
    if images.shape[-1] % 16 or images.shape[-2] % 16:
        raise ValueError(f"the sticker detector takes pictures whose sides are multiples of 16 "
                         f"pixels, not {images.shape[-1]} x {images.shape[-2]}")  # fmt: skip
    return model(F.pixel_unshuffle(images * 2 - 1, CELL), 0).sample


def read_maps(logits: Tensor) -> Maps:
    """Logits (B, 4, h, w) as foreground (B, h, w), heat (B, h, w) and offsets (B, 2, h, w) in px."""
    return logits[:, 0].sigmoid(), logits[:, 1].sigmoid(), logits[:, 2:] * OFFSET_SCALE


def _peaks(heat: Tensor) -> tuple[Tensor, Tensor]:
    """Places (P, 2) xy in pixels and heights (P,) of the local maxima of heat (h, w)."""
    top = F.max_pool2d(heat[None, None], 5, 1, 2)[0, 0]
    at = torch.nonzero((heat == top) & (heat > PEAK))
    height = heat[at[:, 0], at[:, 1]]
    return (at.flip(1) + 0.5) * CELL, height


def group(foreground: Tensor, heat: Tensor, offsets: Tensor, size: tuple[int, int]
          ) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Masks (P, H, W) bool and scores (P,) of one picture's objects, from its maps.

    foreground, heat: (h, w), offsets: (2, h, w) in pixels. size: of the picture.
    """
    peaks, height = _peaks(heat)
    fg = F.interpolate(foreground[None, None], size=size, mode="bilinear")[0, 0]
    votes = F.interpolate(offsets[None], size=size, mode="bilinear")[0]
    ys, xs = torch.nonzero(fg > 0.5, as_tuple=True)
    if len(peaks) == 0 or len(ys) == 0:
        return torch.zeros(0, *size, dtype=torch.bool), torch.zeros(0)
    at = torch.stack([xs + 0.5 + votes[0, ys, xs], ys + 0.5 + votes[1, ys, xs]], 1)
    distance, owner = torch.cdist(at, peaks).min(1)
    masks = torch.zeros(len(peaks), *size, dtype=torch.bool)
    near = distance < REACH
    masks[owner[near], ys[near], xs[near]] = True
    sure = torch.stack([fg[m].mean() if m.any() else fg.new_zeros(()) for m in masks])
    keep = masks.flatten(1).sum(1) >= MINIMAL_PIXELS
    return masks[keep], (height * sure)[keep]
