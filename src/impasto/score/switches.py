"""Which kernels the lean networks run by; by itself, so that asking loads no networks' library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec

import torch

__all__ = ["has_kernels", "split_products", "splitting"]

_split: ContextVar[bool] = ContextVar("_split", default=False)


def has_kernels(device: str | torch.device) -> bool:
    """Whether `score.kernels` and `score.products` run there."""
    return torch.device(device).type == "cuda" and find_spec("triton") is not None


@contextmanager
def split_products() -> Iterator[None]:
    """float32 products of lean models by three of TF32, where `has_kernels`."""
    token = _split.set(True)
    try:
        yield
    finally:
        _split.reset(token)


def splitting() -> bool:
    """Whether this runs inside `split_products`."""
    return _split.get()
