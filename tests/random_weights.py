"""Random weights that are the same everywhere: each tensor from its own name."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


def named_random(key: str, shape: tuple[int, ...]) -> Tensor:
    """Weights and biases of a scale that keeps features alive; variances around 1."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    if key.endswith("running_var") or key.endswith("bn.weight"):
        return 1 + 0.2 * noise.tanh()
    if len(shape) < 2:
        return 0.1 * noise
    return noise * (2 / noise[0].numel()) ** 0.5


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {key: named_random(key, shape) for key, shape in shapes.items()
            if not key.endswith("num_batches_tracked")}  # fmt: skip
