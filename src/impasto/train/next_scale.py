"""Train the tokenizer of a next-scale family on the sticker world.

Of pictures x and their reconstruction y from the first k of K scales, k = K or, in a share of the
steps, any smaller number, so that the first scales learn to carry a picture:

    L = reconstruction(x, y) + what the family's quantiser adds

The trap of such a tokenizer are coarse scales that say the same of every picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto.models.next_scale.maps import Sizes
from impasto.train import processes
from impasto.train.autoencoder import psnr, reconstruction_loss
from impasto.train.data import PictureCache
from impasto.train.loop import Loop

__all__ = ["Quantise", "pictures", "shown_by_scale", "train_tokenizer"]

Quantise = Callable[[Loop, Tensor, int], tuple[Tensor, Tensor, Mapping[str, Tensor]]]
"""(loop, features, scales) -> (f^ with the features' gradient, what is added to the loss, what is
shown)."""


def pictures(cache: PictureCache, rows: Tensor | slice, vae: Any, sizes: Sizes) -> Tensor:
    """Some pictures (B, 3, H, W) in [0, 1], as large as the last of `sizes` makes them."""
    images, size = cache.images[rows].float() / 255, tuple(n * vae.stride for n in sizes[-1])
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)


def train_tokenizer(
    vae: Any, cache: PictureCache, sizes: Sizes, quantise: Quantise, *, steps: int, batch: int,
    lr: float = 6e-4, minutes: float | None = None, compiled: bool = False, seed: int = 0,
    freeze_encoder: float = 1.0, on_freeze: Callable[[], None] | None = None,
    drop_scales: float = 0.2,
) -> Loop:  # fmt: skip
    """Train `vae` on the pictures of `cache`; it ends with its moving-average weights.

    vae: has `features`, `picture`, and `token_parts`, the networks that tokens depend on.
    freeze_encoder: share of the training after which those, set to their average, stay as they
    are and only the decoder learns on; tokens are final from then on. on_freeze: called then.
    drop_scales: share of steps whose pictures come from fewer scales.
    """
    torch.manual_seed(seed + processes.rank())
    device = cache.images.device
    vae.to(device, memory_format=torch.channels_last).train()
    loop = Loop(vae, steps, lr, weight_decay=0.0, minutes=minutes, name="tokenizer")
    features, picture = (torch.compile(part) if compiled else part
                         for part in (vae.features, vae.picture))  # fmt: skip
    frozen, plan = False, torch.Generator().manual_seed(seed)
    while loop.running:
        if loop.progress >= freeze_encoder and not frozen:
            frozen = True
            loop.load_average()
            for part in vae.token_parts:
                part.requires_grad_(False)
            if on_freeze is not None:
                on_freeze()
        rows = torch.randint(len(cache), (batch,), device=device)
        x = pictures(cache, rows, vae, sizes).to(memory_format=torch.channels_last)
        scales = _scales(len(sizes), drop_scales, plan)
        with torch.autocast(device.type, torch.bfloat16):
            f_hat, added, shown = quantise(loop, features(x), scales)
            y = picture(f_hat)
        x = 2 * x - 1
        loss = reconstruction_loss(x, y) + added
        loop.update(loss, {"scales": torch.tensor(scales), "psnr": psnr(x, y.detach()), **shown})
    loop.load_average()
    vae.eval()
    return loop


def _scales(most: int, drop: float, plan: torch.Generator) -> int:
    """How many scales a step uses: the same in all processes, as what learns hangs on it."""
    if most == 1 or float(torch.rand((), generator=plan)) >= drop:
        return most
    return int(torch.randint(1, most, (), generator=plan))


@torch.no_grad()
def shown_by_scale(
    x: Tensor, sizes: Sizes, decode: Callable[[slice, int], Tensor], batch: int = 100
) -> list[float]:
    """Decibels of what the first 1, 2, ... K scales show of pictures (N, 3, H, W) in [0, 1].

    decode: (rows, scales) -> those rows' pictures from their first scales.
    """
    values = []
    for scales in range(1, len(sizes) + 1):
        parts = [decode(slice(i, i + batch), scales) for i in range(0, len(x), batch)]
        values.append(round(float(psnr(2 * x - 1, 2 * torch.cat(parts) - 1)), 2))
    return values
