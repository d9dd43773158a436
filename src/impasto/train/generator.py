"""Train the sticker generator: latents and captions cached on the device, then flow matching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.models.latents import LatentGenerator, latent_moments
from impasto.models.mmdit import MMDiTGenerator
from impasto.models.mmdit.text import null_ids, token_ids
from impasto.models.mmdit.train import training_loss
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.data import PictureCache
from impasto.train.loop import Loop, mixed

__all__ = ["LatentCache", "cache_latents", "encode_pictures", "train_generator"]


@dataclass(frozen=True)
class LatentCache:
    """latents: (N, C, h, w) bfloat16, normalised. ids: (V, N, L) int16, V wordings of each."""

    latents: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.latents)


@torch.no_grad()
def encode_pictures(
    pipe: LatentGenerator, cache: PictureCache, rows: Tensor | None = None, batch: int = 500, *,
    keep_moments: bool = False,
) -> Tensor:  # fmt: skip
    """Normalised latents (N, C, h, w), bfloat16, of the pictures, or of those in `rows`, at the
    size `pipe` draws. Sets the latent moments in `pipe.defaults`; a generator that is trained
    further keeps those that it knows."""
    device, raw = cache.images.device, []
    side, _ = pipe.default_size()
    rows = torch.arange(len(cache), device=device) if rows is None else rows
    for at in rows.split(batch):
        images = cache.images[at].float() / 127.5 - 1
        if images.shape[-1] != side:
            images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        with mixed(device):
            raw.append(pipe.vae.encode(images).latent_dist.mode().bfloat16())
    z = torch.cat(raw)
    if not keep_moments:
        mean, std = processes.shared(latent_moments(z[:20000].float()))
        pipe.defaults = replace(pipe.defaults, latent_mean=mean, latent_std=std)
    mean, std = pipe.defaults.latent_mean, pipe.defaults.latent_std
    m, s = (torch.tensor(v, device=device, dtype=torch.bfloat16)[:, None, None]
            for v in (mean, std))  # fmt: skip
    for part in z.split(10000):
        part.sub_(m).div_(s)
    return z


def cache_latents(
    pipe: MMDiTGenerator, cache: PictureCache, captions: Sequence[Sequence[str]], *,
    keep_moments: bool = False,
) -> LatentCache:  # fmt: skip
    """Encode all pictures (`encode_pictures`) and captions."""
    z = encode_pictures(pipe, cache, keep_moments=keep_moments)
    ids = torch.stack([token_ids(pipe.tokenizer, texts).to(torch.int16)
                       for texts in zip(*captions, strict=True)])  # fmt: skip
    return LatentCache(z, ids.to(z.device))


def train_generator(
    pipe: MMDiTGenerator, cache: LatentCache, *, steps: int, batch: int, lr: float = 1e-3,
    minutes: float | None = None, compiled: bool = False, seed: int = 0,
    wordings: Sequence[float] = (0.6, 0.4), ema: float = 0.9995,
    time_mean: float = 0.0, time_std: float = 1.0,
    on_save: Callable[[], str | None] | None = None, save_every: int = 0,
    checkpoint: Checkpoint | None = None,
) -> Loop:  # fmt: skip
    """Train `pipe`'s transformer and text encoder together; the autoencoder stays as it is.

    wordings: how often each wording of a caption is used (GenEval's own, a paraphrase).
    time_mean, time_std: of the logit-normal times; a larger mean shows more noise.
    on_save: called every `save_every` steps with the moving average loaded, and undone after.
    """
    torch.manual_seed(seed + processes.rank())
    device = cache.latents.device
    both = nn.ModuleList([pipe.transformer, pipe.text_encoder]).train()
    loop = Loop(both, steps, lr, weight_decay=0.02, minutes=minutes, ema_decay=ema,
                name="generator", checkpoint=checkpoint)  # fmt: skip
    null = null_ids(pipe.tokenizer).to(device)
    chances = torch.tensor(wordings, device=device)

    def loss_of(x_0: Tensor, ids: Tensor) -> Tensor:
        return training_loss(pipe.transformer, pipe.text_encoder, x_0, ids, null,
                             mean=time_mean, std=time_std)  # fmt: skip

    run = torch.compile(loss_of) if compiled else loss_of
    while loop.running:
        rows = torch.randint(len(cache), (batch,), device=device)
        way = torch.multinomial(chances, batch, replacement=True)
        x_0, ids = cache.latents[rows].float(), cache.ids[way, rows].long()
        with mixed(device):
            loss = run(x_0, ids)
        loop.update(loss)
        if on_save is not None:
            loop.save_if_due(on_save, save_every)
    loop.load_average()
    both.eval()
    return loop
