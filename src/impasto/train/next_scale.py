"""Train the tokenizer of a next-scale family on the sticker world.

Of pictures x and their reconstruction y from the first k of K scales, k = K or, in a share of the
steps, any smaller number, so that the first scales learn to carry a picture:

    L = the picture's losses (`train.tokenizers`) + what the family's quantiser adds

The trap of such a tokenizer are coarse scales that say the same of every picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from impasto.bench.reconstruction import use_of_counts
from impasto.models.next_scale.maps import Sizes
from impasto.train import tokenizers
from impasto.train.checkpoint import Carried
from impasto.train.data import PictureCache
from impasto.train.loop import Loop
from impasto.train.tokenizers import Attempt, cached, last_weight, psnr

__all__ = ["Quantise", "codebook_report", "pictures", "shown_by_scale", "train_tokenizer"]

Quantise = Callable[[Loop, Tensor, int],
                    tuple[Tensor, Tensor, Mapping[str, Tensor], Tensor | None]]  # fmt: skip
"""(loop, features, scales) -> (f^ with the features' gradient, what is added to the loss, what is
shown, ids of a codebook or None)."""


def pictures(cache: PictureCache, rows: Tensor | slice, vae: Any, sizes: Sizes) -> Tensor:
    """Some pictures (B, 3, H, W) in [0, 1], as large as the last of `sizes` makes them."""
    return cached(cache, tuple(n * vae.stride for n in sizes[-1]))(rows)


def train_tokenizer(
    vae: Any, cache: PictureCache, sizes: Sizes, quantise: Quantise, *, compiled: bool = False,
    seed: int = 0, drop_scales: float = 0.2, carried: Mapping[str, Carried] | None = None,
    **numbers: Any,
) -> Loop:  # fmt: skip
    """Train `vae` on the pictures of `cache`; numbers: of `train.tokenizers.train_tokenizer`.

    vae: has `features`, `picture`, and `token_parts`, the networks that tokens depend on.
    drop_scales: share of steps whose pictures come from fewer scales. carried: what `quantise`
    changes from step to step.
    """
    features, picture = (torch.compile(part) if compiled else part
                         for part in (vae.features, vae.picture))  # fmt: skip
    plan = torch.Generator().manual_seed(seed)

    def attempt(loop: Loop, x: Tensor) -> Attempt:
        scales = _scales(len(sizes), drop_scales, plan)
        f_hat, added, shown, ids = quantise(loop, features(x), scales)
        return Attempt(picture(f_hat), added, {"scales": torch.tensor(scales), **shown}, ids)

    size = tuple(n * vae.stride for n in sizes[-1])
    return tokenizers.train_tokenizer(vae, cached(cache, size), attempt, count=len(cache),
                                      token_parts=vae.token_parts, device=cache.images.device,
                                      seed=seed, compiled=compiled,
                                      carried={"scales": plan, **(carried or {})},
                                      last_layer=last_weight(vae.decoder), **numbers)  # fmt: skip


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


@torch.no_grad()
def codebook_report(
    vae: Any, images: Tensor, sizes: Sizes, vocabulary: int, batch: int = 100
) -> dict[str, Any]:
    """The meter of a codebook over pictures (N, 3, H, W) in [0, 1] that it has not learnt from.

    A number a scale: share of the codes used, their perplexity, and decibels of what the scales so
    far show; and share and perplexity of all scales together.
    """
    ids = [torch.cat(own) for own in
           zip(*(vae.encode(part, sizes) for part in images.split(batch)), strict=True)]

    def decode(rows: slice, scales: int) -> Tensor:
        return vae.decode_tokens([own[rows] for own in ids[:scales]], sizes)

    counts = torch.stack([torch.bincount(own.flatten(), minlength=vocabulary) for own in ids])
    uses = [use_of_counts(own) for own in counts]
    whole = use_of_counts(counts.sum(0))
    return {"pictures": len(images), "vocabulary": vocabulary,
            "codes_used": [round(use.share, 4) for use in uses],
            "perplexity": [round(use.perplexity, 1) for use in uses],
            "all_scales": {"codes_used": round(whole.share, 4),
                           "perplexity": round(whole.perplexity, 1)},
            "psnr": shown_by_scale(images, sizes, decode)}  # fmt: skip
