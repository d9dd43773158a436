"""Work in batches that halve when memory runs out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

__all__ = ["in_batches"]

T = TypeVar("T")
TOO_LARGE = ("one picture at a time does not fit into memory; choose a smaller height and width "
             "or another device")  # fmt: skip


def in_batches(
    items: Sequence[T], size: int, work: Callable[[Sequence[T], int], None], each: int = 1
) -> None:
    """Call `work(items, size)` on as many items at a time as make `size` pictures.

    each: pictures that an item takes; an item that takes more than `size` comes alone. A batch
    that raises torch.OutOfMemoryError is halved and done again; the results are the same, since
    what comes of an item depends on nothing but the item. Raises it when one alone does not fit,
    and ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"the batch size must be at least 1, got {size}")
    done = 0
    while done < len(items):
        batch = items[done : done + max(1, size // each)]
        try:
            work(batch, size)
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise torch.OutOfMemoryError(TOO_LARGE) from error
        else:
            done += len(batch)
            continue
        # Only here is the exception gone, and with it the failed batch's tensors.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(f"out of memory with {size} pictures at a time; going on with {size // 2}",
                      stacklevel=2)  # fmt: skip
        size //= 2
