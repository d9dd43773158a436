"""Multi-scale residual vector quantisation with one codebook: features to tokens and back.

Full-size features f (B, C, H, W), sizes (h_1, w_1) ... (h_K, w_K) = (H, W), from coarse to fine:

    rest_1 = f,  f^_0 = 0
    i_k = argmin_v |area(rest_k, h_k x w_k) - e_v|^2        tokens (B, h_k w_k)
    h_k = phi_k(bicubic(e[i_k], H x W))
    f^_k = f^_k-1 + h_k,   rest_k+1 = rest_k - h_k
    phi(h) = h / 2 + conv3x3(h) / 2

K scales share n of the phis: scale k, from 0, uses the one whose tick is nearest to k / (K - 1),
ticks being n numbers from 1/2n to 1 - 1/2n (from 1/12 to 11/12 for n = 4) in equal steps. The
decoder sees f^_K, the transformer area(f^_k, next size). All in float32, the search most of all:
in bfloat16 codes that lie close are taken for each other.

Source: Tian et al. 2024 (VAR, arXiv 2404.02905), algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.models.next_scale.blocks import full_precision
from impasto.models.next_scale.maps import Size, Sizes, area, bicubic, from_tokens, to_tokens

__all__ = ["Phi", "Quantiser", "phi_index"]


def phi_index(scale: int, scales: int, phis: int) -> int:
    """Which of the phis a scale uses, all from 0."""
    edge = 1 / 12 if phis == 4 else 1 / (2 * phis)
    place = scale / (scales - 1) if scales > 1 else 0.0
    # Scales half-way between two ticks go where numpy's rounding puts them, as in the published
    # model: 2 of 10 up, 7 of 10 up.
    return int(np.argmin(np.abs(np.linspace(edge, 1 - edge, phis) - place)))


class Phi(nn.Conv2d):
    """h / 2 + conv(h) / 2 of (B, C, H, W), float32."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        return 0.5 * h + 0.5 * F.conv2d(h, self.weight.float(), bias, padding=1)


class Phis(nn.Module):
    def __init__(self, channels: int, phis: int) -> None:
        super().__init__()
        self.qresi_ls = nn.ModuleList(Phi(channels) for _ in range(phis))


class Quantiser(nn.Module):
    """The codebook (V, C) and the phis. sizes: of all K scales, the last that of the features."""

    def __init__(self, vocabulary: int, channels: int, phis: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, channels)
        self.quant_resi = Phis(channels, phis)

    def nearest(self, z: Tensor) -> Tensor:
        """The nearest code of every place of z (B, C, h, w): (B, h w), int64."""
        with full_precision(z.device):
            e, z = self.embedding.weight.float(), to_tokens(z.float())
            return (e.square().sum(1) - 2 * z @ e.t()).argmin(-1)

    def summand(self, ids: Tensor, scale: int, sizes: Sequence[Size]) -> Tensor:
        """h_k (B, C, H, W), float32, of one scale's tokens (B, h_k w_k).

        Raises ValueError for another number of tokens than the scale has.
        """
        h, w = sizes[scale]
        if ids.shape[1] != h * w:
            raise ValueError(f"scale {scale} has {h * w} tokens, given {ids.shape[1]}")
        phi = self.quant_resi.qresi_ls[self._phi(scale, sizes)]
        with full_precision(ids.device):
            codes = from_tokens(F.embedding(ids, self.embedding.weight.float()), (h, w))
            # Channels last: CUDA's interpolation in the other layout runs over the places alone.
            codes = codes.contiguous(memory_format=torch.channels_last)
            return phi(bicubic(codes, sizes[-1]))

    def _phi(self, scale: int, sizes: Sequence[Size]) -> int:
        return phi_index(scale, len(sizes), len(self.quant_resi.qresi_ls))

    @torch.no_grad()
    def residual_tokens(self, f: Tensor, sizes: Sizes) -> tuple[list[Tensor], list[Tensor]]:
        """(tokens, rests): per scale its tokens (B, h_k w_k), and what was quantised, at the
        scale's own size (B, C, h_k, w_k).

        f: (B, C, H, W). Raises ValueError when the last size is not that of f.
        """
        full: Size = (f.shape[-2], f.shape[-1])
        if not sizes or tuple(sizes[-1]) != full:
            raise ValueError(f"the last size must be the features' own, {full}, given {sizes}")
        rest, found, rests = f.float(), [], []
        for k, size in enumerate(sizes):
            rests.append(area(rest, size))
            found.append(self.nearest(rests[-1]))
            rest = rest - self.summand(found[-1], k, sizes)
        return found, rests
