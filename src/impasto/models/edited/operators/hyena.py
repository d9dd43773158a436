"""Gated short convolutions: Hyena-SE, -X, -Y (StripedHyena 2's operators, order 2, one head).

    u = W_in x (+ b)             D -> 3D
    u = featuriser(u)            causal, K taps, depthwise over 3D; SE and X
    q, k, v = split(u)
    v = inner(k * v)             causal, K taps, depthwise over D, the identity at first; SE and Y
    y = W_out (q * v) (+ b)      D -> D

At first Hyena-SE is Hyena-X, and Hyena-Y is W_out(q * k * v). Output n sees tokens n - K + 1 … n,
of Hyena-SE n - 2(K - 1) … n.
"""

from __future__ import annotations

from torch import Tensor, nn

from impasto.models.edited.operators.base import OPERATORS, CausalConv, identity_filter_

__all__ = ["ChannelHyena", "Hyena"]


class Hyena(nn.Module):
    """One of the three, by its filters. short, inner: whether it has them; taps: K of each.
    Names of its tensors are the published ones."""

    def __init__(self, width: int, *, short: bool, inner: bool, taps: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.short_filter = CausalConv(3 * width, taps) if short else None
        self.inner_filter = CausalConv(width, taps) if inner else None
        if self.inner_filter is not None:
            identity_filter_(self.inner_filter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        u = self.in_proj(x).transpose(1, 2)
        if self.short_filter is not None:
            u = self.short_filter(u)
        q, k, v = u.chunk(3, dim=1)
        v = k * v
        if self.inner_filter is not None:
            v = self.inner_filter(v)
        return self.out_proj((q * v).transpose(1, 2))


class ChannelHyena(nn.Module):
    """MLP-Hyena-X: gates along features, with a filter of its own for each of N positions.

        u = W_in x                D -> 3rD
        u[n] = filter_n(u[n])     causal along the 3rD features, across the borders of q, k, v
        q, k, v = split(u);   y = W_out (q * k * v)     rD -> D
    """

    def __init__(self, width: int, tokens: int, ratio: int, taps: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.in_proj = nn.Linear(width, 3 * ratio * width)
        self.out_proj = nn.Linear(ratio * width, width)
        self.short_filter = CausalConv(tokens, taps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D). Raises ValueError for another N than it was made for."""
        if x.shape[1] != self.tokens:
            raise ValueError(f"mlp-hyena-x has filters for {self.tokens} tokens, given "
                             f"{x.shape[1]}: draw at the size that it was made for")  # fmt: skip
        q, k, v = self.short_filter(self.in_proj(x)).chunk(3, dim=-1)
        return self.out_proj(q * (k * v))


@OPERATORS.register("hyena-se")
def hyena_se(*, width: int, heads: int, tokens: int | None, taps: int = 4) -> Hyena:
    """Hyena-SE: gates between two causal short filters."""
    return Hyena(width, short=True, inner=True, taps=taps)


@OPERATORS.register("hyena-x")
def hyena_x(*, width: int, heads: int, tokens: int | None, taps: int = 4) -> Hyena:
    """Hyena-X: a causal short filter, then gates."""
    return Hyena(width, short=True, inner=False, taps=taps)


@OPERATORS.register("hyena-y")
def hyena_y(*, width: int, heads: int, tokens: int | None, taps: int = 4) -> Hyena:
    """Hyena-Y: gates around a causal short filter."""
    return Hyena(width, short=False, inner=True, taps=taps)


@OPERATORS.register("mlp-hyena-x")
def mlp_hyena_x(
    *, width: int, heads: int, tokens: int | None, ratio: int = 2, taps: int = 4
) -> ChannelHyena:
    """MLP-Hyena-X: a channel mixer of gates over filtered features, for one number of tokens."""
    if tokens is None:
        raise ValueError("mlp-hyena-x has a filter per position and so needs the number of tokens")
    if ratio < 1:
        raise ValueError(f"mlp-hyena-x's ratio is a whole number of at least 1, given {ratio}")
    return ChannelHyena(width, tokens, ratio, taps)
