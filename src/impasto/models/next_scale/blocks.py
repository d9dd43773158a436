"""Parts of next-scale transformers: cosine attention, modulated norms, feed-forward.

    q, k <- q / |q|, k / |k|;   q <- q exp(min(s, ln 100)), s learned a head;   softmax scale 1

Keys have a bias that is fixed to zero (it is in the published files). Residual stream, modulation
and head are float32 whatever the weights.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["EPS", "Cache", "CosineAttention", "FeedForward", "HeadNorm", "KeysValues",
           "drop_paths", "full_precision", "join_heads", "kept", "normalised",
           "split_heads"]  # fmt: skip

EPS = 1e-6
MOST = math.log(100)

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each (B, heads, L, d_head)."""
Cache = tuple[KeysValues, ...]
"""Keys and values of every block, of the scales so far."""


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, C) -> (B, heads, L, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """No autocast in the block; the meta device knows none."""
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def normalised(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift, float32."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift


def drop_paths(most: float, depth: int) -> list[float]:
    """Shares of branches left out in training: linear in depth, 0 at first, `most` at last."""
    return [most * i / max(depth - 1, 1) for i in range(depth)]


def kept(branch: Tensor, drop: float) -> Tensor:
    """A branch (B, L, C), float32, left out of a share of rows, the rest scaled up."""
    branch = branch.float()
    if not drop:
        return branch
    return branch * branch.new_empty(len(branch), 1, 1).bernoulli_(1 - drop) / (1 - drop)


class CosineAttention(nn.Module):
    """Self-attention of tokens to those of their scale and of earlier ones."""

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
        self, x: Tensor, *, mask: Tensor | None = None, past: KeysValues | None = None,
        turn: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, KeysValues]:  # fmt: skip
        """x: (B, L, C); mask: bool (L, L), True may see; past: keys and values of earlier tokens,
        which all may see; turn: of normalised q and k (B, heads, L, d_head), for positions.
        Returns the result and all keys and values."""
        bias = torch.cat([self.q_bias, self.zero_k_bias, self.v_bias])
        q, k, v = (split_heads(part, self.heads)
                   for part in F.linear(x, self.mat_qkv.weight, bias).chunk(3, -1))  # fmt: skip
        scale = self.scale_mul_1H11.float().clamp(max=MOST).exp()
        q, k = F.normalize(q.float(), dim=-1) * scale, F.normalize(k.float(), dim=-1)
        if turn is not None:
            q, k = turn(q), turn(k)
        q, k = q.to(v.dtype), k.to(v.dtype)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        return self.proj(join_heads(out)), (k, v)


class FeedForward(nn.Module):
    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inside), nn.Linear(inside, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class HeadNorm(nn.Module):
    """The layer that makes (scale, shift) of the head's norm from a condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
