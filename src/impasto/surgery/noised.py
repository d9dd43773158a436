"""What surgery trains on: noised latents with what the host is called with.

    x_t = (1 - t) x_0 + t eps,   v = eps - x_0       flow matching (SD3, arXiv 2403.03206): t is
                                                     logit-normal, shifted as the generator's are
    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps          diffusion (DiT): t is uniform over 0 ... 999
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from impasto.models.classes import drop_classes
from impasto.models.dit import DiTGenerator
from impasto.models.dit.sampler import TIMES, alpha_bars, noised, predict_x_0
from impasto.models.dit.train import output_loss
from impasto.models.mmdit import MMDiTGenerator
from impasto.models.mmdit.sampler import interpolate
from impasto.models.mmdit.text import Encoding, encode, null_ids
from impasto.models.mmdit.train import drop_text, sample_times
from impasto.train.data import PictureCache
from impasto.train.dit import ClassCache, cache_classes
from impasto.train.generator import LatentCache, cache_latents

__all__ = ["Cache", "Noised", "cache_noiseless", "diffused", "flow_matched", "noised_latents",
           "output_of", "split_off"]  # fmt: skip


@dataclass(frozen=True)
class Noised:
    """A batch. x_0, x_t: (B, C, h, w); given: keyword arguments of a call of the host; of what it
    gives, float32, error: the diffusion loss, a scalar, and estimate: that of x_0."""

    x_0: Tensor
    x_t: Tensor
    given: Mapping[str, Any]
    error: Callable[[Tensor], Tensor]
    estimate: Callable[[Tensor], Tensor]


def flow_matched(x_0: Tensor, eps: Tensor, t: Tensor, text: Encoding) -> Noised:
    """A batch of SD3's kind, at times t (B,)."""
    at = t[:, None, None, None]
    x_t = interpolate(x_0, eps, at)
    given = {"hidden_states": x_t, "encoder_hidden_states": text.states, "timestep": 1000 * t,
             "pooled_projections": text.pooled, "return_dict": False}  # fmt: skip
    return Noised(x_0, x_t, given, lambda v: (v - (eps - x_0)).square().mean(),
                  lambda v: x_t - at * v)  # fmt: skip


def diffused(x_0: Tensor, eps: Tensor, t: Tensor, labels: Tensor) -> Noised:
    """A batch of DiT's kind, at times t (B,) and classes (B,), int64."""
    bars = alpha_bars(x_0.device)
    a_t = bars[t + 1].view(-1, 1, 1, 1)
    x_t = noised(x_0, eps, a_t)
    given = {"hidden_states": x_t, "timestep": t, "class_labels": labels, "return_dict": False}
    return Noised(x_0, x_t, given,
                  lambda out: output_loss(out, x_0, x_t, t=t, eps=eps, bars=bars).total,
                  lambda out: predict_x_0(x_t, out.chunk(2, dim=1)[0], a_t))  # fmt: skip


# ---------------------------------------------------------------------- of the world's pictures


Cache = LatentCache | ClassCache


def cache_noiseless(pipe: Any, pictures: PictureCache, captions: Sequence[Sequence[str]]) -> Cache:
    """Latents of pictures with what a generator draws them by: texts or classes. Raises ValueError
    for a family that is neither mmdit nor dit."""
    if isinstance(pipe, MMDiTGenerator):
        return cache_latents(pipe, pictures, [texts[:2] for texts in captions], keep_moments=True)
    if isinstance(pipe, DiTGenerator):
        return cache_classes(pipe, pictures, keep_moments=True)
    raise ValueError(f"a {type(pipe).__name__} has no noised latents to train on; allowed: "
                     f"generators of the families mmdit and dit")  # fmt: skip


def split_off(cache: Cache, n: int) -> tuple[Cache, Cache]:
    """The first n pictures, and the others. Raises ValueError where one would be empty."""
    if not 0 < n < len(cache):
        raise ValueError(f"held_out must leave some of the {len(cache)} pictures, given {n}")
    def part(at: slice) -> Cache:
        if isinstance(cache, LatentCache):
            return LatentCache(cache.latents[at], cache.ids[:, at])
        return ClassCache(cache.latents[at], cache.labels[at])

    return part(slice(n)), part(slice(n, None))


def noised_latents(
    pipe: Any, cache: Cache, batch: int, *, drop: float = 0.1,
    wordings: Sequence[float] = (0.6, 0.4), time_mean: float = 0.0, time_std: float = 1.0,
) -> Callable[[], Noised]:  # fmt: skip
    """Draws batches of latents, texts or classes (a share `drop` of them null), times and noise,
    anew each time, from torch's own random numbers.

    wordings: how often each wording of a caption is used. time_mean, time_std: of logit-normal
    times; a dit's are uniform, and refuse any others.
    """
    device = cache.latents.device
    chances = torch.tensor(wordings, device=device)

    def texts(rows: Tensor) -> Encoding:
        assert isinstance(cache, LatentCache)
        way = torch.multinomial(chances, batch, replacement=True)
        null = null_ids(pipe.tokenizer).to(device)
        return encode(pipe.text_encoder, drop_text(cache.ids[way, rows].long(), null, drop))

    @torch.no_grad()
    def draw() -> Noised:
        rows = torch.randint(len(cache), (batch,), device=device)
        x_0 = cache.latents[rows].float()
        if isinstance(cache, ClassCache):
            labels = drop_classes(cache.labels[rows], pipe.null, drop)
            t = torch.randint(TIMES, (batch,), device=device)
            return diffused(x_0, torch.randn_like(x_0), t, labels)
        text, shift = texts(rows), pipe.defaults.shift
        t = sample_times(batch, mean=time_mean, std=time_std, device=device)
        return flow_matched(x_0, torch.randn_like(x_0), shift * t / (1 + (shift - 1) * t), text)

    if isinstance(cache, ClassCache) and (time_mean, time_std) != (0.0, 1.0):
        raise ValueError(f"a dit's times are uniform: leave out time_mean and time_std, given "
                         f"{time_mean} and {time_std}")  # fmt: skip
    return draw


def output_of(model: nn.Module, given: Mapping[str, Any]) -> Tensor:
    """What a diffusion transformer gives, float32, however it wraps it."""
    found = model(**given)
    return (found if isinstance(found, Tensor) else found[0]).float()
