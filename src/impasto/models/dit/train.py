"""The losses of the "dit" family, as plain functions.

    loss = |eps_theta(x_t, t, c) - eps|^2 + L_vlb,     t uniform over 0 ... 999

L_vlb, in bits a dimension, teaches the variance alone (the mean is held fixed):

    t > 0    KL( q(x_{t-1} | x_t, x_0)  ||  N(mean_theta, var_theta) ) / ln 2
    t = 0    -log2 of the chance of x_0's bin, 2 / 255 wide, under N(mean_theta, var_theta); below
             -0.999 and above 0.999 of all that lies beyond

and c is the null class in a share of the rows. The bins are of 8-bit pixels; the published code
has them for latents too, and one time in a thousand is 0.

Sources: Nichol & Dhariwal 2021 (arXiv 2102.09672), section 3.1; Peebles & Xie 2023 (arXiv
2212.09748); `gaussian_diffusion.py` of the official code, LossType.MSE, which adds L_vlb unscaled
(its normal distribution is a tanh's approximation; here it is exact).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from diffusers.models import DiTTransformer2DModel
from torch import Tensor

from impasto.models.classes import drop_classes
from impasto.models.dit.sampler import TIMES, noised, output, posterior, predict_x_0

__all__ = ["Losses", "diffusion_loss", "output_loss", "training_loss"]


class Losses(NamedTuple):
    """Scalars: the sum that is minimised, and its two parts."""

    total: Tensor
    mse: Tensor
    vlb: Tensor


def diffusion_loss(
    transformer: DiTTransformer2DModel, x_0: Tensor, labels: Tensor, *, t: Tensor, eps: Tensor,
    bars: Tensor,
) -> Losses:  # fmt: skip
    """At times t (B,), int64, with noise eps like x_0 (B, C, h, w). labels: (B,), int64. bars:
    `sampler.alpha_bars` on the device."""
    x = noised(x_0, eps, bars[t + 1].view(-1, 1, 1, 1))
    return output_loss(output(transformer, x, t, labels), x_0, x, t=t, eps=eps, bars=bars)


def output_loss(
    out: Tensor, x_0: Tensor, x: Tensor, *, t: Tensor, eps: Tensor, bars: Tensor
) -> Losses:
    """`diffusion_loss` of what a network gave, (B, 2C, h, w), for x at times t."""
    a_t, a_s = bars[t + 1].view(-1, 1, 1, 1), bars[t].view(-1, 1, 1, 1)
    eps_theta, v = out.chunk(2, dim=1)
    true = posterior(x_0, x, a_t, a_s)
    own = posterior(predict_x_0(x, eps_theta.detach(), a_t), x, a_t, a_s)
    log_var = own.log_var(v)
    apart = _kl(true.mean, true.log_least, own.mean, log_var)
    coded = -_log_chance(x_0, own.mean, log_var)
    vlb = torch.where(t.view(-1, 1, 1, 1) == 0, coded, apart).mean() / math.log(2)
    mse = (eps_theta - eps).square().mean()
    return Losses(mse + vlb, mse, vlb)


def training_loss(
    transformer: DiTTransformer2DModel, x_0: Tensor, labels: Tensor, null: int, bars: Tensor, *,
    drop: float = 0.1, generator: torch.Generator | None = None,
) -> Losses:  # fmt: skip
    """`diffusion_loss` at random times and noise, with classes dropped: one training step's.

    x_0: (B, C, h, w) normalised latents; labels: (B,) classes; null: the null class's index.
    """
    t = torch.randint(TIMES, (len(x_0),), device=x_0.device, generator=generator)
    eps = torch.randn(x_0.shape, device=x_0.device, generator=generator)
    dropped = drop_classes(labels, null, drop, generator)
    return diffusion_loss(transformer, x_0, dropped, t=t, eps=eps, bars=bars)


def _kl(mean_1: Tensor, log_var_1: Tensor, mean_2: Tensor, log_var_2: Tensor) -> Tensor:
    """KL(N_1 || N_2) of each dimension, in nats."""
    ratio = (log_var_1 - log_var_2).exp()
    far = (mean_1 - mean_2).square() * (-log_var_2).exp()
    return 0.5 * (log_var_2 - log_var_1 + ratio + far - 1)


def _log_chance(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log of the chance of x's bin under N(mean, var), in nats, at least log 1e-12."""
    scale = (-0.5 * log_var).exp()
    below = _cumulative((x - 1 / 255 - mean) * scale).where(x > -0.999, 0.0)
    above = _cumulative((x + 1 / 255 - mean) * scale).where(x < 0.999, 1.0)
    return (above - below).clamp(min=1e-12).log()


def _cumulative(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))
