"""The sampling protocol of a next-scale family: one step a scale, whatever its tokens are.

Keys and values of earlier scales are kept (`cache`). On a CPU each row's networks run by
themselves, so a row's bytes do not depend on its batch; elsewhere all rows go in one batch and
agree to rounding.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from impasto.images import quantise
from impasto.models.networks import NetworkGenerator
from impasto.models.next_scale.cache import Cache
from impasto.models.next_scale.maps import Sizes
from impasto.models.next_scale.network import ScaleNetwork
from impasto.models.next_scale.state import ScaleState, select_rows
from impasto.sample.protocol import Cost, Sampling
from impasto.sample.rowwise import in_rows
from impasto.sample.settings import check_guidance, check_steps

__all__ = ["NextScaleGenerator", "check_sampling"]

MEGAPIXEL = 2**20

S = TypeVar("S", bound=ScaleState)


class NextScaleGenerator(NetworkGenerator):
    """A family says how logits of a scale's tokens come about (`_scale`), how tokens are drawn and
    added to f^ (`_add_tokens`), and what is computed for it (`_scale_flops`); one that goes
    through its network several times a scale, how often (`_passes`)."""

    vae: Any
    """The tokenizer: `decode`, and `factor`, pixels a side of a place of f^."""
    _scale: ScaleNetwork

    @property
    @abstractmethod
    def square_sizes(self) -> Sizes:
        """Sizes of the scales of a square picture, as it is drawn by default."""

    @abstractmethod
    def _add_tokens(self, state: Any, logits: Tensor) -> Any:
        """The state with the next scale's tokens in its sums, drawn from the logits of all
        rows."""

    @abstractmethod
    def _scale_flops(self, state: Any, row: int) -> int:
        """FLOPs of the next scale of one row, of all passes and of both branches where there are
        two."""

    @abstractmethod
    def _decoder_flops(self, state: Any) -> int:
        """FLOPs of decoding one picture."""

    # ---------------------------------------------------------------- speed

    def compile(self, **options: Any) -> Self:
        """Trade a slow start (a minute, say) for speed; tokens stay the same to rounding.

        The transformer's blocks and the decoder go through torch.compile, whose `options` these
        are; on a GPU of compute capability 9 cuDNN's attention comes first. Returns itself.
        """
        self._scale.compile(**options)
        return self

    def use_graphs(self, on: bool = True) -> Self:
        """Run small scales as CUDA graphs, recorded when the same number of rows (and length of
        text) comes a second time. Returns itself.

        Graphs are of the weights where they lie now: call again after a network was moved or cast.
        Raises ValueError off a GPU.
        """
        if on and self.device.type != "cuda":
            raise ValueError(f"CUDA graphs need the model on a GPU; it is on {self.device}")
        self._scale.use_graphs(on)
        return self

    def to(self, device: torch.device | str) -> Self:
        """Move the networks. Graphs stay behind: `use_graphs` after moving."""
        return super().to(device).use_graphs(False)

    # ---------------------------------------------------------------- the sampling protocol

    @torch.inference_mode()
    def advance(self, state: S) -> S:
        """Draw the next scale's tokens of all rows. Raises ValueError when the state is done."""
        if state.done:
            raise ValueError(f"all {state.steps} scales are drawn; call finish")
        n, last = len(state.seeds), state.step + 1 == state.steps
        past = state.cache or self.transformer.no_past(n * (1 + state.paired))
        into = None if last else self._scale.extended(state, past)
        after = replace(
            self._add_tokens(state, self._logits(state, past, into)),
            step=state.step + 1,
            cache=into,
            costs=state.charged(self._step_costs(state)),
        )
        if into is not None and state.paired and not after.paired:
            with_prompt = torch.arange(0, 2 * n, 2, device=self.device)
            return replace(after, cache=into.selected(with_prompt))
        return after

    def _logits(self, state: Any, past: Cache, into: Cache | None) -> Tensor:
        """What the next scale's tokens of all rows are drawn from; see `ScaleNetwork.logits`."""
        n = len(state.seeds)
        size = self.rows_at_once or n
        return torch.cat([self._scale.logits(state, range(i, min(i + size, n)), past, into)
                          for i in range(0, n, size)])  # fmt: skip

    def _passes(self, state: Any) -> int:
        """How often the next scale goes through the network."""
        return 1

    @torch.inference_mode()
    def preview(self, state: ScaleState) -> Tensor:
        """Pictures of the scales so far, at full size; of no codes before the first."""
        return self.decode(state.f_hat)

    def preview_cost(self, state: ScaleState) -> Cost:
        """A preview is decoded at full size, as the finished picture is."""
        return Cost(flops=float(self._decoder_flops(state)), decodes=1)

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
        """Pictures (B, 3, H, W) in [0, 1] of summed codes (B, d, h, w), as many at once as make a
        megapixel: more would not be faster, only larger."""
        pixels = math.prod(f_hat.shape[-2:]) * self.vae.factor**2
        at_once = self.rows_at_once or max(1, MEGAPIXEL // pixels)
        return in_rows(lambda at: self.vae.decode(f_hat[at]), len(f_hat), at_once)

    def _step_costs(self, state: ScaleState) -> list[Cost]:
        """Of one scale of each row. The last is charged with the decoding after it.

        What is computed once a prompt is left out: its share depends on how many rows share it.
        """
        new = self._passes(state) * math.prod(state.sizes[state.step])
        after = self.preview_cost(state) if state.step + 1 == state.steps else Cost()
        return [Cost(flops=float(self._scale_flops(state, row)), row_steps=1, tokens=new) + after
                for row in range(len(state.seeds))]  # fmt: skip


def check_sampling(sampling: Sampling, scales: int) -> None:
    """Raises ValueError for steps other than the scales, or a guidance out of range."""
    check_steps(sampling, scales, f"in {scales} scales")
    check_guidance(sampling.guidance)
