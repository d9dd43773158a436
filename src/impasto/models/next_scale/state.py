"""The state of a batch of drawings that are made scale by scale.

The tokens of a scale hang on (seed, scale) alone, so a state whose rows were selected twice draws
different continuations once it is given different seeds: `replace(state, seeds=...)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from impasto.models.next_scale.cache import Cache
from impasto.models.next_scale.maps import Sizes
from impasto.sample.protocol import State
from impasto.sample.seeds import derived_seed, upload

__all__ = ["ScaleState", "per_scale", "scale_seed", "select_rows"]


@dataclass(frozen=True, kw_only=True)
class ScaleState(State):
    """Unfinished drawings. B rows, P distinct prompts; a step is a scale.

    f_hat: (B, d, H, W) codes summed so far, float32; zero before the first scale. cache: keys and
    values of all scales so far in every block, None once nothing follows; rows in pairs (with the
    prompt, without) where `paired`, else one a row. prompt_of: for each row its prompt. sizes: of
    all scales. guidance: one a scale. per_row: the names of all tensors that have a row each.
    """

    per_row: ClassVar[tuple[str, ...]] = ("f_hat",)
    f_hat: Tensor
    cache: Cache | None
    prompt_of: tuple[int, ...]
    sizes: Sizes
    guidance: tuple[float, ...]

    @property
    def paired(self) -> bool:
        """Whether the unconditional branch has a say at this scale or a later one, and is run."""
        return any(g != 1 for g in self.guidance[self.step :])


S = TypeVar("S", bound=ScaleState)


def scale_seed(seed: int, scale: int, refinement: int = 0) -> int:
    """The seed of one row's tokens at one scale, where it is drawn again of that refinement."""
    return derived_seed(seed, "scale", scale, *(("again", refinement) if refinement else ()))


def per_scale(name: str, value: float | Sequence[float], scales: int) -> tuple[float, ...]:
    """One number a scale, of one for all or a list. Raises ValueError for a list of another
    length, or for what is not finite."""
    given = (value,) * scales if isinstance(value, int | float) else tuple(value)
    if len(given) != scales:
        raise ValueError(f"{name} has {len(given)} values for {scales} scales: {value!r}")
    if not all(abs(number) < float("inf") for number in given):
        raise ValueError(f"{name} must be finite, given {value!r}")
    return tuple(map(float, given))


def select_rows(state: S, rows: Sequence[int]) -> S:
    """The state whose row i is row `rows[i]`: sums and both halves of every cache."""
    branches, device = 1 + state.paired, state.f_hat.device
    held = [branches * i + j for i in rows for j in range(branches)]
    at, cache = upload(torch.tensor(rows), device), state.cache
    own: dict[str, Any] = {name: getattr(state, name)[at] for name in state.per_row}
    return replace(
        state,
        **own,
        cache=None if cache is None else cache.selected(upload(torch.tensor(held), device)),
        prompt_of=tuple(state.prompt_of[i] for i in rows),
        seeds=tuple(state.seeds[i] for i in rows),
        costs=tuple(state.costs[i] for i in rows),
    )
