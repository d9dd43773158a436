"""The sampling protocol over something that draws in one go and lets nobody look in.

    start -> advance (everything) -> finish

A foreign pipeline or a server has no steps to hold, so this family has one step, no preview and
nothing to resample; searches over finished pictures work on it, those over previews say that they
need one. Row i depends on its prompt, its seed and the settings, as everywhere.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from impasto.images import quantise
from impasto.sample.pictures import Pipeline
from impasto.sample.protocol import Cost, Request, Sampling, one_text
from impasto.sample.protocol import State as _State
from impasto.sample.seeds import check_seeds

__all__ = ["OpaqueGenerator", "OpaqueState"]


@dataclass(frozen=True, kw_only=True)
class OpaqueState(_State):
    """prompts: one a row. images: (B, 3, H, W) once they are drawn."""

    prompts: tuple[str, ...]
    sampling: Sampling
    images: Tensor | None = None


class OpaqueGenerator(Pipeline):
    """A generator whose only step is the whole drawing. Subclasses write `draw` and `check`."""

    has_preview = False
    name: str = "this model"
    """What error messages call it."""

    @abstractmethod
    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
    ) -> tuple[Tensor, float]:
        """The pictures (B, 3, H, W) in [0, 1] and the FLOPs of each of them."""

    @abstractmethod
    def check(self, sampling: Sampling) -> None:
        """Raises ValueError naming a setting that this model has not, before anything is drawn."""

    def start(
        self, requests: Sequence[Request], seeds: Sequence[int], sampling: Sampling
    ) -> OpaqueState:
        self.check(sampling)
        return OpaqueState(step=0, steps=1, seeds=check_seeds(seeds), sampling=sampling,
                           prompts=one_text(requests, seeds))  # fmt: skip

    @torch.inference_mode()
    def advance(self, state: OpaqueState) -> OpaqueState:
        """Draw. Raises ValueError when it is done, or for pictures with NaN."""
        if state.done:
            raise ValueError("the one step is done; call finish")
        images, flops = self.draw(state.prompts, state.seeds, state.sampling)
        n = len(state.seeds)
        if len(images) != n:
            raise ValueError(f"{self.name} gave {len(images)} pictures for {n} prompts")
        costs = state.charged([Cost(flops=flops, row_steps=1, decodes=1)] * n)
        return replace(state, step=1, images=quantise(images), costs=costs)

    def preview(self, state: OpaqueState) -> Tensor:
        """There is none. Raises ValueError that says so, by the model's name."""
        raise ValueError(f"{self.name} draws in one go and has no preview; take a search over "
                         f"finished pictures, as best-of-n, or a model that draws in visible "
                         f"steps")  # fmt: skip

    def preview_cost(self, state: OpaqueState) -> Cost:
        """Nothing: there is none."""
        return Cost()

    def select(self, state: OpaqueState, rows: Sequence[int]) -> OpaqueState:
        """The state whose row i is row `rows[i]`; rows may repeat."""
        images = None if state.images is None else state.images[list(rows)]
        return replace(state, images=images, seeds=tuple(state.seeds[i] for i in rows),
                       costs=tuple(state.costs[i] for i in rows),
                       prompts=tuple(state.prompts[i] for i in rows))  # fmt: skip

    def finish(self, state: OpaqueState) -> Tensor:
        """The pictures (B, 3, H, W) on the 8-bit grid. Raises ValueError before the step."""
        if state.images is None:
            raise ValueError("nothing is drawn yet; call advance")
        return state.images
