"""Train the "dit" family on the sticker world: latents and classes cached on the device.

A picture's class is that of its objects; pictures of several classes are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from impasto.models.dit import DiTGenerator
from impasto.models.dit.sampler import alpha_bars
from impasto.models.dit.train import Losses, training_loss
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.data import PictureCache, of_one_class
from impasto.train.generator import encode_pictures
from impasto.train.loop import Loop, mixed

__all__ = ["ClassCache", "cache_classes", "train_dit"]


@dataclass(frozen=True)
class ClassCache:
    """latents: (N, C, h, w) bfloat16, normalised. labels: (N,) int64."""

    latents: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.latents)


def cache_classes(
    pipe: DiTGenerator, cache: PictureCache, *, keep_moments: bool = False
) -> ClassCache:
    """Encode the pictures of one class (`train.generator.encode_pictures`)."""
    rows, labels = of_one_class(cache)
    return ClassCache(encode_pictures(pipe, cache, rows, keep_moments=keep_moments), labels)


def train_dit(
    pipe: DiTGenerator, cache: ClassCache, *, steps: int, batch: int, lr: float = 1e-3,
    minutes: float | None = None, compiled: bool = False, seed: int = 0, ema: float = 0.999,
    on_save: Callable[[], str | None] | None = None, save_every: int = 0,
    checkpoint: Checkpoint | None = None,
) -> Loop:  # fmt: skip
    """Train `pipe`'s transformer; the autoencoder stays as it is.

    on_save: called every `save_every` steps with the moving average loaded, and undone after.
    """
    torch.manual_seed(seed + processes.rank())
    device, model = cache.latents.device, pipe.transformer.train()
    loop = Loop(model, steps, lr, weight_decay=0.02, minutes=minutes, ema_decay=ema,
                undecayed=("embedding_table",), name="dit", checkpoint=checkpoint)  # fmt: skip
    bars = alpha_bars(device)

    def loss_of(x_0: Tensor, labels: Tensor) -> Losses:
        return training_loss(model, x_0, labels, pipe.null, bars)

    run = torch.compile(loss_of) if compiled else loss_of
    while loop.running:
        rows = torch.randint(len(cache), (batch,), device=device)
        x_0, labels = cache.latents[rows].float(), cache.labels[rows]
        with mixed(device):
            loss = run(x_0, labels)
        loop.update(loss.total, {"mse": loss.mse.detach(), "vlb": loss.vlb.detach()})
        if on_save is not None:
            loop.save_if_due(on_save, save_every)
    loop.load_average()
    model.eval()
    return loop
