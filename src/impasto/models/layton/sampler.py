"""Ways from noise to a latent: consistency sampling in a few steps, and DDIM.

Multistep consistency sampling, over times t_1 > ... > t_n > t_{n+1}:

    z_1   = noise,    x_0 = (z_k - sigma_k eps(z_k, t_k)) / alpha_k
    z_k+1 = alpha_{k+1} x_0 + sigma_{k+1} fresh noise             for k < n;  the last x_0 is kept

alpha_k = sqrt(abar(t_k)), sigma_k = sqrt(1 - abar(t_k)) of SDXL's schedule. The times are those of
an index table into 9 points from 999 to 0 (TLCM, Xie et al. 2024, arXiv 2406.05768), or a single
one, as HyperSD's one step from 800 (Ren et al. 2024, arXiv 2404.13686). Consistency models: Song
et al. 2023 (arXiv 2303.01469), algorithm 1. DDIM is diffusers', with SDXL's settings.

Noise is a row's own: of its seed at the first step, of a seed made from it at every later one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from diffusers.schedulers import DDIMScheduler
from torch import Tensor

from impasto.models.storage import checked_fields
from impasto.sample.seeds import derived_seed, row_noise
from impasto.zoo.registry import nearest

__all__ = ["DECODINGS", "GRID", "NOISE", "TABLE", "TIMES", "Decoding", "Noise", "alpha_sigma",
           "consistency", "ddim", "drawn", "own_noise", "predict_x_0", "renoised", "scheduler",
           "step_seed", "timesteps"]  # fmt: skip

TIMES = 1000
NOISE = {"num_train_timesteps": TIMES, "beta_start": 0.00085, "beta_end": 0.012,
         "beta_schedule": "scaled_linear", "prediction_type": "epsilon", "clip_sample": False,
         "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading"}  # fmt: skip
"""SDXL's schedule."""
GRID = (999, 874, 749, 624, 499, 374, 249, 124, 0)
TABLE = {1: (0, 8), 2: (0, 4, 8), 3: (0, 4, 7, 8), 4: (0, 2, 4, 7, 8), 5: (0, 2, 4, 6, 7, 8),
         6: (0, 2, 4, 5, 6, 7, 8), 7: (0, 2, 3, 4, 5, 6, 7, 8)}  # fmt: skip
"""Steps -> places in the grid."""
SAMPLERS = ("consistency", "ddim")

Network = Callable[[Tensor, int], Tensor]
"""(z, t) -> eps, of one row or of many."""
Noise = Callable[[int], Tensor]
"""Number of the step, from 0 -> standard normal of z's shape."""


def timesteps(steps: int, first: int | None = None) -> tuple[int, ...]:
    """The times of so many consistency steps, and the 0 behind them. Raises ValueError."""
    if steps not in TABLE:
        raise ValueError(f"consistency sampling takes {min(TABLE)} to {max(TABLE)} steps, given "
                         f"{steps!r}")  # fmt: skip
    if first is None:
        return tuple(GRID[i] for i in TABLE[steps])
    if steps != 1 or not 1 <= first <= GRID[0]:
        raise ValueError(f"`first` is the time of a single step, from 1 to {GRID[0]}, given "
                         f"{first!r} of {steps} steps; leave it out, or set steps to 1"
                         )  # fmt: skip
    return first, 0


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How latents are drawn.

    sampler: "consistency" or "ddim". steps: 1 to 7, or of DDIM. first: the time at which a single
    consistency step starts, where it is not the grid's. accelerated: whether the accelerator is
    on; None for consistency sampling alone. scale: of what the trainable copy adds. original,
    crop, target: (height, width) or (top, left) in pixels that SDXL is told; None for the
    picture's size.
    """

    sampler: str = "consistency"
    steps: int = 3
    first: int | None = None
    accelerated: bool | None = None
    scale: float = 0.8
    original: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)
    target: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler {self.sampler!r}: {nearest(self.sampler, list(SAMPLERS))}")
        if self.sampler == "consistency":
            timesteps(self.steps, self.first)
        elif self.first is not None or not 1 <= self.steps <= TIMES:
            raise ValueError(f"DDIM takes 1 to {TIMES} steps and no `first`, given {self.steps!r} "
                             f"and {self.first!r}")  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decoding:
        """The inverse of `asdict`. Raises ValueError naming unknown or missing keys."""
        return cls(**checked_fields(cls, values, "a Layton tokenizer's decoding"))

    def changed(self, name: str | None = None, **given: Any) -> Decoding:
        """This one, or the one called `name` in `DECODINGS`, with what is given and not None put
        in its place. A single step's own time goes when there are more. Raises ValueError."""
        if name is not None and name not in DECODINGS:
            raise ValueError(f"decoding {name!r}: {nearest(name, list(DECODINGS))}")
        start = self if name is None else DECODINGS[name]
        changes = {key: value for key, value in given.items() if value is not None}
        if changes.get("steps", 1) != 1 and "first" not in changes:
            changes["first"] = None
        return replace(start, **changes)

    @property
    def with_accelerator(self) -> bool:
        return self.sampler == "consistency" if self.accelerated is None else self.accelerated


DECODINGS = {"tlcm": Decoding(), "hyper": Decoding(steps=1, first=800),
             "ddim": Decoding(sampler="ddim", steps=25)}  # fmt: skip
"""As published: "T" and "L", "H", and the path without accelerator."""


def scheduler(**changes: Any) -> DDIMScheduler:
    """diffusers' DDIM with SDXL's schedule."""
    return DDIMScheduler(**{**NOISE, **changes})


ABAR: Tensor = scheduler().alphas_cumprod


def alpha_sigma(t: Tensor | int, z: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma), float32, of a time or of one a row (B,), to be multiplied with z."""
    abar = ABAR.to(z.device)[torch.as_tensor(t, device=z.device)]
    if abar.ndim:
        abar = abar.view(-1, *[1] * (z.ndim - 1))
    return abar.sqrt(), (1 - abar).sqrt()


def predict_x_0(z: Tensor, eps: Tensor, t: Tensor | int) -> Tensor:
    """(z - sigma eps) / alpha."""
    alpha, sigma = alpha_sigma(t, z)
    return (z - sigma * eps) / alpha


def renoised(x_0: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
    """alpha x_0 + sigma noise."""
    alpha, sigma = alpha_sigma(t, x_0)
    return alpha * x_0 + sigma * noise


def step_seed(seed: int, step: int) -> int:
    """The seed of a row's noise of a step: its own at the first, made from it at later ones."""
    return derived_seed(seed, "renoise", step) if step else seed


def own_noise(
    seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu"
) -> Noise:
    """The rows' noise (B, *shape), from their seeds."""
    return lambda step: row_noise([step_seed(seed, step) for seed in seeds], shape, device)


def consistency(network: Network, times: Sequence[int], noise: Noise) -> Tensor:
    """x_0 after len(times) - 1 steps."""
    z = x_0 = noise(0)
    for k, (t, following) in enumerate(pairwise(times), start=1):
        x_0 = predict_x_0(z, network(z, t), t)
        if k < len(times) - 1:
            z = renoised(x_0, noise(k), following)
    return x_0


def ddim(network: Network, steps: int, noise: Noise) -> Tensor:
    """x_0 by DDIM without noise of its own (eta 0)."""
    solver, z = scheduler(), noise(0)
    solver.set_timesteps(steps)
    for t in solver.timesteps.tolist():
        z = solver.step(network(z, t), t, z).prev_sample
    return z


def drawn(network: Network, decoding: Decoding, noise: Noise) -> Tensor:
    """A latent by either sampler."""
    if decoding.sampler == "ddim":
        return ddim(network, decoding.steps, noise)
    return consistency(network, timesteps(decoding.steps, decoding.first), noise)
