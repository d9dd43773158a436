"""One scale of a state through the transformer: plainly, compiled, or as a recorded graph.

    codes of the scales before -> tokens -> blocks (reading and writing the cache) -> logits
    l = (g l_with + (1 - g) l_without) / tau

Both branches of a row lie next to each other. What a graph must be told anew at each call (codes,
rotation, text) are arguments of one function; what it may keep (weights, caches) are not.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from impasto.models.infinity.cache import Cache, fresh
from impasto.models.infinity.graphs import Captured, Recycled
from impasto.models.infinity.model import Block, Condition, InfinityTransformer, mixed
from impasto.models.infinity.sampler import ScaleState
from impasto.models.infinity.schedules import tokens
from impasto.models.infinity.tokenizer import InfinityTokenizer

__all__ = ["ScaleNetwork"]

HOPPER = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION,
          SDPBackend.MATH)  # fmt: skip
"""Kernels for attention in the order of their speed on compute capability 9."""
LAUNCH_BOUND = 2048
"""New tokens in all rows below which launching takes longer than computing."""


class ScaleNetwork:
    """guidance_layer: 0 for guidance on logits, -n for after block depth - n."""

    def __init__(
        self, transformer: InfinityTransformer, vae: InfinityTokenizer, guidance_layer: int
    ) -> None:
        self.transformer, self.vae, self.guidance_layer = transformer, vae, guidance_layer
        self._captured: Captured | None = None
        self._recycled: Recycled | None = None

    def compile(self, **options: Any) -> None:
        """See `InfinityGenerator.compile`."""
        self.transformer.compile_repeated_blocks(**{"dynamic": True, "fullgraph": True} | options)
        # The method, not the module: FLOPs are counted by calling the module on the meta device.
        setattr(self.vae, "decode",  # noqa: B010
                torch.compile(InfinityTokenizer.decode.__get__(self.vae), **options))  # fmt: skip
        device = self.transformer.device
        if device.type != "cuda":
            return
        cast(Any, self.vae.decoder).to(memory_format=torch.channels_last)
        if torch.cuda.get_device_capability(device) >= (9, 0):
            for block in self.transformer.blocks:
                cast(Block, block).sa.backends = HOPPER

    def use_graphs(self, on: bool) -> None:
        self._captured, self._recycled = (Captured(), Recycled()) if on else (None, None)

    def extended(self, state: ScaleState, past: Cache) -> Cache:
        """Room for the state's next scale behind the earlier ones."""
        sizes = state.schedule.sizes
        take = self._recycled if self._recycled and self._captures(state) else fresh
        return past.extended(tokens(sizes[state.step : state.step + 1]), tokens(sizes[:-1]), take)

    def _captures(self, state: ScaleState) -> bool:
        new = len(state.seeds) * (1 + state.paired) * math.prod(state.schedule.sizes[state.step])
        return self._captured is not None and new < LAUNCH_BOUND

    def logits(
        self, state: ScaleState, rows: range, past: Cache, into: Cache | None
    ) -> Tensor:
        """Guided, tempered logits (B, L, d, 2) of the next scale of some rows.

        past, into: of all rows; see `InfinityTransformer.forward`.
        """
        k, g, branches = state.step, state.guidance[state.step], 1 + state.paired
        inside = state.paired and g != 1 and self.guidance_layer < 0
        given = (self._codes(state, rows), *self.transformer.turn(state.schedule, k),
                 *self._text(state, rows))  # fmt: skip
        held = slice(rows.start * branches, rows.stop * branches)
        fixed = {
            "level": self.transformer.level(state.schedule, k),
            "past": past.part(held) if past.length else None,
            "into": None if into is None else into.part(held),
            "padded": len({state.lengths[state.prompt_of[i]] for i in rows}) > 1,
            "mix": (len(self.transformer.blocks) + self.guidance_layer, g) if inside else None,
        }

        def network(codes: Tensor | None, cos: Tensor, sin: Tensor, *text: Tensor) -> Tensor:
            own = Condition(*text)
            x = self.transformer.embed(k, own, codes)
            return self.transformer(x, own, turn=(cos, sin), **fixed)

        if self._captured is not None and self._captures(state):
            where = (into or past).buffers.keys.data_ptr(), (into or past).buffers.room
            key = (state.schedule, k, where, fixed["padded"], fixed["mix"])
            logits = self._captured(key, network, given)
        else:
            logits = network(*given)
        logits = logits / state.temperature[k]
        if not state.paired:
            return logits
        return logits[0::2] if inside or g == 1 else mixed(logits, g)

    def _codes(self, state: ScaleState, rows: range) -> Tensor | None:
        """What the transformer is told of the scales before; nothing before the first."""
        if state.step == 0:
            return None
        f_hat = state.f_hat[rows.start : rows.stop]
        codes = self.vae.next_input(f_hat, state.schedule.sizes[state.step])
        return codes.repeat_interleave(1 + state.paired, dim=0)

    def _text(self, state: ScaleState, rows: range) -> Condition:
        """The condition of each row's branches, as long as the longest prompt among them."""
        prompts = [state.prompt_of[i] for i in rows]
        length = max(state.lengths[p] for p in prompts)
        at = [2 * p + j for p in prompts for j in range(1 + state.paired)]
        return state.text.cut(length).rows(at)
