"""Train the sticker autoencoder (diffusers' AutoencoderKL, 8x smaller, 16 channels).

    L = |x - y| + 2 (x - y)^2 + |grad x - grad y| + 1e-5 KL(q(z|x) || N(0, 1))

The gradient term keeps outlines sharp: the drawings are flat fills between black lines.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.models import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from impasto.train import processes
from impasto.train.data import PictureCache
from impasto.train.loop import Loop

__all__ = ["psnr", "reconstruction_loss", "train_autoencoder"]

KL_WEIGHT = 1e-5


def reconstruction_loss(x: Tensor, y: Tensor) -> Tensor:
    """Scalar loss between pictures and reconstructions, (B, 3, H, W) in [-1, 1]."""
    d = y - x
    edges = d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean()
    return d.abs().mean() + 2 * d.square().mean() + edges


def train_autoencoder(
    model: AutoencoderKL, cache: PictureCache, *, steps: int, batch: int, lr: float = 8e-4,
    minutes: float | None = None, compiled: bool = False, seed: int = 0,
    freeze_encoder: float = 1.0, on_freeze: Callable[[], None] | None = None,
) -> tuple[AutoencoderKL, Loop]:  # fmt: skip
    """`model` trained on the pictures of `cache`, with its moving-average weights.

    freeze_encoder: share of the training after which the encoder, set to its average, stays as
    it is and only the decoder learns on; latents are final from then on. on_freeze: called then.
    """
    torch.manual_seed(seed + processes.rank())
    device = cache.images.device
    model = model.to(device, memory_format=torch.channels_last).train()
    loop = Loop(model, steps, lr, weight_decay=0.0, minutes=minutes, name="autoencoder")

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar = model.encoder(x).float().chunk(2, 1)
        logvar = logvar.clamp(-30, 20)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        return model.decode(z).sample, mean, logvar

    run = torch.compile(reconstruct) if compiled else reconstruct
    while loop.running:
        if loop.progress >= freeze_encoder and model.encoder.conv_in.weight.requires_grad:
            loop.load_average()
            model.encoder.requires_grad_(False)
            if on_freeze is not None:
                on_freeze()
        rows = torch.randint(len(cache), (batch,), device=device)
        x = (cache.images[rows].float() / 127.5 - 1).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            y, mean, logvar = run(x)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
        kl = kl / (x[0].numel())
        loss = reconstruction_loss(x, y.float()) + KL_WEIGHT * kl
        loop.update(loss, {"psnr": psnr(x, y.detach().float()), "kl": kl.detach()})
    loop.load_average()
    return model.eval(), loop


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Decibels, for pictures in [-1, 1]."""
    return -10 * (F.mse_loss(x, y) / 4).log10()
