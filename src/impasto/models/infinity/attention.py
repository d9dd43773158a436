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

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.models.infinity.schedules import Size

__all__ = ["KeysValues", "SelfAttention", "TextAttention", "TextPool", "positions",
           "rotary_angles", "rotate"]  # fmt: skip

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each (B, heads, L, d_head)."""

MOST = math.log(100)


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


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Pairs of x (B, heads, L, d_head) turned by angles (L, d_head / 2)."""
    cos, sin = angles.cos(), angles.sin()
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, C) -> (B, heads, L, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Cosine attention with rotary positions."""

    zero_k_bias: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4)))
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, angles: Tensor, mask: Tensor | None, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        """x: (B, L, C); angles: (L, d_head / 2); mask: bool (L, L), True may see; past: keys and
        values of earlier tokens, which all may see. Returns the result and all keys and values."""
        bias = torch.cat([self.q_bias, self.zero_k_bias, self.v_bias])
        q, k, v = (split_heads(part, self.heads)
                   for part in F.linear(x, self.mat_qkv.weight, bias).chunk(3, -1))  # fmt: skip
        scale = self.scale_mul_1H11.float().clamp(max=MOST).exp()
        q = rotate(F.normalize(q.float(), dim=-1) * scale, angles).to(v.dtype)
        k = rotate(F.normalize(k.float(), dim=-1), angles).to(v.dtype)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        return self.proj(join_heads(out)), (k, v)


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

    def forward(self, x: Tensor, keys: KeysValues, seen: Tensor | None) -> Tensor:
        """x: (B, L, C); keys: of the text; seen: bool (B, 1, 1, L_text), None where all is."""
        q = split_heads(self.mat_q(x), self.heads)
        k, v = (part.to(q.dtype) for part in keys)
        return self.proj(join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=seen)))


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
