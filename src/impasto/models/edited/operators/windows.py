"""Softmax attention within a window of the raster: token i sees j with |i - j| <= w.

Up to `DENSE` tokens it is one attention under a mask. Beyond, queries go in blocks of b tokens,
each with the b + 2w keys around it, so that time and memory grow with N (b + 2w) instead of N^2.
Both are the same sums. Keys that every query sees (a text's) join each block's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DENSE", "window_attention", "window_mask"]

DENSE = 1024
BLOCK = 64


def window_mask(
    queries: int, keys: int, window: int, *, shift: int = 0,
    device: torch.device | None = None,
) -> Tensor:  # fmt: skip
    """(queries, keys) bool: |i - (j - shift)| <= window."""
    i = torch.arange(queries, device=device)[:, None]
    j = torch.arange(keys, device=device)[None] - shift
    return (i - j).abs() <= window


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int, *,
    shared: tuple[Tensor, Tensor] | None = None, dense: int = DENSE,
) -> Tensor:  # fmt: skip
    """Attention (B, H, N, d) -> (B, H, N, d) within the window.

    shared: keys and values (B, H, T, d) that all queries see beside their window. dense: most
    tokens for one attention under a mask.
    """
    if q.shape[2] > max(dense, 2 * window + 1):
        return _blocked(q, k, v, window, shared)
    mask = window_mask(q.shape[2], k.shape[2], window, device=q.device)
    if shared is not None:
        k, v = (torch.cat(pair, dim=2) for pair in ((k, shared[0]), (v, shared[1])))
        mask = F.pad(mask, (0, shared[0].shape[2]), value=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _blocked(
    q: Tensor, k: Tensor, v: Tensor, w: int, shared: tuple[Tensor, Tensor] | None
) -> Tensor:
    rows, _, tokens, _ = q.shape
    # Keys beside the block cost as much as its own: a block is as long as those.
    size = max(BLOCK, 2 * w, 0 if shared is None else shared[0].shape[2])
    blocks = -(-tokens // size)
    rest = blocks * size - tokens
    q = _folded(F.pad(q, (0, 0, 0, rest)).unflatten(2, (blocks, size)))
    k, v = (_folded(F.pad(x, (0, 0, w, w + rest)).unfold(2, size + 2 * w, size).transpose(-1, -2))
            for x in (k, v))  # fmt: skip
    mask = window_mask(size, size + 2 * w, w, shift=w, device=q.device)
    place = torch.arange(blocks, device=q.device)[:, None] * size - w
    place = place + torch.arange(size + 2 * w, device=q.device)
    mask = mask & ((place >= 0) & (place < tokens))[:, None]
    # Queries beyond the last token see the end, lest their softmax is of nothing.
    mask[-1, size - rest :] |= (place[-1] >= 0) & (place[-1] < tokens)
    if shared is not None:
        every = [x[:, None].expand(-1, blocks, -1, -1, -1).flatten(0, 1) for x in shared]
        k, v = torch.cat([k, every[0]], dim=2), torch.cat([v, every[1]], dim=2)
        mask = F.pad(mask, (0, shared[0].shape[2]), value=True)
    mask = mask[None, :, None].expand(rows, -1, -1, -1, -1).flatten(0, 1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    out = out.unflatten(0, (rows, blocks)).transpose(1, 2).flatten(2, 3)
    return out[:, :, :tokens]


def _folded(x: Tensor) -> Tensor:
    """(B, H, blocks, L, d) -> (B blocks, H, L, d)."""
    return x.transpose(1, 2).flatten(0, 1)
