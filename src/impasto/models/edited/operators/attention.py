"""Softmax attention, whole or within a window of the raster.

Tensors are named as in diffusers' `Attention`, so a host's weights fit as they are.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from impasto.models.edited.operators.base import OPERATORS
from impasto.models.edited.operators.windows import window_attention

__all__ = ["SelfAttention"]


class SelfAttention(nn.Module):
    """window: w, of tokens that see |i - j| <= w; None for all. bias: of q, k and v. qk_norm:
    RMS norm of each head's queries and keys, learned."""

    def __init__(
        self, width: int, heads: int, *, window: int | None = None, bias: bool = True,
        qk_norm: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not share {width} features equally")
        if window is not None and window < 0:
            raise ValueError(f"a window reaches 0 tokens or more to each side, given {window}")
        self.heads, self.window = heads, window
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=bias) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(width, width))
        self.norm_q, self.norm_k = (nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else None
                                    for _ in range(2))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for to in (self.to_q, self.to_k, self.to_v))  # fmt: skip
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        if self.window is None:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = window_attention(q, k, v, self.window)
        return self.to_out(out.transpose(1, 2).flatten(2))


@OPERATORS.register("attention")
def attention(
    *, width: int, heads: int, tokens: int | None, bias: bool = True, qk_norm: bool = False
) -> SelfAttention:
    """Softmax self-attention: the control, a host's own kind of operator with fresh weights."""
    return SelfAttention(width, heads, bias=bias, qk_norm=qk_norm)


@OPERATORS.register("sliding-window")
def sliding_window(
    *, width: int, heads: int, tokens: int | None, window: int = 4, bias: bool = True,
    qk_norm: bool = False,
) -> SelfAttention:  # fmt: skip
    """Softmax attention of a token to those up to `window` places before and after it."""
    return SelfAttention(width, heads, window=window, bias=bias, qk_norm=qk_norm)
