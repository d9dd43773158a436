"""Train LaytonGen on the sticker world: what draws the ids of a frozen tokenizer after a caption.

`models.layton.train.next_id_loss` on ids and words that are made once and stay on the device; the
text encoder learns with it, or stays as it is where it was trained before, as the published T5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from impasto.models.layton import LaytonGenerator
from impasto.models.layton.train import TeacherForcing, next_id_loss
from impasto.models.mmdit.text import token_ids
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.data import PictureCache
from impasto.train.loop import Loop, mixed
from impasto.train.tokenizers import cached

__all__ = ["IdCache", "cache_ids", "train_ids"]

UNDECAYED = ("embedding", "norm", "shared", "relative_attention_bias")
"""Parts of names of matrices that decay leaves alone."""


@dataclass(frozen=True)
class IdCache:
    """ids: (N, L) int16 or int32. words: (V, N, n) int16, V wordings of each, padded behind."""

    ids: Tensor
    words: Tensor

    def __len__(self) -> int:
        return len(self.ids)


@torch.no_grad()
def cache_ids(
    pipe: LaytonGenerator, cache: PictureCache, captions: Sequence[Sequence[str]],
    batch: int = 250,
) -> IdCache:  # fmt: skip
    """Encode all pictures, at the size `pipe` draws, and captions."""
    vae, device = pipe.vae, cache.images.device
    pictures = cached(cache, pipe.default_size())
    kind = torch.int32 if vae.vocabulary > 2**15 else torch.int16
    ids = [vae.encode(pictures(slice(i, i + batch)))[0].to(kind)
           for i in range(0, len(cache), batch)]  # fmt: skip
    words = [token_ids(pipe.tokenizer, own) for own in zip(*captions, strict=True)]
    return IdCache(torch.cat(ids), torch.stack(words).to(device, torch.int16))


def train_ids(
    pipe: LaytonGenerator, cache: IdCache, *, steps: int, batch: int, lr: float = 1e-3,
    minutes: float | None = None, compiled: bool = False, seed: int = 0,
    wordings: Sequence[float] = (0.6, 0.4), ema: float = 0.9995, text: bool = True,
    on_save: Callable[[], str | None] | None = None, save_every: int = 0,
    checkpoint: Checkpoint | None = None,
) -> Loop:  # fmt: skip
    """Train `pipe`'s transformer and, with `text`, its text encoder; the tokenizer stays as it is.

    wordings: how often each wording of a caption is used. on_save: called every `save_every` steps
    with the moving average loaded, and undone after.
    """
    torch.manual_seed(seed + processes.rank())
    device, pad = cache.ids.device, pipe.tokenizer.pad_token_id
    both = nn.ModuleList([pipe.transformer, *([pipe.text_encoder] if text else [])]).train()
    loop = Loop(both, steps, lr, weight_decay=0.05, betas=(0.9, 0.95), minutes=minutes,
                ema_decay=ema, undecayed=UNDECAYED, name="layton",
                checkpoint=checkpoint)  # fmt: skip
    forced = TeacherForcing(pipe.transformer)
    run: Any = torch.compile(forced) if compiled else forced
    chances = torch.tensor(wordings, device=device)
    while loop.running:
        rows = torch.randint(len(cache), (batch,), device=device)
        way = torch.multinomial(chances, batch, replacement=True)
        words = cache.words[way, rows].long()
        with mixed(device):
            states = _states(pipe, words, words != pad, learning=text)
            loss, right = next_id_loss(run, cache.ids[rows].long(), states, words != pad)
        loop.update(loss, {"right": right})
        if on_save is not None:
            loop.save_if_due(on_save, save_every)
    loop.load_average()
    both.eval()
    return loop


def _states(pipe: LaytonGenerator, words: Tensor, there: Tensor, *, learning: bool) -> Tensor:
    """The text encoder's states (B, n, D), float32."""
    with torch.set_grad_enabled(learning):
        return pipe.text_encoder(input_ids=words, attention_mask=there).last_hidden_state.float()
