"""The sampling protocol of a next-scale family: one step a scale, whatever its tokens are."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from impasto.images import quantise
from impasto.models.networks import NetworkGenerator
from impasto.models.next_scale.blocks import Cache
from impasto.models.next_scale.state import ScaleState, joined, select_rows
from impasto.sample.protocol import Cost, Sampling
from impasto.sample.rowwise import in_rows

__all__ = ["NextScaleGenerator"]

S = TypeVar("S", bound=ScaleState)


class NextScaleGenerator(NetworkGenerator):
    """A family says how logits of a scale's tokens come about (`_logits`), how tokens are drawn
    and added to f^ (`_add_tokens`), and what a row's scale costs (`_scale_flops`).

    On a CPU each row's networks run by themselves, so a row's bytes do not depend on its batch;
    elsewhere all rows go in one batch and agree to rounding.
    """

    vae: Any
    """The tokenizer, with `decode`."""

    @abstractmethod
    def _logits(self, state: Any, rows: range) -> tuple[Tensor, Cache]:
        """Guided logits (B, L, ...) of the next scale of some rows, and their cache."""

    @abstractmethod
    def _add_tokens(self, state: Any, logits: Tensor) -> Tensor:
        """f^ with the next scale's tokens, drawn from the logits of all rows."""

    @abstractmethod
    def _scale_flops(self, state: Any, row: int) -> int:
        """FLOPs of the next scale of one row, of both branches where there are two."""

    @abstractmethod
    def _decoder_flops(self, state: Any) -> int:
        """FLOPs of decoding one picture."""

    @torch.inference_mode()
    def advance(self, state: S) -> S:
        """Draw the next scale's tokens of all rows. Raises ValueError when the state is done."""
        if state.done:
            raise ValueError(f"all {state.steps} scales are drawn; call finish")
        n = len(state.seeds)
        size = self.rows_at_once or n
        parts = [self._logits(state, range(i, min(i + size, n))) for i in range(0, n, size)]
        last = state.step + 1 == state.steps
        return replace(
            state,
            step=state.step + 1,
            f_hat=self._add_tokens(state, torch.cat([logits for logits, _ in parts])),
            cache=None if last else joined([cache for _, cache in parts]),
            cost=state.cost + self._step_cost(state),
        )

    @torch.inference_mode()
    def preview(self, state: ScaleState) -> Tensor:
        """Pictures of the scales so far, at full size; of no codes before the first."""
        return self.decode(state.f_hat)

    def select(self, state: S, rows: Sequence[int]) -> S:
        """The state whose row i is row `rows[i]`; rows may repeat, and differ from then on where
        the result is given other seeds."""
        return select_rows(state, rows)

    @torch.inference_mode()
    def finish(self, state: ScaleState) -> Tensor:
        """The pictures (B, 3, H, W) on the 8-bit grid. Raises ValueError before the last scale."""
        if not state.done:
            raise ValueError(f"only {state.step} of {state.steps} scales are drawn; call preview")
        return quantise(self.decode(state.f_hat))

    def decode(self, f_hat: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of summed codes (B, d, h, w)."""
        return in_rows(lambda at: self.vae.decode(f_hat[at]), len(f_hat), self.rows_at_once)

    def _held(self, state: ScaleState, rows: range) -> Cache | None:
        """The cache of some rows, both halves."""
        each = 1 + state.paired
        at = slice(rows.start * each, rows.stop * each)
        return None if state.cache is None else tuple((k[at], v[at]) for k, v in state.cache)

    def _step_cost(self, state: ScaleState) -> Cost:
        """Of one scale of all rows. The last is charged with the decoding after it.

        What is computed once a prompt is left out: its share depends on how many rows share it.
        """
        n = len(state.seeds)
        flops = sum(self._scale_flops(state, row) for row in range(n))
        if state.step + 1 == state.steps:
            flops += n * self._decoder_flops(state)
        return Cost(flops=float(flops), row_steps=n)


def check_sampling(sampling: Sampling, scales: int) -> None:
    """Raises ValueError for steps other than the scales, or a guidance out of range."""
    if sampling.steps not in (None, scales) or isinstance(sampling.steps, bool):
        raise ValueError(f"this model draws in {scales} scales, so steps must be {scales} or "
                         f"left out, given {sampling.steps!r}")  # fmt: skip
    guidance = sampling.guidance
    if guidance is not None and not (math.isfinite(guidance) and guidance >= 0):
        raise ValueError(f"guidance must be a finite number >= 0, given {guidance!r}; 1 leaves "
                         f"the unconditional branch out")  # fmt: skip
