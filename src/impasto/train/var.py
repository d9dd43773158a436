"""Train the "var" family on the sticker world: first the tokenizer, then what draws its tokens.

Tokenizer: `train.next_scale` with the quantiser's loss; codes that nothing used in `RESTART_EVERY`
steps move to where residuals are, up to `RESTART_UNTIL` of the training.

Transformer: `models.var.train.training_loss` on tokens that are made once and stay on the device.
A picture's class is that of its objects; pictures of several classes are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from impasto.models.next_scale.maps import Sizes
from impasto.models.var import VARGenerator, VARTokenizer
from impasto.models.var.train import (
    TeacherForcing,
    quantised,
    restart_unused,
    training_loss,
)
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.data import PictureCache, of_one_class
from impasto.train.loop import Loop, mixed
from impasto.train.next_scale import Quantise, pictures, train_tokenizer

__all__ = ["TokenCache", "cache_tokens", "train_var", "train_var_tokenizer"]

RESTART_EVERY, RESTART_UNTIL = 50, 0.5
UNDECAYED = ("class_emb", "lvl_embed", "pos_", "ada_gss", "scale_mul")
"""Parts of names of matrices that decay leaves alone, beside biases."""


def train_var_tokenizer(
    vae: VARTokenizer, cache: PictureCache, sizes: Sizes, **numbers: Any
) -> Loop:
    """`train.next_scale.train_tokenizer` of `vae`; numbers: its other arguments."""
    vocabulary = vae.config["vocabulary"]
    hits = torch.zeros(vocabulary, device=cache.images.device)
    return train_tokenizer(vae, cache, sizes, _quantise(vae, sizes, hits),
                           carried={"hits": hits}, vocabulary=vocabulary, **numbers)  # fmt: skip


def _quantise(vae: VARTokenizer, sizes: Sizes, hits: Tensor) -> Quantise:
    """With restarts; shows the share of codes used since the last. hits: (K,), how often."""
    def quantise(
        loop: Loop, f: Tensor, scales: int
    ) -> tuple[Tensor, Tensor, Mapping[str, Tensor], Tensor]:
        shown = {"recent": (hits > 0).float().mean()}
        if loop.step % RESTART_EVERY == RESTART_EVERY - 1 and loop.progress < RESTART_UNTIL:
            _restart(loop, vae, f, sizes, hits)
            hits.zero_()
        out = quantised(vae.quantize, f, sizes, scales=scales)
        ids = torch.cat([own.flatten() for own in out.ids])
        hits.index_add_(0, ids, torch.ones_like(ids, dtype=hits.dtype))
        return out.f_hat, out.loss, shown | {"vq": out.loss.detach()}, ids

    return quantise


def _restart(loop: Loop, vae: VARTokenizer, f: Tensor, sizes: Sizes, hits: Tensor) -> None:
    _, rests = vae.quantize.residual_tokens(f.detach(), sizes)
    weight = vae.quantize.embedding.weight
    moved = restart_unused(vae.quantize, rests, hits)
    if processes.count() > 1:
        with torch.no_grad():
            weight.copy_(processes.shared(weight.detach().cpu()))
        moved = processes.shared(moved.cpu()).to(weight.device)
    loop.start_over(weight, moved)


# ---------------------------------------------------------------- the transformer


@dataclass(frozen=True)
class TokenCache:
    """ids: (N, L) int16, tokens of all scales, one after another. labels: (N,) int64."""

    ids: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.ids)


@torch.no_grad()
def cache_tokens(pipe: VARGenerator, cache: PictureCache, batch: int = 500) -> TokenCache:
    """Encode the pictures of one class, at the size that `pipe` draws."""
    rows, labels = of_one_class(cache)
    sizes, ids = pipe.transformer.sizes, []
    for at in rows.split(batch):
        images = pictures(cache, at, pipe.vae, sizes)
        ids.append(torch.cat(pipe.vae.encode(images, sizes), dim=1).to(torch.int16))
    return TokenCache(torch.cat(ids), labels)


def train_var(
    pipe: VARGenerator, cache: TokenCache, *, steps: int, batch: int, lr: float = 1e-3,
    minutes: float | None = None, compiled: bool = False, seed: int = 0, ema: float = 0.9995,
    on_save: Callable[[], str | None] | None = None, save_every: int = 0,
    checkpoint: Checkpoint | None = None,
) -> Loop:  # fmt: skip
    """Train `pipe`'s transformer; the tokenizer stays as it is.

    on_save: called every `save_every` steps with the moving average loaded, and undone after.
    """
    torch.manual_seed(seed + processes.rank())
    device, model = cache.ids.device, pipe.transformer.train()
    loop = Loop(model, steps, lr, weight_decay=0.05, betas=(0.9, 0.95), minutes=minutes,
                ema_decay=ema, undecayed=UNDECAYED, name="var", checkpoint=checkpoint)  # fmt: skip
    forced = TeacherForcing(model)
    run: Any = torch.compile(forced) if compiled else forced
    counts = [h * w for h, w in model.sizes]
    while loop.running:
        rows = torch.randint(len(cache), (batch,), device=device)
        ids = cache.ids[rows].long().split(counts, dim=1)
        with mixed(device):
            loss, _, right = training_loss(run, pipe.vae, ids, cache.labels[rows])
        loop.update(loss, {f"right{k}": share for k, share in enumerate(right)})
        if on_save is not None:
            loop.save_if_due(on_save, save_every)
    loop.load_average()
    model.eval()
    return loop
