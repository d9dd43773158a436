"""The edit "pairs": depth to width (Chandrasegaran et al. 2025, arXiv 2506.05340).

    {"edit": "pairs", "pairs": [[0, 1], [2, 3]]}

Both blocks of a pair get the same input and a linear layer merges what they give:

    y = M [a(x); b(x)] + m           (2D -> D), for each stream of tokens

2,655,360 parameters a pair at D = 1152. A host with two streams has a merge for each, where its
blocks have weights for each; FLUX' single blocks, which treat both alike, have one. Blocks keep
their weights. M is the mean of both at first, m = 0; it learns by regression from the block's
input to what the two gave one after the other.

The pair stands where its first block was, in its second block's place is nothing to do, so numbers
of blocks stay. Graft and remove before pairing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from impasto.models.edited.hosts import EDITED, Host, host_of
from impasto.models.edited.identities import IdentityBlock
from impasto.models.edited.record import edit

__all__ = ["BlockPair", "pair_blocks", "pairs_of"]


class BlockPair(nn.Module):
    """Two blocks side by side, called as one of them is. width: D. streams: merges."""

    def __init__(self, first: nn.Module, second: nn.Module, width: int, streams: int) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.merge = nn.Linear(2 * width, width)
        self.merge_context = nn.Linear(2 * width, width) if streams == 2 else None
        for merge in (self.merge, self.merge_context):
            if merge is not None:
                _mean_(merge)

    @property
    def norm1(self) -> Any:
        """The first block's: a DiT takes its embedding of time and label from there."""
        return self.first.norm1

    @property
    def context_pre_only(self) -> Any:
        return getattr(self.second, "context_pre_only", False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        a, b = self.first(*args, **kwargs), self.second(*args, **kwargs)
        if isinstance(a, Tensor):
            return self.merge(torch.cat([a, b], dim=-1))
        context = self.merge_context or self.merge
        text = None if b[0] is None else context(torch.cat([a[0], b[0]], dim=-1))
        return text, self.merge(torch.cat([a[1], b[1]], dim=-1))


@torch.no_grad()
def _mean_(merge: nn.Linear) -> None:
    half = 0.5 * torch.eye(merge.out_features, device=merge.weight.device)
    merge.weight.copy_(torch.cat([half, half], dim=1))
    nn.init.zeros_(merge.bias)


def pairs_of(host: Host) -> list[list[int]]:
    """(2j, 2j + 1) through the whole host. Raises ValueError for an odd number of blocks of one
    kind."""
    pairs = [[i, i + 1] for i in range(0, host.depth, 2)]
    if host.depth % 2 or any(host.kind(i) != host.kind(j) for i, j in pairs):
        raise ValueError(f"{host.depth} blocks cannot be paired from the first to the last; name "
                         f"those of the pairs (0,1,4,5 is 0|1 and 4|5)")  # fmt: skip
    return pairs


@edit("pairs")
def pair_blocks(model: nn.Module, edit: Mapping[str, Any]) -> None:
    """Put pairs of following blocks side by side, in place; all of them or, with ValueError, none.

    Raises ValueError for blocks that do not follow one another, are of two kinds, in two pairs,
    paired already or removed.
    """
    host, pairs = host_of(model), edit.get("pairs")
    if set(edit) != {"edit", "pairs"} or not isinstance(pairs, (list, tuple)) or not pairs:
        raise ValueError(f"an edit 'pairs' has 'pairs': [[block, next block], …] and nothing "
                         f"else, given {dict(edit)!r}")  # fmt: skip
    new: dict[str, nn.Module] = {}
    for pair in pairs:
        i, j = _checked(host, pair)
        if host.path(i) in new or host.path(j) in new:
            raise ValueError(f"a block of {list(pair)} is in another pair")
        new |= _paired(host, i, j)
    for path, module in new.items():
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module.train(model.training))


def _checked(host: Host, pair: Any) -> tuple[int, int]:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or pair[1] != pair[0] + 1:
        raise ValueError(f"a pair is a block and the next one, given {pair!r}")
    i, j = pair
    if host.kind(i) != host.kind(j):
        raise ValueError(f"blocks {i} and {j} are of two kinds, {host.kind(i)} and {host.kind(j)}")
    for block in (host.block(i), host.block(j)):
        if type(block).__module__.startswith(EDITED):
            raise ValueError(f"a block of {list(pair)} is a {type(block).__name__} already; pair "
                             f"other blocks")  # fmt: skip
    return i, j


def _paired(host: Host, i: int, j: int) -> dict[str, nn.Module]:
    first, second = host.block(i), host.block(j)
    ends = getattr(second, "context_pre_only", False)
    streams = 2 if host.kind(i) in ("joint", "double") and not ends else 1
    where = next(first.parameters())
    with torch.device("meta" if where.device.type == "meta" else "cpu"):
        pair = BlockPair(first, second, host.width, streams)
    for merge in (pair.merge, pair.merge_context):
        if merge is not None:
            merge.to(device=where.device, dtype=where.dtype)
    return {host.path(i): pair, host.path(j): IdentityBlock(host.kind(j), second)}
