"""Keys and values of a drawing so far, in buffers that later scales are written into.

    Cache = the first `length` places of its Buffers, of `room` places

A state that goes on writes behind its own places, so what is there is never copied to make it
longer, and states stay values all the same:

    a cache sees its first `length` places alone: whatever is written behind them is not its own;
    `written` places of the buffers are somebody's. A cache that ends there goes on in place; one
    that ends before, because another state has gone on from it already, moves to a copy.

New buffers have room for GROWTH times what was asked, up to the whole schedule, so all copies
together are smaller than the cache at its end. The last scale is not stored: nothing follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from impasto.models.next_scale.blocks import KeysValues

__all__ = ["Buffers", "Cache", "Take", "fresh"]

GROWTH = 4


@dataclass(eq=False)
class Buffers:
    """keys, values: (depth, B, room, heads, d_head). written: places that are some cache's."""

    keys: Tensor
    values: Tensor
    written: int = 0

    @property
    def room(self) -> int:
        return self.keys.shape[2]


Take = Callable[[tuple[int, ...], Tensor], Buffers]
"""Buffers of a shape, of another tensor's type and device."""


def fresh(shape: tuple[int, ...], like: Tensor) -> Buffers:
    return Buffers(like.new_empty(shape), like.new_empty(shape))


@dataclass(frozen=True)
class Cache:
    """A sequence of `KeysValues`, one a block, each (B, heads, length, d_head); views."""

    buffers: Buffers
    length: int

    @classmethod
    def empty(cls, depth: int, rows: int, heads: int, head_width: int, like: Tensor) -> Cache:
        return cls(fresh((depth, rows, 0, heads, head_width), like), 0)

    @classmethod
    def joined(cls, caches: Sequence[Cache]) -> Cache:
        """Caches of one length, without room behind it, as one: their rows one after another."""
        keys, values = (torch.cat([getattr(own.buffers, name) for own in caches], dim=1)
                        for name in ("keys", "values"))  # fmt: skip
        length = caches[0].length
        return cls(Buffers(keys, values, length), length)

    def __len__(self) -> int:
        return len(self.buffers.keys)

    def __getitem__(self, block: int) -> KeysValues:
        k, v = (x[block, :, : self.length].transpose(1, 2)
                for x in (self.buffers.keys, self.buffers.values))  # fmt: skip
        return k, v

    def __iter__(self) -> Iterator[KeysValues]:
        return (self[block] for block in range(len(self)))

    def extended(
        self, new: int, most: int, take: Take = fresh, growth: int = GROWTH
    ) -> Cache:
        """This cache and `new` places behind it, still to be written. most: places that the
        schedule can ever fill. growth: room of new buffers, in times of what they must hold.
        Claims the places: whoever goes on from here later gets a copy."""
        need, buffers = self.length + new, self.buffers
        if need > buffers.room or buffers.written > self.length:
            buffers = self._moved(max(need, min(most, growth * need)), take)
        buffers.written = need
        return Cache(buffers, need)

    def _moved(self, room: int, take: Take) -> Buffers:
        old = self.buffers
        depth, rows, _, heads, width = old.keys.shape
        new = take((depth, rows, room, heads, width), old.keys)
        new.keys[:, :, : self.length] = old.keys[:, :, : self.length]
        new.values[:, :, : self.length] = old.values[:, :, : self.length]
        return new

    def part(self, rows: slice) -> Cache:
        """Some rows of the same memory, to be read and written; not to be extended."""
        whole = self.buffers
        own = Buffers(whole.keys[:, rows], whole.values[:, rows], whole.written)
        return Cache(own, self.length)

    def selected(self, rows: Tensor) -> Cache:
        """Row i of the result is row `rows[i]`: a copy, without room behind it."""
        keys, values = (torch.index_select(x[:, :, : self.length], 1, rows)
                        for x in (self.buffers.keys, self.buffers.values))  # fmt: skip
        return Cache(Buffers(keys, values, self.length), self.length)
