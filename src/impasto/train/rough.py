"""Pictures made a little worse, so that what judges them also knows a generator's."""

from __future__ import annotations

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


def coarse(images: Tensor, share: float = 0.35) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1], a share of them shrunk to one of `SIDES` and enlarged
    again, as coarse scales look."""
    side = SIDES[int(torch.randint(len(SIDES), ()))]
    small = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    large = F.interpolate(small, size=images.shape[-2:], mode="bicubic").clamp(0, 1)
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < share
    return torch.where(chosen, large, images)


def warped(images: Tensor, share: float = 0.5, pixels: float = 3.0) -> Tensor:
    """Pictures (B, 3, H, W), a share of them bent: `KNOTS` x `KNOTS` random shifts of up to
    `pixels` a side, smooth between, as a generator draws shapes that are nearly right."""
    b, (high, wide) = len(images), images.shape[-2:]
    device = images.device
    chosen = (torch.rand(b, 1, 1, 1, device=device) < share).float()
    knots = (torch.rand(b, 2, KNOTS, KNOTS, device=device) * 2 - 1) * chosen * pixels
    shift = F.interpolate(knots, size=(high, wide), mode="bicubic", align_corners=True)
    scale = torch.tensor([2 / wide, 2 / high], device=device)
    same = torch.eye(2, 3, device=device).expand(b, 2, 3)
    grid = F.affine_grid(same, [b, 3, high, wide], align_corners=False)
    grid = grid + shift.permute(0, 2, 3, 1) * scale
    return F.grid_sample(images, grid, align_corners=False, padding_mode="border")
