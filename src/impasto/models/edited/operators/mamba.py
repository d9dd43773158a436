"""Mamba-2 (Dao & Gu 2024, arXiv 2405.21060), one direction, one group.

    z, x, B, C, dt = W_in u              E D, E D, S, S and H columns; x has H heads of P features
    x, B, C = silu(conv(x, B, C))        causal, depthwise
    dt = softplus(dt + dt_bias);   A = -exp(A_log)
    h_n = exp(A dt_n) h_{n-1} + dt_n B_n x_n^T;   y_n = C_n h_n + D x_n        a head
    out = W_out RMSNorm(y * silu(z))

`scan` does it in chunks of Q tokens: with c the running sum of A dt within a chunk,

    y_i = sum_{j <= i} (C_i B_j) exp(c_i - c_j) dt_j x_j + exp(c_i) C_i h(before the chunk)

so all is products of matrices, and only the chunks' states follow one another.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.models.edited.operators.base import OPERATORS, CausalConv, fused_kernel
from impasto.models.next_scale.blocks import full_precision

__all__ = ["Mamba2", "scan"]

CHUNK, FUSED_CHUNK = 64, 256


def _decay(a: Tensor) -> Tensor:
    """(..., L) -> (..., L, L): exp(a_{j+1} + … + a_i) where j <= i, else 0."""
    # Summed up column by column: a difference of two long sums would lose what is between them.
    pairs = torch.ones(a.shape[-1], a.shape[-1], dtype=torch.bool, device=a.device)
    between = torch.where(pairs.tril(-1), a[..., :, None], 0.0).cumsum(-2)
    return between.masked_fill(~pairs.tril(), -torch.inf).exp()


def scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """The recurrence without D x: (b, N, H, P), float32.

    x: (b, N, H, P). dt: (b, N, H), positive. A: (H,), negative. B, C: (b, N, S). chunk: Q.
    """
    tokens = x.shape[1]
    # Tokens of dt = 0 change no state.
    rest = -tokens % chunk
    x, dt, B, C = (F.pad(t.float(), (0, 0) * (t.ndim - 2) + (0, rest)).unflatten(1, (-1, chunk))
                   for t in (x, dt, B, C))  # fmt: skip
    x = x * dt[..., None]
    a = (dt * A).permute(0, 3, 1, 2)
    total = a.cumsum(-1)
    within = torch.einsum("bcin,bcjn,bhcij,bcjhp->bcihp", C, B, _decay(a), x)
    ends = (total[..., -1:] - total).exp()
    states = torch.einsum("bhcj,bcjhp,bcjn->bchpn", ends, x, B)
    # State before chunk c: those of the chunks before, each decayed by the chunks in between.
    between = _decay(F.pad(total[..., -1], (1, 0)))[..., :-1, 1:]
    before = torch.einsum("bhcd,bdhpn->bchpn", between, states)
    across = torch.einsum("bcin,bchpn,bhci->bcihp", C, before, total.exp())
    return (within + across).flatten(1, 2)[:, :tokens]


class Mamba2(nn.Module):
    """state: S. expand: E. head: P. eps of the norm 1e-5. Names of its tensors are the published
    ones; the columns of `in_proj` are z, x, B, C, dt."""

    def __init__(
        self, width: int, *, state: int = 64, taps: int = 4, expand: int = 2, head: int = 16
    ) -> None:
        super().__init__()
        inside = expand * width
        if inside % head:
            raise ValueError(f"heads of {head} features do not share {inside} equally")
        self.inside, self.state, self.head, heads = inside, state, head, inside // head
        self.in_proj = nn.Linear(width, 2 * inside + 2 * state + heads, bias=False)
        self.conv1d = CausalConv(inside + 2 * state, taps)
        dt = torch.empty(heads).uniform_(math.log(1e-3), math.log(0.1)).exp().clamp(min=1e-4)
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = nn.RMSNorm(inside, eps=1e-5)
        self.out_proj = nn.Linear(inside, width, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        sizes = (self.inside, self.inside + 2 * self.state, len(self.D))
        z, xBC, dt = self.in_proj(u).split(sizes, dim=-1)
        xBC = F.silu(self.conv1d(xBC.transpose(1, 2))).transpose(1, 2)
        x, B, C = xBC.split((self.inside, self.state, self.state), dim=-1)
        y = self._scanned(x.unflatten(-1, (-1, self.head)), dt, B, C)
        return self.out_proj(self.norm(y.flatten(2).to(z.dtype) * F.silu(z)))

    def _scanned(self, x: Tensor, dt: Tensor, B: Tensor, C: Tensor) -> Tensor:
        A = -self.A_log.float().exp()
        fused = fused_kernel("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined", x)
        if fused is not None:
            return fused(x, dt, A, B[:, :, None], C[:, :, None], FUSED_CHUNK, D=self.D.float(),
                         dt_bias=self.dt_bias.float(), dt_softplus=True)  # fmt: skip
        with full_precision(x.device):  # decays of many tokens are too near 1 for bfloat16
            dt = F.softplus(dt.float() + self.dt_bias.float())
            return scan(x, dt, A, B, C) + self.D.float()[:, None] * x.float()


@OPERATORS.register("mamba-2")
def mamba_2(
    *, width: int, heads: int, tokens: int | None, state: int = 64, taps: int = 4,
    expand: int = 2, head: int = 16,
) -> Mamba2:  # fmt: skip
    """Mamba-2: a gated state-space recurrence along the raster, from the first token on."""
    return Mamba2(width, state=state, taps=taps, expand=expand, head=head)
