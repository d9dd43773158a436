"""How a picture becomes the square that a published scorer looks at; each has its own way.

    torchvision     shorter side to S, Pillow's bicubic on 8 bits; centre by torchvision
    transformers    the same; centre by transformers, other by a pixel where rims are odd
    bilinear        shorter side to S, bilinear and antialiased, in float; centre by torchvision
    padded          longer side to S, bicubic in float and not clamped; black around it

"padded" is HPSv2's (`open_clip/transform.py`, ResizeMaxSize): the whole picture is seen, and its
padding is black before the normalisation. torchvision antialiases tensors since 0.17; before, and
so in the published figures of 2023, it did not: `antialias=False`. "bilinear" is DiffusionNFT's.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from impasto.images import from_pil, quantise, to_pil
from impasto.score.square import centre_square, torchvision_rim, transformers_rim

__all__ = ["SQUARES", "padded"]

Square = Callable[[Tensor, int], Tensor]
"""(3, H, W) in [0, 1] and S to (3, S, S)."""


def torchvision(image: Tensor, size: int) -> Tensor:
    return from_pil(centre_square(to_pil(image), size, torchvision_rim))


def transformers(image: Tensor, size: int) -> Tensor:
    return from_pil(centre_square(to_pil(image), size, transformers_rim))


def bilinear(image: Tensor, size: int) -> Tensor:
    height, width = image.shape[-2:]
    short = min(height, width)
    shape = int(size * height / short), int(size * width / short)
    small = F.interpolate(quantise(image)[None], shape, mode="bilinear", antialias=True)[0]
    top, left = (torchvision_rim(side - size) for side in shape)
    return small[:, top : top + size, left : left + size]


def padded(image: Tensor, size: int, antialias: bool = True) -> Tensor:
    height, width = image.shape[-2:]
    scale = size / max(height, width)
    shape = round(height * scale), round(width * scale)
    small = quantise(image)[None]
    if scale != 1:
        small = F.interpolate(small, shape, mode="bicubic", antialias=antialias)
    down, right = (size - side for side in shape)
    return F.pad(small[0], (right // 2, right - right // 2, down // 2, down - down // 2))


SQUARES: dict[str, Square] = {
    "torchvision": torchvision, "transformers": transformers, "bilinear": bilinear,
    "padded": padded, "padded, not antialiased": lambda image, size: padded(image, size, False),
}  # fmt: skip
