"""Parts of next-scale transformers: attention over a cache, modulated norms, feed-forward.

Cosine attention:

    q, k <- q / |q|, k / |k|;   q <- q exp(min(s, ln 100)), s learned a head;   softmax scale 1

Keys have a bias that is fixed to zero (it is in the published files). Residual stream, modulation
and head are float32 whatever the weights.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["EPS", "CachedAttention", "CosineAttention", "FeedForward", "HeadNorm", "KeysValues",
           "StretchedBlock", "drop_paths", "full_precision", "join_heads", "normalised",
           "split_heads"]  # fmt: skip

EPS = 1e-6
MOST = math.log(100)
MANY = 1024
"""Queries from which on the kernel is chosen; every shape costs a plan at its first use."""

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each (B, heads, L, d_head)."""


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


class CachedAttention(nn.Module):
    """Attention of tokens to themselves and to earlier ones, of queries, keys and values that a
    family makes.

    scale: of the products before softmax; None for d_head^-1/2. backends: kernels for many tokens
    at once, the first that can; None leaves it to torch.
    """

    scale: float | None = None
    backends: Sequence[SDPBackend] | None = None

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None,
        past: KeysValues | None = None, into: KeysValues | None = None,
    ) -> Tensor:  # fmt: skip
        """What tokens hear of each other: (B, L, C). q, k, v: (B, heads, L, d_head).

        mask: bool, True may see; (L, L), or broadcastable to (B, heads, L, all keys). past: keys
        and values of earlier tokens, which all may see. into: those and, behind them, places that
        k and v are written to; stands for `past`.
        """
        if into is not None:
            new = k.shape[2]
            into[0][:, :, -new:], into[1][:, :, -new:] = k, v
            k, v = into
        elif past is not None:
            k, v = (torch.cat([a.transpose(1, 2), b.transpose(1, 2)], dim=1).transpose(1, 2)
                    for a, b in ((past[0], k), (past[1], v)))  # fmt: skip
        with self._kernels(q.shape[2]):
            return join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask,
                                                             scale=self.scale))  # fmt: skip

    def _kernels(self, tokens: int) -> contextlib.AbstractContextManager[Any]:
        if self.backends is None or tokens < MANY:
            return contextlib.nullcontext()
        return sdpa_kernel(list(self.backends), set_priority=True)


class CosineAttention(CachedAttention):
    """Self-attention of tokens to those of their scale and of earlier ones: `split`, then the
    call, then `proj`."""

    zero_k_bias: Tensor
    scale = 1.0

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4)))
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def placed(self, x: Tensor, *places: Tensor) -> Tensor:
        """Normalised queries or keys (B, L, heads, d_head) as their places have them: as they are,
        where places are not the attention's matter."""
        return x

    def split(self, x: Tensor, *places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, `placed`, and values of x (B, L, C): each (B, heads, L, d_head)."""
        bias = torch.cat([self.q_bias, self.zero_k_bias, self.v_bias])
        q, k, v = (part.unflatten(-1, (self.heads, -1))
                   for part in F.linear(x, self.mat_qkv.weight, bias).chunk(3, -1))  # fmt: skip
        scale = self.scale_mul_1H11.float().clamp(max=MOST).exp().view(self.heads, 1)
        q = self.placed(F.normalize(q.float(), dim=-1) * scale, *places).to(v.dtype)
        k = self.placed(F.normalize(k.float(), dim=-1), *places).to(v.dtype)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


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


class StretchedBlock(nn.Module):
    """A block whose arithmetic is in methods, its `stretches`, around what is not compiled: the
    attentions, which read and write a cache.

    drop_path: share of rows whose branches are left out in training, the rest scaled up.
    """

    stretches: ClassVar[tuple[str, ...]]
    ffn: FeedForward

    def __init__(self, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path

    @property
    def dtype(self) -> torch.dtype:
        return self.ffn.fc1.weight.dtype

    def kept(self, branch: Tensor) -> Tensor:
        """A branch (B, L, C), float32, in training without the rows that are left out."""
        branch = branch.float()
        if not self.training or not self.drop_path:
            return branch
        keep = 1 - self.drop_path
        return branch * branch.new_empty(len(branch), 1, 1).bernoulli_(keep) / keep

    def compile(self, **options: Any) -> None:  # type: ignore[override]
        """Compile the stretches, in place. Blocks of one size share what is compiled."""
        for name in self.stretches:
            plain = getattr(type(self), name).__get__(self)
            setattr(self, name, torch.compile(plain, **options))
