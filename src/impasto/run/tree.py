"""A search's candidates on disk: one small picture of them all beside each sample.

    RUN/search/00000/00000.webp     the rows before each choice of the trace, one after another,
                                    `columns` in a line; lossy, for looking at

What was chosen, and by which values, is in the sample's JSON ("trace").
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from impasto.images import webp_bytes
from impasto.search.base import Selection

__all__ = ["columns", "sheet"]

COLUMNS = 16


def columns(tiles: int) -> int:
    """Pictures in a line: as many as make a sheet of this many tiles no longer than a WebP may
    be."""
    return min(tiles, max(COLUMNS, math.isqrt(tiles)))


def sheet(trace: Sequence[Selection]) -> bytes:
    """The candidates of a trace as a WebP file; nothing for none."""
    if not trace:
        return b""
    tiles = torch.cat([selection.previews for selection in trace])
    wide = columns(len(tiles))
    gap = -len(tiles) % wide
    tiles = torch.cat([tiles, tiles.new_ones(gap, *tiles.shape[1:])])
    height, width = tiles.shape[-2:]
    grid = tiles.view(-1, wide, 3, height, width).permute(2, 0, 3, 1, 4)
    return webp_bytes(grid.reshape(3, -1, wide * width))
