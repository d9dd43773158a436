"""Train the "infinity" family on the sticker world: first the tokenizer, then what draws its bits.

Tokenizer, of pictures x and their reconstruction y from the first k of K scales, k = K or, in
`DROP_SCALES` of the steps, any smaller number, so that the first scales learn to carry a picture:

    L = reconstruction(x, y) + 0.1 d |f - sg(f^)|^2 + 0.02 L_entropy

Transformer: `models.infinity.train.training_loss` on features that are encoded once and stay on
the device; the text encoder learns with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.models.infinity import InfinityGenerator
from impasto.models.infinity.schedules import Sizes
from impasto.models.infinity.tokenizer import InfinityTokenizer
from impasto.models.infinity.train import (
    TeacherForcing,
    entropy_loss,
    scale_entropies,
    tokenizer_codes,
    training_loss,
)
from impasto.models.mmdit.text import token_ids
from impasto.train import processes
from impasto.train.autoencoder import psnr, reconstruction_loss
from impasto.train.data import PictureCache
from impasto.train.loop import Loop

__all__ = ["FeatureCache", "cache_features", "scale_report", "train_infinity", "train_tokenizer"]

DROP_SCALES = 0.05
COMMITMENT, ENTROPY = 0.1, 0.02


def train_tokenizer(
    vae: InfinityTokenizer, cache: PictureCache, sizes: Sizes, *, steps: int, batch: int,
    lr: float = 6e-4, minutes: float | None = None, compiled: bool = False, seed: int = 0,
    freeze_encoder: float = 1.0, on_freeze: Callable[[], None] | None = None,
) -> tuple[InfinityTokenizer, Loop]:  # fmt: skip
    """`vae` trained on the pictures of `cache`, with its moving-average weights.

    freeze_encoder: share of the training after which the encoder, set to its average, stays as it
    is and only the decoder learns on; bits are final from then on. on_freeze: called then.
    """
    torch.manual_seed(seed + processes.rank())
    device = cache.images.device
    vae = vae.to(device, memory_format=torch.channels_last).train()
    loop = Loop(vae, steps, lr, weight_decay=0.0, minutes=minutes, name="tokenizer")
    encoder = torch.compile(vae.encoder) if compiled else vae.encoder
    decoder = torch.compile(vae.decoder) if compiled else vae.decoder
    while loop.running:
        if loop.progress >= freeze_encoder and vae.encoder.conv_in.conv.weight.requires_grad:
            loop.load_average()
            vae.encoder.requires_grad_(False)
            if on_freeze is not None:
                on_freeze()
        rows = torch.randint(len(cache), (batch,), device=device)
        x = 2 * _pictures(cache, rows, vae, sizes) - 1
        x = x.to(memory_format=torch.channels_last)
        drop = float(torch.rand(())) < DROP_SCALES
        scales = int(torch.randint(1, len(sizes), ())) if drop else len(sizes)
        with torch.autocast(device.type, torch.bfloat16):
            f = encoder(x).float()
            f_hat, rests = tokenizer_codes(vae, f, sizes, scales=scales)
            y = decoder(f_hat).float()
        near = vae.config["bits"] * F.mse_loss(f, f_hat.detach())
        loss = reconstruction_loss(x, y) + COMMITMENT * near + ENTROPY * entropy_loss(rests)
        loop.update(loss, {"scales": torch.tensor(scales), "psnr": psnr(x, y.detach()),
                           "commitment": near.detach()})  # fmt: skip
    loop.load_average()
    return vae.eval(), loop


def _pictures(
    cache: PictureCache, rows: Tensor | slice, vae: InfinityTokenizer, sizes: Sizes
) -> Tensor:
    """Some pictures (B, 3, H, W) in [0, 1], as large as the last of `sizes` makes them."""
    images, size = cache.images[rows].float() / 255, tuple(n * vae.stride for n in sizes[-1])
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)


@torch.no_grad()
def scale_report(
    vae: InfinityTokenizer, cache: PictureCache, sizes: Sizes, count: int = 500
) -> dict[str, list[float]]:
    """Of pictures of the cache, a number a scale: mean entropy of a bit, from 0 (all pictures say
    the same) to 1, and decibels of what the scales so far show."""
    x = _pictures(cache, slice(count), vae, sizes)
    bits = [torch.cat(own) for own in
            zip(*(vae.encode(part, sizes) for part in x.split(100)), strict=True)]  # fmt: skip
    shown = []
    for k in range(1, len(sizes) + 1):
        own = [[scale[i : i + 100] for scale in bits[:k]] for i in range(0, len(x), 100)]
        y = torch.cat([vae.decode_bits(part, sizes) for part in own])
        shown.append(round(float(psnr(2 * x - 1, 2 * y - 1)), 2))
    entropies = [round(float(value), 3) for value in scale_entropies(bits)]
    return {"bit_entropy": entropies, "psnr": shown}


@dataclass(frozen=True)
class FeatureCache:
    """features: (N, d, H, W) float16. ids: (V, N, L) int16, V wordings of each."""

    features: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.features)


@torch.no_grad()
def cache_features(
    pipe: InfinityGenerator, cache: PictureCache, captions: Sequence[Sequence[str]],
    batch: int = 500,
) -> FeatureCache:  # fmt: skip
    """Encode all pictures, at the size `pipe` draws, and captions."""
    device, raw = cache.images.device, []
    sizes = next(iter(pipe.defaults.plans().values())).sizes
    for start in range(0, len(cache), batch):
        images = _pictures(cache, slice(start, start + batch), pipe.vae, sizes)
        raw.append(pipe.vae.features(images).half())
    ids = torch.stack([token_ids(pipe.tokenizer, texts).to(torch.int16)
                       for texts in zip(*captions, strict=True)])  # fmt: skip
    return FeatureCache(torch.cat(raw), ids.to(device))


def train_infinity(
    pipe: InfinityGenerator, cache: FeatureCache, *, steps: int, batch: int, lr: float = 1e-3,
    minutes: float | None = None, compiled: bool = False, seed: int = 0,
    wordings: Sequence[float] = (0.6, 0.4), ema: float = 0.9995, flips: float = 0.3,
    on_save: Callable[[], None] | None = None, save_every: int = 0,
) -> Loop:  # fmt: skip
    """Train `pipe`'s transformer and text encoder together; the tokenizer stays as it is.

    wordings: how often each wording of a caption is used (GenEval's own, a paraphrase). flips: s
    of bitwise self-correction. on_save: called every `save_every` steps with the moving average
    loaded, and undone after.
    """
    torch.manual_seed(seed + processes.rank())
    device = cache.features.device
    both = nn.ModuleList([pipe.transformer, pipe.text_encoder]).train()
    loop = Loop(both, steps, lr, weight_decay=0.02, minutes=minutes, ema_decay=ema,
                name="infinity")  # fmt: skip
    forced = TeacherForcing(pipe.transformer, next(iter(pipe.defaults.plans().values())))
    run: Any = torch.compile(forced) if compiled else forced
    chances, pad = torch.tensor(wordings, device=device), pipe.tokenizer.pad_token_id
    while loop.running:
        rows = torch.randint(len(cache), (batch,), device=device)
        way = torch.multinomial(chances, batch, replacement=True)
        ids = cache.ids[way, rows].long()
        seen = ids != pad
        with torch.autocast(device.type, torch.bfloat16):
            states = pipe.text_encoder(input_ids=ids, attention_mask=seen).last_hidden_state
            loss, _, right = training_loss(run, pipe.vae, cache.features[rows].float(),
                                              states.float(), seen, strength=flips)  # fmt: skip
        loop.update(loss, {f"right{k}": share for k, share in enumerate(right)})
        due = bool(save_every) and loop.step % save_every == 0 and processes.first()
        if on_save is not None and due:
            with loop.averaged_weights():
                on_save()
    loop.load_average()
    both.eval()
    return loop
