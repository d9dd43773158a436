"""Train the sticker autoencoder (diffusers' AutoencoderKL, 8x smaller, 16 channels).

    L = the picture's losses (`train.tokenizers`) + 1e-5 KL(q(z|x) || N(0, 1))

The KL is a picture's, divided by its number of values.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models import AutoencoderKL
from torch import Tensor

from impasto.train.data import PictureCache
from impasto.train.loop import Loop
from impasto.train.tokenizers import Attempt, cached, last_weight, train_tokenizer

__all__ = ["train_autoencoder"]

KL_WEIGHT = 1e-5


def train_autoencoder(
    model: AutoencoderKL, cache: PictureCache, *, compiled: bool = False, **numbers: Any
) -> tuple[AutoencoderKL, Loop]:  # fmt: skip
    """`model` trained on the pictures of `cache`; numbers: of `train.tokenizers.train_tokenizer`.
    What is frozen there is the encoder; latents are final from then on."""
    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = model.encoder(2 * x - 1).float().chunk(2, 1)
        logvar = logvar.clamp(-30, 20)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
        return model.decode(z).sample, kl / x[0].numel()

    run: Any = torch.compile(reconstruct) if compiled else reconstruct

    def attempt(_: Loop, x: Tensor) -> Attempt:
        y, kl = run(x)
        return Attempt(y, KL_WEIGHT * kl, {"kl": kl.detach()})

    side = cache.images.shape[-1]
    loop = train_tokenizer(model, cached(cache, (side, side)), attempt,
                           token_parts=[model.encoder], count=len(cache),
                           device=cache.images.device, name="autoencoder", compiled=compiled,
                           last_layer=last_weight(model.decoder),
                           **numbers)  # fmt: skip
    return model, loop
