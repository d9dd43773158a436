"""Masks as text: COCO's run lengths, as pycocotools writes and reads them.

    mask down its columns = runs of 0, 1, 0, 1, …;    from the fourth run on, the difference to
    the run two before;    each number in groups of 5 bits, low first: 48 + (bits | 32 if more)

Source: pycocotools, `maskApi.c`, rleEncode, rleToString, rleFrString.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["mask_of", "text_of"]


def text_of(mask: Tensor) -> str:
    """(H, W) bool as text; its size is not in it."""
    flat = mask.t().reshape(-1).cpu()
    ends = torch.nonzero(flat[1:] != flat[:-1])[:, 0] + 1
    places = [0, *([0] if flat[0] else []), *ends.tolist(), len(flat)]
    runs = [b - a for a, b in pairwise(places)]
    return "".join(_text(run - runs[i - 2] if i > 2 else run) for i, run in enumerate(runs))


def _text(number: int) -> str:
    out = ""
    while True:
        bits, number = number & 31, number >> 5
        # Done when the rest is the sign alone, and the last group's top bit says the same.
        more = number != (-1 if bits & 16 else 0)
        out += chr(48 + (bits | 32 if more else bits))
        if not more:
            return out


def _numbers(text: str) -> Iterator[int]:
    number = shift = 0
    for letter in text:
        code = ord(letter) - 48
        number |= (code & 31) << shift
        shift += 5
        if not code & 32:
            yield number - (1 << shift) if code & 16 else number
            number = shift = 0


def mask_of(text: str, size: tuple[int, int]) -> Tensor:
    """(H, W) bool again. size: (H, W). Raises ValueError for text that is of no such mask."""
    runs: list[int] = []
    for number in _numbers(text):
        runs.append(number + runs[-2] if len(runs) > 2 else number)
    height, width = size
    if min(runs, default=-1) < 0 or sum(runs) != height * width:
        raise ValueError(f"{text[:40]!r} is not a mask of {width} x {height} pixels")
    values = torch.arange(len(runs)) % 2 == 1
    return values.repeat_interleave(torch.tensor(runs)).reshape(width, height).t().contiguous()
