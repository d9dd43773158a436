"""Noise that belongs to a row: drawn from its own seed, on the CPU, whatever the device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["check_seeds", "derived_seed", "row_noise", "row_uniforms", "upload"]


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds as a tuple. Raises ValueError for one that is not an integer in [0, 2^63)."""
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ValueError(f"seed {seed!r} is not an integer from 0 to 2^63 - 1")
    return tuple(seeds)


def derived_seed(seed: int, *what: str | int) -> int:
    """A seed of what belongs to a row beside its first noise: a hash of its seed and of `what`."""
    digest = hashlib.sha256("\0".join(map(str, (seed, *what))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def upload(x: Tensor, device: torch.device | str) -> Tensor:
    """x, of the CPU, on another device; without waiting for what that is still busy with."""
    if torch.device(device).type != "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def row_noise(
    seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Standard normal (B, *shape), float32; row i depends on `seeds[i]` and `shape` alone."""
    rows = [torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return upload(torch.stack(rows), device)


def row_uniforms(
    seeds: Sequence[int], n: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Uniform numbers in [0, 1), (B, n), float64; row i depends on `seeds[i]` and n alone."""
    rows = [torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            for seed in seeds]  # fmt: skip
    return upload(torch.stack(rows), device)
