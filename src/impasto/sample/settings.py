"""Settings of a draw against what a model can do: what it cannot is refused, with what it can.

None in a `Sampling` is the model's own.
"""

from __future__ import annotations

import math

from impasto.sample.protocol import Sampling

__all__ = ["check_guidance", "check_size", "check_steps", "size_of"]


def check_steps(sampling: Sampling, steps: int, draws: str) -> None:
    """Raises ValueError for other than the model's one number of steps. draws: what they are."""
    if sampling.steps not in (None, steps) or isinstance(sampling.steps, bool):
        raise ValueError(f"this model draws {draws}, so steps must be {steps} or left out, given "
                         f"{sampling.steps!r}")  # fmt: skip


def check_guidance(guidance: float | None) -> None:
    """Raises ValueError for a guidance that is given and out of range."""
    if guidance is not None and not (math.isfinite(guidance) and guidance >= 0):
        raise ValueError(f"guidance must be a finite number >= 0, given {guidance!r}; 1 leaves "
                         f"the unconditional branch out")  # fmt: skip


def size_of(sampling: Sampling, own: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels; own: the model's, for what was left out."""
    return (own[0] if sampling.height is None else sampling.height,
            own[1] if sampling.width is None else sampling.width)  # fmt: skip


def check_size(sampling: Sampling, own: tuple[int, int]) -> None:
    """Raises ValueError for another size than `own`, (height, width), the model's only one."""
    if (asked := size_of(sampling, own)) != own:
        raise ValueError(f"this model draws {own[0]} x {own[1]}, so height x width must be that "
                         f"or left out, given {asked[0]!r} x {asked[1]!r}")  # fmt: skip
