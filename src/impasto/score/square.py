"""A picture cut to its centre square, as the two libraries do it that CLIP's pictures go through.

Both resize the shorter side to the square's by Pillow's antialiased bicubic filter on 8 bits and
cut the middle of the longer; where the two rims are not equal, they differ by a pixel:

    torchvision     round((L - S) / 2), half to even     Resize, CenterCrop (OpenAI's `clip.py`)
    transformers    (L - S) // 2                         CLIPImageProcessor
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

__all__ = ["centre_square", "torchvision_rim", "transformers_rim"]

Rim = Callable[[int], int]
"""Pixels to cut in all, of the longer side, to those cut at its beginning."""


def torchvision_rim(excess: int) -> int:
    return round(excess / 2)


def transformers_rim(excess: int) -> int:
    return excess // 2


def centre_square(image: Image.Image, size: int, rim: Rim = torchvision_rim) -> Image.Image:
    """The picture's centre square, `size` pixels wide."""
    width, height = image.size
    short = min(width, height)
    image = image.resize((int(size * width / short), int(size * height / short)),
                         Image.Resampling.BICUBIC)  # fmt: skip
    left, top = rim(image.width - size), rim(image.height - size)
    return image.crop((left, top, left + size, top + size))
