"""Masks as COCO's compressed run lengths, so that an export needs no pycocotools.

Runs of 0, 1, 0, … down the columns; from the fourth on, a run is written as its difference to the
run two before; each value in groups of five bits, lowest first, bit 5 = more to come, plus 48 as a
character (COCO API, `rleToString`). A value ends where the rest is only its sign.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["rle"]


def _runs(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of 0, 1, 0, … down the columns; the first may be 0."""
    line = mask.flatten(order="F")
    ends = np.flatnonzero(line[1:] != line[:-1]) + 1
    bounds = np.concatenate([[0], ends, [line.size]])
    runs = np.diff(bounds).tolist()
    return [0, *runs] if line[0] else runs


def rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """(H, W) bool to COCO's compressed run lengths: {"size": [H, W], "counts": text}."""
    runs, text = _runs(mask), []
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        while True:
            low, value = value & 0x1F, value >> 5
            more = value != (-1 if low & 0x10 else 0)
            text.append(chr((low | (0x20 if more else 0)) + 48))
            if not more:
                break
    return {"size": list(mask.shape), "counts": "".join(text)}
