"""Attention of the "infinity" family, and its rotary positions in two dimensions.

    q, k <- q / |q|, k / |k|;   q <- q exp(min(s, ln 100)), s learned a head;   softmax scale 1
    then rotation of the pairs (q_2j, q_2j+1), and of k's, by the angles of the token's place

    angles of (y, x), with half = d_head / 2 and theta_i = 10000^(-2 i / half), i < half / 2:
        [y theta ; x theta]                                  half numbers
    place of cell (i, j) of a scale (h, w) on the grid (H, W):
        y = round(i H / h), x = round(j W / w)               halves to even

Rotated keys and values are what a cache holds. Keys have a bias that is fixed to zero (it is in
the published files). Source: Infinity (arXiv 2412.04431), section 3.3, and its code's conventions.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from impasto.models.infinity.schedules import Size, Sizes

__all__ = ["KeysValues", "SelfAttention", "TextAttention", "TextPool", "positions",
           "rotary_angles", "rotary_tables", "rotate"]  # fmt: skip

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each (B, heads, L, d_head)."""

MOST = math.log(100)
MANY = 1024
"""Queries from which on the kernel is chosen; every shape costs a plan at its first use."""


def positions(cells: int, extent: int) -> Tensor:
    """Places of `cells` cells along an axis of `extent`, (cells,), int64."""
    return torch.tensor([round(i * extent / cells) for i in range(cells)])


def rotary_angles(sizes: Sequence[Size], grid: Size, head_width: int) -> Tensor:
    """Angles (L, d_head / 2), float32, of all tokens of the scales `sizes`, one after another."""
    half = head_width // 2
    theta = 10000.0 ** (-2 * torch.arange(half // 2, dtype=torch.float32) / half)
    rows = []
    for h, w in sizes:
        y, x = torch.meshgrid(positions(h, grid[0]), positions(w, grid[1]), indexing="ij")
        rows.append(torch.cat([axis.reshape(-1, 1) * theta for axis in (y, x)], dim=1))
    return torch.cat(rows)


@functools.lru_cache(maxsize=64)
def rotary_tables(
    sizes: Sizes, grid: Size, head_width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines (L, 1, d_head / 2) of `rotary_angles`, made once a device."""
    with torch.inference_mode(False):  # training may meet what drawing made
        angles = rotary_angles(sizes, grid, head_width)[:, None]
        return angles.cos().to(device), angles.sin().to(device)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of x (B, L, heads, d_head) turned by the angles of `rotary_tables`."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, C) -> (B, heads, L, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Cosine attention with rotary positions: `split`, then the call, then `proj`.

    backends: kernels for many tokens at once, the first that can; None leaves it to torch.
    """

    zero_k_bias: Tensor
    backends: Sequence[SDPBackend] | None = None

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4)))
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def split(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, rotated, and values of x (B, L, C): each (B, heads, L, d_head)."""
        bias = torch.cat([self.q_bias, self.zero_k_bias, self.v_bias])
        q, k, v = (part.unflatten(-1, (self.heads, -1))
                   for part in F.linear(x, self.mat_qkv.weight, bias).chunk(3, -1))  # fmt: skip
        scale = self.scale_mul_1H11.float().clamp(max=MOST).exp().view(self.heads, 1)
        q = rotate(F.normalize(q.float(), dim=-1) * scale, cos, sin).to(v.dtype)
        k = rotate(F.normalize(k.float(), dim=-1), cos, sin).to(v.dtype)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None,
        past: KeysValues | None = None, into: KeysValues | None = None,
    ) -> Tensor:  # fmt: skip
        """Tokens of `split` looked at by each other: (B, L, C) before `proj`.

        mask: bool (L, L), True may see. past: keys and values of earlier tokens, which all may
        see. into: those and, behind them, places that k and v are written to; stands for `past`.
        """
        if into is not None:
            new = k.shape[2]
            into[0][:, :, -new:], into[1][:, :, -new:] = k, v
            k, v = into
        elif past is not None:
            k, v = (torch.cat([a.transpose(1, 2), b.transpose(1, 2)], dim=1).transpose(1, 2)
                    for a, b in ((past[0], k), (past[1], v)))  # fmt: skip
        with self._kernels(q.shape[2]):
            return join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0))

    def _kernels(self, tokens: int) -> contextlib.AbstractContextManager[Any]:
        if self.backends is None or tokens < MANY:
            return contextlib.nullcontext()
        return sdpa_kernel(list(self.backends), set_priority=True)


class _TextKeys(nn.Module):
    """Keys and values of a text: one matrix, a learned bias of the values."""

    zero_k_bias: Tensor

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.mat_kv = nn.Linear(text_width, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def keys(self, text: Tensor) -> KeysValues:
        """Of states (B, L, text_width)."""
        bias = torch.cat([self.zero_k_bias, self.v_bias])
        k, v = F.linear(text, self.mat_kv.weight, bias).chunk(2, -1)
        return split_heads(k, self.heads), split_heads(v, self.heads)


class TextAttention(_TextKeys):
    """Attention from tokens to the text: plain, without rotation, scale 1 / sqrt(d_head)."""

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__(width, heads, text_width)
        self.mat_q = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """Queries (B, heads, L, d_head) of x (B, L, C)."""
        return split_heads(self.mat_q(x), self.heads)

    def forward(self, q: Tensor, keys: KeysValues, seen: Tensor | None) -> Tensor:
        """(B, L, C) before `proj`. keys: of the text; seen: bool (B, 1, 1, L_text), None where
        all is."""
        k, v = (part.to(q.dtype) for part in keys)
        return join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=seen))


class TextPool(_TextKeys):
    """One vector of a text: a learned query a head looks at all states."""

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__(width, heads, text_width)
        self.mat_q = nn.Parameter(torch.empty(1, heads, width // heads))

    def forward(self, text: Tensor, seen: Tensor | None) -> Tensor:
        """text: (B, L, text_width); seen: bool (B, 1, 1, L). (B, width)."""
        k, v = self.keys(text)
        q = self.mat_q[:, :, None].to(k.dtype).expand(len(text), -1, -1, -1)
        return self.proj(join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=seen))[:, 0])
