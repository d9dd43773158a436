"""The edit "timesteps": a DiT's time in the frequencies that the official model has.

    official     f_i = 10000^(-i / 128),   i = 0 … 127
    diffusers    f_i = 10000^(-i / 127)

diffusers' `DiTTransformer2DModel` was given the other frequencies than the weights were trained
with. {"edit": "timesteps", "downscale_freq_shift": 0} sets the official ones; there is nothing to
learn in them. Without this edit a converted model gives something else than the official one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from impasto.models.edited.hosts import host_of
from impasto.models.edited.record import edit

__all__ = ["OFFICIAL", "retime"]

OFFICIAL = {"edit": "timesteps", "downscale_freq_shift": 0}


@edit("timesteps")
def retime(model: nn.Module, values: Mapping[str, Any]) -> None:
    """Set n of f_i = 10000^(-i / (128 - n)), in place. Raises ValueError for another host than
    DiT, or for another n than 0 or 1."""
    shift = values.get("downscale_freq_shift")
    if set(values) != set(OFFICIAL) or shift not in (0, 1):
        raise ValueError(f"an edit 'timesteps' has 'downscale_freq_shift', 0 or 1, given "
                         f"{dict(values)!r}")  # fmt: skip
    times = [module for name, module in model.named_modules() if name.endswith("emb.time_proj")]
    if host_of(model).family.name != "DiT" or not times:
        raise ValueError(f"an edit 'timesteps' is for a DiT, not for a {type(model).__name__}")
    for module in times:
        module.downscale_freq_shift = shift  # type: ignore[assignment]
