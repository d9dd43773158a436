"""Token maps of K scales, from coarse to fine: sizes, resizing, tokens, who sees whom.

A token sees the tokens of its own scale and of earlier ones: `block_causal_mask`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Size", "Sizes", "area", "bicubic", "block_causal_mask", "from_tokens", "levels",
           "linear", "to_tokens", "tokens"]  # fmt: skip

Size = tuple[int, int]
"""(height, width) of a token map."""
Sizes = tuple[Size, ...]


def tokens(sizes: Sequence[Size]) -> int:
    """Tokens of all scales together."""
    return sum(h * w for h, w in sizes)


def levels(sizes: Sequence[Size], device: torch.device | str = "cpu") -> Tensor:
    """Every token's scale, (L,), int64, from 0."""
    return torch.cat([torch.full((h * w,), k, device=device) for k, (h, w) in enumerate(sizes)])


def block_causal_mask(sizes: Sequence[Size], device: torch.device | str = "cpu") -> Tensor:
    """bool (L, L): whether a token (row) sees another (column), of its own or an earlier scale."""
    level = levels(sizes, device)
    return level[:, None] >= level[None]


def area(x: Tensor, size: Size) -> Tensor:
    """Averages over areas, (B, d, *size)."""
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="area")


def linear(x: Tensor, size: Size) -> Tensor:
    """Linear interpolation, up or down without smoothing, (B, d, *size)."""
    return _interpolated(x, size, "bilinear")


def bicubic(x: Tensor, size: Size) -> Tensor:
    """Cubic interpolation (a = -0.75), up or down without smoothing, (B, d, *size)."""
    return _interpolated(x, size, "bicubic")


def _interpolated(x: Tensor, size: Size, mode: str) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode=mode, align_corners=False)


def to_tokens(x: Tensor, patch: int = 1) -> Tensor:
    """Maps (B, d, p h, p w) as tokens (B, h w, d p^2), row by row; p^2 values of a channel lie
    together, as in torch's pixel_unshuffle."""
    return F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def from_tokens(x: Tensor, size: Size, patch: int = 1) -> Tensor:
    """The inverse of `to_tokens`; size: (h, w) in tokens."""
    return F.pixel_shuffle(x.transpose(1, 2).unflatten(2, size), patch)
