"""How much of a picture a tokenizer keeps: PSNR, SSIM, use of the codebook.

    PSNR   10 log10(1 / MSE) on [0, 1], per picture
    SSIM   mean of (2 m_x m_y + C1)(2 s_xy + C2) / ((m_x^2 + m_y^2 + C1)(s_x^2 + s_y^2 + C2)),
           C1 = (.01 L)^2, C2 = (.03 L)^2, over windows wholly inside, per channel, then its mean

Three SSIMs are in use and never to be mixed, so each is named:

    skimage_dr1   7 x 7 uniform windows, sample covariance, L = 1
    skimage_dr2   the same with L = 2 on [0, 1] pictures, as LlamaGen and TokenFlow call it: higher
    gaussian      11 x 11 Gaussian, sigma 1.5, L = 1 (Wang et al. 2004)

What a set of pictures loses as a whole is in `impasto.bench.distribution`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["SMALLEST", "SSIMS", "CodebookUse", "codebook_use", "decibels", "psnr", "ssim",
           "use_of_counts"]  # fmt: skip


class _Window(NamedTuple):
    """weights: (k,) of one axis. sample: covariance over n - 1 instead of n. L: data range."""

    weights: Tensor
    sample: bool
    L: float


def _gaussian(sigma: float = 1.5, radius: int = 5) -> Tensor:
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-(x**2) / (2 * sigma**2))
    return weights / weights.sum()


_UNIFORM = torch.full((7,), 1 / 7, dtype=torch.float64)
SSIMS = {
    "skimage_dr1": _Window(_UNIFORM, True, 1.0),
    "skimage_dr2": _Window(_UNIFORM, True, 2.0),
    "gaussian": _Window(_gaussian(), False, 1.0),
}
SMALLEST = max(len(window.weights) for window in SSIMS.values())
"""Pixels a side of a picture that all of them can compare."""


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape != y.shape or x.ndim != 4:
        raise ValueError(f"pictures must be two of (B, C, H, W), given {tuple(x.shape)} and "
                         f"{tuple(y.shape)}")  # fmt: skip
    return x.double(), y.double()


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """(B,) decibels of pictures (B, C, H, W) in [0, 1]; infinite for equal ones."""
    x, y = _pair(x, y)
    return decibels((x - y).square().mean(dim=(1, 2, 3)))


def decibels(mse: Tensor) -> Tensor:
    """PSNR of mean squared errors on [0, 1]; infinite for 0."""
    return -10 * torch.log10(mse)


def _filtered(x: Tensor, weights: Tensor) -> Tensor:
    """Separable filter over (B, C, H, W), windows wholly inside."""
    b, c, h, w = x.shape
    kernel = weights.to(x.device)[None, None]
    x = F.conv2d(x.reshape(b * c, 1, h, w), kernel[..., None])
    return F.conv2d(x, kernel[:, :, None]).reshape(b, c, *(s - len(weights) + 1 for s in (h, w)))


def ssim(x: Tensor, y: Tensor, variant: str) -> Tensor:
    """(B,) SSIM of pictures (B, C, H, W) in [0, 1]. variant: one of `SSIMS`.

    Raises ValueError for another variant and for pictures smaller than its window.
    """
    if variant not in SSIMS:
        raise ValueError(f"unknown SSIM {variant!r}; name one of {', '.join(SSIMS)}")
    (weights, sample, span), (x, y) = SSIMS[variant], _pair(x, y)
    if min(x.shape[-2:]) < (n := len(weights)):
        raise ValueError(f"SSIM {variant} compares pictures of at least {n} x {n} pixels, given "
                         f"{x.shape[-1]} x {x.shape[-2]}")  # fmt: skip
    mx, my = _filtered(x, weights), _filtered(y, weights)
    norm = n * n / (n * n - 1) if sample else 1.0
    sx, sy, sxy = (norm * (_filtered(a * b, weights) - ma * mb)
                   for a, b, ma, mb in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my)))
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    value = (2 * mx * my + c1) * (2 * sxy + c2) / ((mx**2 + my**2 + c1) * (sx + sy + c2))
    return value.mean(dim=(1, 2, 3))


class CodebookUse(NamedTuple):
    """share of codes that occur at all, and perplexity exp(H) of their frequencies (1 to K)."""

    share: float
    perplexity: float


def codebook_use(codes: Tensor, size: int) -> CodebookUse:
    """Of integer codes of any shape, 0 to size - 1. Raises ValueError for others or for none."""
    flat = codes.reshape(-1).long()
    if not len(flat) or int(flat.min()) < 0 or int(flat.max()) >= size:
        raise ValueError(f"codes must be from 0 to {size - 1}, at least one")
    return use_of_counts(torch.bincount(flat, minlength=size))


def use_of_counts(counts: Tensor) -> CodebookUse:
    """`codebook_use` of how often each of the K codes occurs, (K,), at least one of them."""
    p = counts.double() / counts.sum()
    entropy = -torch.special.xlogy(p, p).sum()
    return CodebookUse(float((p > 0).double().mean()), float(entropy.exp()))
