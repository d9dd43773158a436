"""The losses of the "mmdit" family, as plain functions.

Flow matching (Lipman et al. 2023; SD3, arXiv 2403.03206, eq. 13 and 3.1): with eps ~ N(0, I) and
t = sigmoid(m + s n), n ~ N(0, 1),

    x_t = (1 - t) x_0 + t eps,    loss = || v_theta(x_t, t, c) - (eps - x_0) ||^2

For classifier-free guidance (Ho & Salimans 2022) the text c is replaced by the null prompt in a
share of the rows. x_0 are latents with unit variance per channel: (z - mean) / std.
"""

from __future__ import annotations

import torch
from diffusers.models import SD3Transformer2DModel
from torch import Tensor
from transformers import SiglipTextModel

from impasto.models.mmdit.sampler import interpolate, velocity
from impasto.models.mmdit.text import Encoding, encode

__all__ = ["drop_text", "flow_matching_loss", "sample_times", "training_loss"]


def sample_times(
    n: int, *, mean: float = 0.0, std: float = 1.0, device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Logit-normal times (n,) in (0, 1), SD3 eq. 19."""
    return torch.sigmoid(mean + std * torch.randn(n, device=device, generator=generator))


def drop_text(
    ids: Tensor, null: Tensor, probability: float = 0.1, generator: torch.Generator | None = None
) -> Tensor:
    """ids (B, L) with each row replaced by `null` (1, L) with the given probability."""
    u = torch.rand(len(ids), 1, device=ids.device, generator=generator)
    return torch.where(u < probability, null, ids)


def flow_matching_loss(
    transformer: SD3Transformer2DModel, x_0: Tensor, text: Encoding, t: Tensor, eps: Tensor
) -> Tensor:
    """Mean squared error of the velocity, a scalar. x_0, eps: (B, C, h, w); t: (B,)."""
    x_t = interpolate(x_0, eps, t[:, None, None, None])
    return (velocity(transformer, x_t, t, text) - (eps - x_0)).square().mean()


def training_loss(
    transformer: SD3Transformer2DModel, text_encoder: SiglipTextModel, x_0: Tensor, ids: Tensor,
    null: Tensor, *, drop: float = 0.1, mean: float = 0.0, std: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """`flow_matching_loss` at random times and noise, with text dropped: one training step's.

    x_0: (B, C, h, w) normalised latents; ids: (B, L); null: (1, L); all on one device. mean, std:
    of the logit-normal times. Gradients reach both networks.
    """
    text = encode(text_encoder, drop_text(ids, null, drop, generator))
    t = sample_times(len(x_0), mean=mean, std=std, device=x_0.device, generator=generator)
    eps = torch.randn(x_0.shape, device=x_0.device, generator=generator)
    return flow_matching_loss(transformer, x_0, text, t, eps)
