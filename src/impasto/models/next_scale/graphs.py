"""Calls recorded as CUDA graphs, for scales so small that launching kernels is what takes time.

A block is some fifteen kernels and a picture of 13 scales 6,000 of them: at a few microseconds
each, the coarse scales wait for the processor. A graph launches the whole network at once. What it
needs in return is that everything lies where it lay:

    inputs    are copied to places of their own before each launch, one a shape
    caches    are too large for that: a graph is of one address. `Recycled` gives the same
              addresses again for the next drawing, as soon as no state holds them
    the rest  weights, or made inside the call: a tensor made before it, such as a cast of a
              weight, is freed after it, and the graph would read what comes to lie there
    outputs   lie where the graph left them, until the next launch: use them at once

A call is recorded when its key comes a second time. The first call runs plainly and makes ready
what may not happen while recording (plans, workspaces, compilation).
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from impasto.models.next_scale.cache import Buffers, fresh

__all__ = ["Captured", "Recycled"]

Call = Callable[..., Tensor]
Inputs = Sequence[Tensor | None]


class Recycled:
    """`cache.Take` that gives buffers of one shape again when the last of them is held by nobody.

    Keeps what it ever gave, so its use is for small caches.
    """

    def __init__(self) -> None:
        self._given: dict[Hashable, list[tuple[Tensor, Tensor, weakref.ref[Buffers]]]] = {}

    def __call__(self, shape: tuple[int, ...], like: Tensor) -> Buffers:
        given = self._given.setdefault((shape, like.dtype, like.device), [])
        for i, (keys, values, holder) in enumerate(given):
            if holder() is None:
                buffers = Buffers(keys, values)
                given[i] = (keys, values, weakref.ref(buffers))
                return buffers
        buffers = fresh(shape, like)
        given.append((buffers.keys, buffers.values, weakref.ref(buffers)))
        return buffers


class Captured:
    """Recorded calls by key and shapes of inputs; at most `most`, the longest unused go first."""

    def __init__(self, most: int = 128) -> None:
        self.most = most
        self._pool = torch.cuda.graph_pool_handle()
        self._places: dict[Hashable, Tensor] = {}
        self._calls: OrderedDict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor] | None]
        self._calls = OrderedDict()

    def __call__(self, key: Hashable, call: Call, inputs: Inputs) -> Tensor:
        """`call(*inputs)`. key: all that the result depends on besides the inputs' values,
        addresses of what the call reads or writes elsewhere included."""
        key = (key, *(None if x is None else (x.shape, x.dtype) for x in inputs))
        if key not in self._calls:
            self._calls[key] = None
            if len(self._calls) > self.most:
                self._calls.popitem(last=False)
            return call(*inputs)
        self._calls.move_to_end(key)
        places = [self._placed(i, x) for i, x in enumerate(inputs)]
        found = self._calls[key] = self._calls[key] or self._recorded(call, places)
        found[0].replay()
        return found[1]

    def _placed(self, i: int, x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        key = (i, x.shape, x.dtype)
        if key not in self._places:
            self._places[key] = torch.empty_like(x, memory_format=torch.contiguous_format)
        return self._places[key].copy_(x)

    def _recorded(self, call: Call, places: Inputs) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = call(*places)
        return graph, result
