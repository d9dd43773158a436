"""Which blocks are grafted (Chandrasegaran et al. 2025, arXiv 2506.05340, section 4 and table 5).

    interleaved     n of L blocks, evenly: i where floor((i + 1) n / L) > floor(i n / L). Half of
                    them are the odd ones, three quarters those with i mod 4 != 0
    deep            the last n
    top-local       the n whose attention has most of its mass near the diagonal (`locality`)
    low-local       the n with least
    full            all
    pixart-sigma    PixArt-Sigma's: 8, 10, …, 18, 20-27 at ratio 0.5, 20-27 at 0.29

with n = ratio · L, rounded. Blocks count from 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from impasto.zoo.registry import nearest

__all__ = ["PATTERNS", "select_blocks"]

PATTERNS = ("interleaved", "deep", "top-local", "low-local", "full", "pixart-sigma")
PIXART_SIGMA = {0.5: (*range(8, 20, 2), *range(20, 28)), 0.29: tuple(range(20, 28))}


def select_blocks(
    pattern: str, depth: int, *, ratio: float | None = None,
    locality: Sequence[float] | None = None,
) -> list[int]:  # fmt: skip
    """Block numbers, ascending. depth: L. ratio: 0.5 if not given, of "full" 1. locality: L_k of
    every block, for "top-local" and "low-local".

    Raises ValueError for an unknown pattern, a ratio that selects none, or what does not belong
    together.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"unknown pattern {pattern!r}: {nearest(pattern, list(PATTERNS))}")
    share = (1.0 if pattern == "full" else 0.5) if ratio is None else ratio
    n = round(share * depth)
    if not 0 < share <= 1 or n < 1:
        raise ValueError(f"ratio must be in (0, 1] and select a block of {depth}, given {ratio}")
    if pattern == "full" and n < depth:
        raise ValueError(f"pattern 'full' is all blocks, given ratio {ratio}; allowed: 1, or "
                         f"pattern 'interleaved'")  # fmt: skip
    if pattern == "pixart-sigma":
        return _pixart_sigma(depth, share)
    if pattern.endswith("-local"):
        return _by_locality(pattern, depth, n, locality)
    if pattern == "deep":
        return list(range(depth - n, depth))
    return [i for i in range(depth) if (i + 1) * n // depth > i * n // depth]


def _pixart_sigma(depth: int, ratio: float) -> list[int]:
    if depth != 28 or ratio not in PIXART_SIGMA:
        raise ValueError(f"pattern 'pixart-sigma' is for 28 blocks and ratio 0.5 or 0.29, given "
                         f"{depth} and {ratio}")  # fmt: skip
    return list(PIXART_SIGMA[ratio])


def _by_locality(
    pattern: str, depth: int, n: int, locality: Sequence[float] | None
) -> list[int]:
    if locality is None or len(locality) != depth:
        given = "none" if locality is None else len(locality)
        raise ValueError(f"pattern {pattern!r} needs the locality of each of {depth} blocks, "
                         f"given {given}; measure it with 'impasto measure locality'")  # fmt: skip
    sign = -1 if pattern == "top-local" else 1
    return sorted(sorted(range(depth), key=lambda i: (sign * locality[i], i))[:n])
