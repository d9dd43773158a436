"""Pictures made a little worse, so that what judges them also knows a generator's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["roughen"]


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
