"""Train the "infinity" family on the sticker world: first the tokenizer, then what draws its bits.

Tokenizer: `train.next_scale`, to whose loss is added

    0.1 d |f - sg(f^)|^2 + 0.02 L_entropy

Transformer: `models.infinity.train.training_loss` on features that are encoded once and stay on
the device; the text encoder learns with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from impasto.train import next_scale, processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.data import PictureCache
from impasto.train.loop import Loop, mixed

__all__ = ["FeatureCache", "cache_features", "scale_report", "train_infinity", "train_tokenizer"]

DROP_SCALES = 0.05
COMMITMENT, ENTROPY = 0.1, 0.02


def train_tokenizer(
    vae: InfinityTokenizer, cache: PictureCache, sizes: Sizes, *,
    drop_scales: float = DROP_SCALES, **numbers: Any,
) -> tuple[InfinityTokenizer, Loop]:  # fmt: skip
    """`vae` trained by `train.next_scale.train_tokenizer`, whose other arguments are `numbers`."""
    def quantise(
        _: Loop, f: Tensor, scales: int
    ) -> tuple[Tensor, Tensor, Mapping[str, Tensor], None]:
        f_hat, rests = tokenizer_codes(vae, f, sizes, scales=scales)
        near = vae.config["bits"] * F.mse_loss(f, f_hat.detach())
        added = COMMITMENT * near + ENTROPY * entropy_loss(rests)
        return f_hat, added, {"commitment": near.detach()}, None

    loop = next_scale.train_tokenizer(vae, cache, sizes, quantise, drop_scales=drop_scales,
                                      **numbers)  # fmt: skip
    return vae, loop


@torch.no_grad()
def scale_report(
    vae: InfinityTokenizer, cache: PictureCache, sizes: Sizes, count: int = 500
) -> dict[str, list[float]]:
    """Of pictures of the cache, a number a scale: mean entropy of a bit, from 0 (all pictures say
    the same) to 1, and decibels of what the scales so far show."""
    x = next_scale.pictures(cache, slice(count), vae, sizes)
    bits = [torch.cat(own) for own in
            zip(*(vae.encode(part, sizes) for part in x.split(100)), strict=True)]  # fmt: skip

    def decode(rows: slice, scales: int) -> Tensor:
        return vae.decode_tokens([own[rows] for own in bits[:scales]], sizes)

    entropies = [round(float(value), 3) for value in scale_entropies(bits)]
    return {"bit_entropy": entropies, "psnr": next_scale.shown_by_scale(x, sizes, decode)}


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
        images = next_scale.pictures(cache, slice(start, start + batch), pipe.vae, sizes)
        raw.append(pipe.vae.features(images).half())
    ids = torch.stack([token_ids(pipe.tokenizer, texts).to(torch.int16)
                       for texts in zip(*captions, strict=True)])  # fmt: skip
    return FeatureCache(torch.cat(raw), ids.to(device))


def train_infinity(
    pipe: InfinityGenerator, cache: FeatureCache, *, steps: int, batch: int, lr: float = 1e-3,
    minutes: float | None = None, compiled: bool = False, seed: int = 0,
    wordings: Sequence[float] = (0.6, 0.4), ema: float = 0.9995, flips: float = 0.3,
    on_save: Callable[[], str | None] | None = None, save_every: int = 0,
    checkpoint: Checkpoint | None = None,
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
                name="infinity", checkpoint=checkpoint)  # fmt: skip
    forced = TeacherForcing(pipe.transformer, next(iter(pipe.defaults.plans().values())))
    run: Any = torch.compile(forced) if compiled else forced
    chances, pad = torch.tensor(wordings, device=device), pipe.tokenizer.pad_token_id
    while loop.running:
        rows = torch.randint(len(cache), (batch,), device=device)
        way = torch.multinomial(chances, batch, replacement=True)
        ids = cache.ids[way, rows].long()
        seen = ids != pad
        with mixed(device):
            states = pipe.text_encoder(input_ids=ids, attention_mask=seen).last_hidden_state
            loss, _, right = training_loss(run, pipe.vae, cache.features[rows].float(),
                                           states.float(), seen, strength=flips)  # fmt: skip
        loop.update(loss, {f"right{k}": share for k, share in enumerate(right)})
        if on_save is not None:
            loop.save_if_due(on_save, save_every)
    loop.load_average()
    both.eval()
    return loop
