"""Sampling of a diffusion with learned variance: the equations, and the state of a batch.

With beta_t linear from 1e-4 to 0.02 over t = 0 ... 999, a_t = prod_{i <= t} (1 - beta_i),
a_{-1} = 1, and s < t the time after t in a chain that may leave times out (respaced):

    x_t      = sqrt(a_t) x_0 + sqrt(1 - a_t) eps                 forward process
    x_0     ~= (x_t - sqrt(1 - a_t) eps) / sqrt(a_t)             the network predicts eps and v
    alpha    = a_t / a_s,   beta = 1 - alpha,   beta~ = beta (1 - a_s) / (1 - a_t)
    mean     = sqrt(a_s) beta / (1 - a_t) x_0 + sqrt(alpha) (1 - a_s) / (1 - a_t) x_t
    log var  = f log beta + (1 - f) log beta~,   f = (v + 1) / 2
    x_s      = mean + sqrt(var) z                                ddpm; no noise at the last step
    x_s      = sqrt(a_s) x_0 + sqrt(1 - a_s) eps                 ddim, eta = 0
    eps      = eps_u + g (eps_c - eps_u)                         guidance, of the first channels

x_0 is never clipped. z of a step is drawn from the row's seed and the step.

Sources: Ho et al. 2020 (arXiv 2006.11239), eq. 4, 7; Nichol & Dhariwal 2021 (arXiv 2102.09672),
eq. 15 and section 4; Song et al. 2021 (arXiv 2010.02502), eq. 12; guidance of 3 of 4 channels: the
official DiT code. Times as published: of ddpm evenly from 999 to 0, of ddim whole multiples.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers.models import DiTTransformer2DModel
from torch import Tensor

from impasto.models.latents import LatentState
from impasto.sample.seeds import derived_seed, row_noise

__all__ = ["SAMPLERS", "TIMES", "DiffusionState", "Posterior", "alpha_bars", "ddim", "ddpm",
           "guided_output", "noised", "output", "posterior", "predict_x_0", "step_noise",
           "times_of"]  # fmt: skip

TIMES = 1000
SAMPLERS = ["ddpm", "ddim"]
BETA = 1e-4, 0.02
_BETA_1 = BETA[0] + (BETA[1] - BETA[0]) / (TIMES - 1)
LEAST = _BETA_1 * BETA[0] / (1 - (1 - BETA[0]) * (1 - _BETA_1))
"""beta~ of t = 1 in the whole chain."""


@dataclass(frozen=True, kw_only=True)
class DiffusionState(LatentState):
    """classes: P distinct ones; `prompt_of` says which is a row's. times: steps + 1 whole numbers,
    the last -1."""

    classes: tuple[int, ...]


@functools.cache
def alpha_bars(device: torch.device | str = "cpu") -> Tensor:
    """a_{t-1} at place t: (1001,) float64, from 1."""
    with torch.inference_mode(False):  # kept: what training is given must know gradients
        beta = torch.linspace(*BETA, TIMES, dtype=torch.float64)
        return torch.cat([beta.new_ones(1), (1 - beta).cumprod(0)]).to(device)


def times_of(sampler: str, steps: int) -> tuple[int, ...]:
    """`steps` times from noise to 0, then -1. Raises ValueError for a number out of range."""
    if isinstance(steps, bool) or not isinstance(steps, int) or not 2 <= steps <= TIMES:
        raise ValueError(f"steps must be an integer from 2 to {TIMES}, the times that the model "
                         f"has learnt, given {steps!r}")  # fmt: skip
    apart = (TIMES - 1) / (steps - 1) if sampler == "ddpm" else TIMES // steps
    return (*(round(i * apart) for i in reversed(range(steps))), -1)


class Posterior(NamedTuple):
    """mean: (B, C, h, w). log_least, log_most: the range of the log variance, broadcastable."""

    mean: Tensor
    log_least: Tensor
    log_most: Tensor

    def log_var(self, v: Tensor) -> Tensor:
        """At the network's place v in the range, -1 to 1."""
        f = (v + 1) / 2
        return f * self.log_most + (1 - f) * self.log_least


def posterior(x_0: Tensor, x: Tensor, a_t: Tensor, a_s: Tensor) -> Posterior:
    """q(x_s | x_t, x_0). a_t, a_s: float64, broadcastable. The least variance of the last step,
    which is 0, is that of the one before it in the whole chain."""
    alpha, rest = a_t / a_s, 1 - a_t
    of_x_0, of_x = a_s.sqrt() * (1 - alpha) / rest, alpha.sqrt() * (1 - a_s) / rest
    least = ((1 - alpha) * (1 - a_s) / rest).clamp(min=LEAST)
    return Posterior(of_x_0.to(x) * x_0 + of_x.to(x) * x, least.log().to(x),
                     (1 - alpha).log().to(x))  # fmt: skip


def noised(x_0: Tensor, eps: Tensor, a_t: Tensor) -> Tensor:
    """x_t. a_t: broadcastable."""
    return a_t.sqrt().to(x_0) * x_0 + (1 - a_t).sqrt().to(x_0) * eps


def predict_x_0(x: Tensor, eps: Tensor, a_t: Tensor) -> Tensor:
    """(x_t - sqrt(1 - a_t) eps) / sqrt(a_t)."""
    return (x - (1 - a_t).sqrt().to(x) * eps) / a_t.sqrt().to(x)


def ddpm(x: Tensor, out: Tensor, t: int, s: int, z: Tensor) -> tuple[Tensor, Tensor]:
    """(x_s, x_0) of x_t and the network's output (B, 2C, h, w). z: noise (B, C, h, w)."""
    (eps, v), bars = out.chunk(2, dim=1), alpha_bars(x.device)
    x_0 = predict_x_0(x, eps, bars[t + 1])
    q = posterior(x_0, x, bars[t + 1], bars[s + 1])
    return (q.mean if s < 0 else q.mean + (q.log_var(v) / 2).exp() * z), x_0


def ddim(x: Tensor, out: Tensor, t: int, s: int) -> tuple[Tensor, Tensor]:
    """(x_s, x_0) of x_t and the network's output (B, 2C, h, w), whose variance is left alone."""
    (eps, _), bars = out.chunk(2, dim=1), alpha_bars(x.device)
    x_0 = predict_x_0(x, eps, bars[t + 1])
    return noised(x_0, eps, bars[s + 1]), x_0


def step_noise(state: DiffusionState) -> Tensor:
    """z of the next step, like x."""
    own = [derived_seed(seed, "noise", state.step) for seed in state.seeds]
    return row_noise(own, state.x.shape[1:], state.x.device)


def output(
    transformer: DiTTransformer2DModel, x: Tensor, t: Tensor, labels: Tensor
) -> Tensor:
    """eps and v (B, 2C, h, w), float32, at latents x, times t (B,) and classes (B,), int64."""
    return transformer(x.to(transformer.dtype), timestep=t, class_labels=labels,
                       return_dict=False)[0].float()  # fmt: skip


def guided_output(
    transformer: DiTTransformer2DModel, x: Tensor, t: int, labels: Sequence[int], null: int, *,
    guidance: float, guided: int,
) -> Tensor:  # fmt: skip
    """`output` under guidance of the first `guided` channels; both branches in one batch, and
    only one where the other has no say."""
    both, nulls = guidance not in (0.0, 1.0), [null] * len(x)
    rows = [*labels, *nulls] if both else (labels if guidance == 1.0 else nulls)
    at = torch.tensor(rows, device=x.device)
    out = output(transformer, torch.cat([x, x]) if both else x, torch.full_like(at, t), at)
    if not both:
        return out
    with_class, without = out.chunk(2)
    c, u = with_class[:, :guided], without[:, :guided]
    return torch.cat([u + guidance * (c - u), with_class[:, guided:]], dim=1)
