"""What surgery trains on: noised latents with what the host is called with.

    x_t = (1 - t) x_0 + t eps,   v = eps - x_0       flow matching (SD3, arXiv 2403.03206)

t is logit-normal and shifted as the generator's own times are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from impasto.models.mmdit import MMDiTGenerator
from impasto.models.mmdit.sampler import interpolate
from impasto.models.mmdit.text import Encoding, encode, null_ids
from impasto.models.mmdit.train import drop_text, sample_times
from impasto.train.generator import LatentCache

__all__ = ["Noised", "flow_matched", "noised_latents", "output_of"]


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


def noised_latents(
    pipe: MMDiTGenerator, cache: LatentCache, batch: int, *, drop: float = 0.1,
    wordings: Sequence[float] = (0.6, 0.4), time_mean: float = 0.0, time_std: float = 1.0,
) -> Callable[[], Noised]:  # fmt: skip
    """Draws batches of an mmdit generator's latents, texts (of which a share `drop` is the null
    prompt), times and noise, anew each time, from torch's own random numbers.

    wordings: how often each wording of a caption is used.
    """
    device, shift = cache.latents.device, pipe.defaults.shift
    null, chances = null_ids(pipe.tokenizer).to(device), torch.tensor(wordings, device=device)

    @torch.no_grad()
    def draw() -> Noised:
        rows = torch.randint(len(cache), (batch,), device=device)
        way = torch.multinomial(chances, batch, replacement=True)
        ids = drop_text(cache.ids[way, rows].long(), null, drop)
        text = encode(pipe.text_encoder, ids)
        t = sample_times(batch, mean=time_mean, std=time_std, device=device)
        t = shift * t / (1 + (shift - 1) * t)
        x_0 = cache.latents[rows].float()
        return flow_matched(x_0, torch.randn_like(x_0), t, text)

    return draw


def output_of(model: nn.Module, given: Mapping[str, Any]) -> Tensor:
    """What a diffusion transformer gives, float32, however it wraps it."""
    found = model(**given)
    return (found if isinstance(found, Tensor) else found[0]).float()
