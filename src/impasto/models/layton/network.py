"""One row of a map of ids through the transformer, id by id: plainly, compiled, or as a graph.

    token before -> blocks (reading and writing the cache) -> logits -> id -> its token

All branches of a row of the batch lie next to each other. The cache has room for a whole picture
from the start and every id looks at all of it under a mask, so the shapes are those of every other
id: one recorded graph draws them all, with what differs (token, place, numbers) as its inputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.models.layton.model import LaytonTransformer
from impasto.models.layton.sampling import (
    Defaults,
    IdState,
    branches,
    guided,
    numbers,
    picked,
)
from impasto.models.next_scale.cache import Buffers, Cache, Take, fresh
from impasto.models.next_scale.graphs import Captured, Recycled
from impasto.sample.seeds import upload

__all__ = ["IdNetwork"]


def _zeroed(take: Take) -> Take:
    """Buffers of zeros: what nobody wrote is multiplied with a weight of 0, so it must be a
    number."""
    def taken(shape: tuple[int, ...], like: Tensor) -> Buffers:
        buffers = take(shape, like)
        buffers.keys.zero_()
        buffers.values.zero_()
        return buffers

    return taken


class IdNetwork:
    """defaults: how ids are picked."""

    def __init__(self, transformer: LaytonTransformer, defaults: Defaults) -> None:
        self.transformer, self.defaults = transformer, defaults
        self.places = transformer.text - 1 + transformer.count
        """Of the cache: the last id is never looked at."""
        self._captured: Captured | None = None
        self._recycled: Recycled | None = None

    def compile(self, **options: Any) -> None:
        """See `LaytonGenerator.compile`."""
        self.transformer.compile_repeated_blocks(**{"dynamic": True, "fullgraph": True} | options)

    def use_graphs(self, on: bool) -> None:
        self._captured, self._recycled = (Captured(), Recycled()) if on else (None, None)

    def extended(self, cache: Cache) -> Cache:
        """With places for the next row of ids, in buffers that have all places."""
        take = _zeroed(self._recycled or fresh)
        return cache.extended(self.transformer.side, self.places, take, growth=self.places)

    def row(self, state: IdState, rows: range, into: Cache) -> Tensor:
        """Ids (b, side) of the state's next row of the map, for some rows of the batch.

        into: the cache of all of them, `extended`.
        """
        runs, side, ways = state.runs, self.transformer.side, branches(state.guidance)
        held = into.part(slice(rows.start * runs, rows.stop * runs))
        prompts = [state.prompt_of[i] for i in rows for _ in ways]
        there = state.seen[upload(torch.tensor(prompts), state.ids.device)]
        there = F.pad(there, (0, self.places - there.shape[1]), value=True)
        u = numbers(state.seeds[rows.start : rows.stop], state.step, side, state.ids.device)
        start = self.transformer.text - 1 + state.step * side
        at = torch.arange(start, start + side, device=state.ids.device)
        x, drawn = self._before(state, rows), []
        for j in range(side):
            ids = self._called(state, held, (x, at[j : j + 1], there, u[:, j]))
            drawn.append(ids.clone())  # a graph's result lies where the next one's will
            x = self._tokens(drawn[-1], runs)
        return torch.stack(drawn, dim=1)

    def _tokens(self, ids: Tensor, runs: int) -> Tensor:
        """Input tokens (b R, 1, C) of ids (b,)."""
        return self.transformer.embed(ids[:, None]).repeat_interleave(runs, dim=0)

    def _before(self, state: IdState, rows: range) -> Tensor:
        """Input tokens (b R, 1, C) behind which the next id comes: the texts' ends at first."""
        runs = state.runs
        if state.step:
            return self._tokens(state.ids[rows.start : rows.stop, -1], runs)
        at = [runs * state.prompt_of[i] + j for i in rows for j in range(runs)]
        return state.last[upload(torch.tensor(at), state.ids.device)][:, None]

    def _called(self, state: IdState, held: Cache, inputs: tuple[Tensor, ...]) -> Tensor:
        """Ids (b,) of `inputs`, as a graph where they are used.

        What is called may read weights, its arguments and the cache: a graph would find other
        memory given to others.
        """
        whole = Cache(held.buffers, held.buffers.room)
        guidance, model = state.guidance, self.transformer

        def network(x: Tensor, at: Tensor, there: Tensor, u: Tensor) -> Tensor:
            mask = there & (torch.arange(there.shape[1], device=x.device) <= at)
            h = model(x, at, mask[:, None, None], whole)
            return picked(guided(model.logits(h)[:, 0], guidance), u, self.defaults)

        if self._captured is None:
            return network(*inputs)
        keys = held.buffers.keys
        where = keys.data_ptr(), held.buffers.values.data_ptr(), keys.shape
        return self._captured((where, guidance, self.defaults), network, inputs)
