"""One scale of a state through a family's networks: plainly, compiled, or as a recorded graph.

    codes of the scales before -> tokens -> blocks (reading and writing the cache) -> logits

Both branches of a row lie next to each other. What a graph must be told anew at each call are
arguments of one function; what it may keep (weights, caches) are not.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from impasto.models.next_scale.blocks import CachedAttention
from impasto.models.next_scale.cache import Cache, fresh
from impasto.models.next_scale.graphs import Captured, Recycled
from impasto.models.next_scale.maps import tokens
from impasto.models.next_scale.state import ScaleState

__all__ = ["ScaleNetwork", "parts"]

HOPPER = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION,
          SDPBackend.MATH)  # fmt: skip
"""Kernels for attention in the order of their speed on compute capability 9."""
LAUNCH_BOUND = 2048
"""New tokens in all rows below which launching takes longer than computing."""


class ScaleNetwork(ABC):
    """A family says how logits come about.

    prefix: places of the cache that are filled before the first scale, with a text.
    """

    prefix = 0

    def __init__(self, transformer: Any, vae: Any) -> None:
        self.transformer, self.vae = transformer, vae
        self._captured: Captured | None = None
        self._recycled: Recycled | None = None

    @abstractmethod
    def logits(self, state: Any, rows: range, past: Cache, into: Cache | None) -> Tensor:
        """Guided logits (B, L, ...) of the next scale of some rows.

        past: the cache of all rows. into: the same, with places for this scale's tokens, None
        where nothing follows.
        """

    def compile(self, **options: Any) -> None:
        """See `NextScaleGenerator.compile`."""
        self.transformer.compile_repeated_blocks(**{"dynamic": True, "fullgraph": True} | options)
        # The method, not the module: FLOPs are counted by calling the module on the meta device.
        plain = type(self.vae).decode.__get__(self.vae)
        setattr(self.vae, "decode", torch.compile(plain, **options))  # noqa: B010
        device = self.transformer.device
        if device.type != "cuda":
            return
        self.vae.decoder.to(memory_format=torch.channels_last)
        if torch.cuda.get_device_capability(device) >= (9, 0):
            for module in self.transformer.modules():
                if isinstance(module, CachedAttention):
                    module.backends = HOPPER

    def use_graphs(self, on: bool) -> None:
        self._captured, self._recycled = (Captured(), Recycled()) if on else (None, None)

    def extended(self, state: ScaleState, past: Cache) -> Cache:
        """Room for the state's next scale behind the earlier ones."""
        new = tokens(state.sizes[state.step : state.step + 1])
        take = self._recycled if self._recycled and self._captures(state) else fresh
        return past.extended(new, self.prefix + tokens(state.sizes[:-1]), take)

    def _captures(self, state: ScaleState) -> bool:
        new = len(state.seeds) * (1 + state.paired) * math.prod(state.sizes[state.step])
        return self._captured is not None and new < LAUNCH_BOUND

    def _called(
        self, state: ScaleState, network: Callable[..., Tensor], inputs: Sequence[Tensor | None],
        cache: Cache, *fixed: Hashable,
    ) -> Tensor:  # fmt: skip
        """`network(*inputs)`, as a graph where that is faster. cache: what it reads or writes.
        fixed: what else the result hangs on, beside the state's sizes and step.

        `network` may read weights, the inputs and the cache; whatever else it needs (casts of
        weights too) it must make itself: a graph would find its memory given to others.
        """
        if self._captured is None or not self._captures(state):
            return network(*inputs)
        held = cache.buffers
        where = held.keys.data_ptr(), held.values.data_ptr(), held.room
        return self._captured((state.sizes, state.step, where, *fixed), network, inputs)

    def _told(self, state: ScaleState, rows: range) -> Tensor:
        """What the transformer is told of the scales before, both branches of each row."""
        f_hat = state.f_hat[rows.start : rows.stop]
        codes = self.vae.next_input(f_hat, state.sizes[state.step])
        return codes.repeat_interleave(1 + state.paired, dim=0)


def parts(
    state: ScaleState, rows: range, past: Cache, into: Cache | None
) -> tuple[Cache | None, Cache | None]:
    """Some rows' places in a cache, as a transformer takes them: None for an empty past."""
    branches = 1 + state.paired
    held = slice(rows.start * branches, rows.stop * branches)
    return (past.part(held) if past.length else None,
            None if into is None else into.part(held))  # fmt: skip
