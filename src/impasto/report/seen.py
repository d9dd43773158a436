"""What the detector saw, drawn: masks as paths over the picture, colour crops with their bars."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from impasto.images import read_image, to_pil
from impasto.run.seen import View
from impasto.score.base import Seen
from impasto.score.crop import color_crop
from impasto.spec import COLORS

__all__ = ["BARS", "Crop", "crops", "mask_path"]

GRID = 128
"""Rows and columns that a mask is drawn with, at most."""
CROP = 64
"""Side of a colour crop on the page, in pixels."""
BARS = COLORS
"""The bars' order."""


@dataclass(frozen=True)
class Crop:
    """An object as the colour classifier looked at it.

    src: a data: URI. bars: (colour, its probability) of all ten; likeliest: the one taken.
    """

    cls: str
    src: str
    bars: tuple[tuple[str, float], ...]

    @property
    def likeliest(self) -> str:
        return max(self.bars, key=lambda bar: bar[1])[0]


def mask_path(mask: Tensor) -> str:
    """SVG path data that fills (H, W) bool, in the picture's pixels, on a grid of at most GRID."""
    step = -(-max(mask.shape) // GRID)
    coarse = mask[step // 2 :: step, step // 2 :: step]
    parts, none = [], torch.zeros(1)
    for y, row in enumerate(coarse):
        edges = torch.diff(row.int(), prepend=none, append=none).nonzero()[:, 0]
        for x1, x2 in edges.reshape(-1, 2).tolist():
            width = (x2 - x1) * step
            parts.append(f"M{x1 * step} {y * step}h{width}v{step}h-{width}z")
    return "".join(parts)


def crops(path: Path, view: View) -> tuple[Crop, ...]:
    """The objects of the picture file whose colour was asked. No network is asked."""
    asked = [one for one in view.objects if one.shares is not None and one.found.mask is not None]
    if not asked:
        return ()
    image = read_image(path)
    return tuple(_crop(image, one) for one in asked)


def _crop(image: Tensor, seen: Seen) -> Crop:
    buffer = io.BytesIO()
    to_pil(color_crop(image, seen.found, CROP)).save(buffer, format="WEBP", quality=80, method=4)
    src = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    shares: Sequence[float] = seen.shares or ()
    return Crop(seen.found.cls, src, tuple(zip(BARS, shares, strict=True)))
