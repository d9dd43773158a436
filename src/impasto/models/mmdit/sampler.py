"""Sampling by flow matching: the equations, and the state of a batch of drawings.

Time runs from 1 (noise) to 0 (picture). With x_0 the latents, eps ~ N(0, I):

    x_t   = (1 - t) x_0 + t eps                          the path
    v     = d x_t / dt = eps - x_0                       what the network predicts
    x_t'  = x_t + (t' - t) v                             Euler step from t to t' < t
    x_0   ~ x_t - t v                                    current estimate, for previews
    t    <- s t / (1 + (s - 1) t)                        time shift (SD3, arXiv 2403.03206, eq. 23)
    v     = v_u + g (v_c - v_u)                          classifier-free guidance of scale g
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.models import SD3Transformer2DModel
from torch import Tensor

from impasto.models.latents import LatentState
from impasto.models.mmdit.text import Encoding

__all__ = ["FlowState", "euler", "guided_velocity", "interpolate", "predict_x_0",
           "shifted_times", "velocity"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FlowState(LatentState):
    """text: 1 + P encodings, the null prompt first; `prompt_of` says which is a row's. times:
    steps + 1, from 1 to 0."""

    text: Encoding


def interpolate(x_0: Tensor, eps: Tensor, t: Tensor | float) -> Tensor:
    """x_t = (1 - t) x_0 + t eps."""
    return (1 - t) * x_0 + t * eps


def euler(x: Tensor, v: Tensor, t: float, t_next: float) -> Tensor:
    """x_t' = x_t + (t' - t) v."""
    return x + (t_next - t) * v


def predict_x_0(x: Tensor, v: Tensor, t: float) -> Tensor:
    """x_0 = x_t - t v."""
    return x - t * v


def shifted_times(steps: int, shift: float) -> tuple[float, ...]:
    """`steps` + 1 times from 1 to 0, evenly spaced and then shifted towards 1 by `shift`."""
    even = [1 - i / steps for i in range(steps + 1)]
    return tuple(shift * t / (1 + (shift - 1) * t) for t in even)


def velocity(transformer: SD3Transformer2DModel, x: Tensor, t: Tensor, text: Encoding) -> Tensor:
    """The network's v (B, C, h, w), float32, at latents x and times t (B,)."""
    dtype = transformer.dtype
    v = transformer(
        hidden_states=x.to(dtype),
        encoder_hidden_states=text.states.to(dtype),
        pooled_projections=text.pooled.to(dtype),
        timestep=1000 * t,
        return_dict=False,
    )[0]
    return v.float()


def guided_velocity(
    transformer: SD3Transformer2DModel, x: Tensor, t: float, *, text: Encoding, null: Encoding,
    guidance: float,
) -> Tensor:  # fmt: skip
    """v under guidance; both branches in one batch, and only one where the other has no say.

    text: (B, ...) of these rows; null: the null prompt, one row.
    """
    both = guidance not in (0.0, 1.0)
    nulls = null.rows([0] * len(x))
    condition = nulls + text if both else (text if guidance == 1.0 else nulls)
    times = torch.full((len(condition.states),), t, device=x.device)
    v = velocity(transformer, torch.cat([x, x]) if both else x, times, condition)
    if not both:
        return v
    v_u, v_c = v.chunk(2)
    return v_u + guidance * (v_c - v_u)
