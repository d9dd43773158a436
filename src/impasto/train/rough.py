"""Pictures made a little worse, so that what judges them also knows a generator's."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["coarse", "roughen", "warped"]

SIDES = (16, 24, 32, 48, 64)
KNOTS = 6


def roughen(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1], six of ten blurred, noisy and of changed contrast."""
    b = len(images)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)

    def amount(high: float) -> Tensor:
        return torch.rand(b, 1, 1, 1, device=images.device) * high

    use = (torch.rand(b, 1, 1, 1, device=images.device) < 0.6).float()
    rough = torch.lerp(images, blurred, amount(0.8))
    rough = rough + torch.randn_like(rough) * amount(0.03)
    rough = (rough - 0.5) * (1 + amount(0.2) - 0.1) + 0.5 + amount(0.08) - 0.04
    return torch.lerp(images, rough, use).clamp(0, 1)


@cache
def _coarsening(size: int, side: int, device: torch.device) -> Tensor:
    """(size, size): a line of `size` pixels shrunk to `side` and enlarged again.

    Resizing is linear and the same along both axes, so it is two products a picture; torch's own
    kernels take one thread a pixel for the whole batch, which for few pixels is slow on a GPU.
    """
    lines = torch.eye(size, device=device)[None, None]
    small = F.interpolate(lines, size=(side, size), mode="bilinear", antialias=True)
    return F.interpolate(small, size=(size, size), mode="bicubic")[0, 0]


@cache
def _bends(size: int, device: torch.device) -> Tensor:
    """(size, KNOTS): a smooth line through `KNOTS` values."""
    knots = torch.eye(KNOTS, device=device)[None, None]
    return F.interpolate(knots, size=(size, KNOTS), mode="bicubic", align_corners=True)[0, 0]


def coarse(images: Tensor, share: float = 0.35) -> Tensor:
    """Square pictures (B, 3, S, S) in [0, 1], a share of them shrunk to one of `SIDES` and
    enlarged again, as coarse scales look."""
    side = SIDES[int(torch.randint(len(SIDES), ()))]
    way = _coarsening(images.shape[-1], side, images.device)
    large = (way @ images @ way.T).clamp(0, 1)
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < share
    return torch.where(chosen, large, images)


def warped(images: Tensor, share: float = 0.5, pixels: float = 3.0) -> Tensor:
    """Square pictures (B, 3, S, S), a share of them bent: `KNOTS` x `KNOTS` random shifts of up
    to `pixels` a side, smooth between, as a generator draws shapes that are nearly right."""
    b, size, device = len(images), images.shape[-1], images.device
    chosen = (torch.rand(b, 1, 1, 1, device=device) < share).float()
    knots = (torch.rand(b, 2, KNOTS, KNOTS, device=device) * 2 - 1) * chosen * pixels
    way = _bends(size, device)
    shift = (way @ knots @ way.T).permute(0, 2, 3, 1)
    same = F.affine_grid(torch.eye(2, 3, device=device).expand(b, 2, 3), [b, 3, size, size],
                         align_corners=False)  # fmt: skip
    return F.grid_sample(images, same + shift * (2 / size), align_corners=False,
                         padding_mode="border")  # fmt: skip
