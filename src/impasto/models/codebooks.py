"""A codebook on spheres: codes and features of unit length, in one part or in several that share
one index.

    s^_p = s_p / |s_p|                                  every part p of a feature, and of a code
    d_i  = sum_p w_p |s^_p - e^_p,i|^2
    i*   = argmin_i d_i = argmax_i c . E_i,             c = (sqrt(w_p) s^_p)_p, E likewise

All lengths are 1, so the nearest code is that of the largest product: one matrix product, a piece
at a time. In float32: in bfloat16 codes that lie close are taken for each other. Learning:

    L_vq = mean |z_q - sg(z^)|^2        L_commit = beta mean |sg(z_q) - z^|^2
    out  = z^ + sg(z_q - z^)

One part: ViT-VQGAN (Yu et al. 2021, arXiv 2110.04627), LlamaGen (Sun et al. 2024, arXiv
2406.06525). Two parts, one index: TokenFlow (Qu et al. 2024, arXiv 2412.03069), section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.models.next_scale.blocks import full_precision
from impasto.models.next_scale.maps import to_tokens

__all__ = ["BETA", "Codebook", "Learnt"]

BETA = 0.25
AT_ONCE = 2**25
"""Products held at once: an eighth of a gigabyte."""


class Learnt(NamedTuple):
    """z_q: (B, C, h, w) codes with the features' gradient. vq, commit: L_vq, L_commit. ids:
    (B, h w)."""

    z_q: Tensor
    vq: Tensor
    commit: Tensor
    ids: Tensor


class Codebook(nn.Module):
    """K codes. parts: name of an embedding -> its width, in order. weights: w_p, 1 by default; a
    part of weight 0 has no say in the search."""

    def __init__(
        self, vocabulary: int, parts: Mapping[str, int], weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.names, self.widths = tuple(parts), tuple(parts.values())
        self.weights = tuple(weights or [1.0] * len(parts))
        if len(self.weights) != len(parts) or min(self.weights) < 0 or max(self.weights) == 0:
            raise ValueError(f"weights must be {len(parts)} numbers >= 0, one of them above, "
                             f"given {self.weights!r}")  # fmt: skip
        self.vocabulary, self.channels = vocabulary, sum(self.widths)
        for name, width in parts.items():
            embedding = nn.Embedding(vocabulary, width)
            nn.init.uniform_(embedding.weight, -1 / vocabulary, 1 / vocabulary)
            with torch.no_grad():
                embedding.weight.copy_(F.normalize(embedding.weight, dim=-1))
            setattr(self, name, embedding)

    def unit(self, z: Tensor) -> Tensor:
        """(..., C) float32 with every part of length 1."""
        return torch.cat([F.normalize(part, dim=-1) for part in z.float().split(self.widths, -1)],
                         dim=-1)  # fmt: skip

    def _weighted(self, z: Tensor) -> Tensor:
        return torch.cat([part * weight**0.5 for part, weight
                          in zip(z.split(self.widths, -1), self.weights, strict=True)], -1
                         )  # fmt: skip

    @property
    def embeddings(self) -> list[nn.Embedding]:
        """One a part."""
        return [getattr(self, name) for name in self.names]

    def table(self) -> Tensor:
        """(K, C) float32: all codes."""
        return self.unit(torch.cat([part.weight for part in self.embeddings], dim=-1))

    def codes(self, ids: Tensor) -> Tensor:
        """(..., C) float32, of ids (...)."""
        return self.unit(torch.cat([part(ids) for part in self.embeddings], dim=-1))

    @torch.no_grad()
    def nearest(self, z: Tensor, table: Tensor | None = None) -> Tensor:
        """Ids (B, h w), int64, of features (B, C, h, w). table: of `table`, where it is known."""
        with full_precision(z.device):
            E = self._weighted(self.table() if table is None else table).t()
            c = self._weighted(self.unit(to_tokens(z)))
            rows = c.flatten(0, 1).split(max(1, AT_ONCE // self.vocabulary))
            return torch.cat([(part @ E).argmax(-1) for part in rows]).view(c.shape[:2])

    def learnt(self, z: Tensor, beta: float = BETA, table: Tensor | None = None) -> Learnt:
        """Features (B, C, h, w) as codes, with what codes and features learn from.

        table: of `table`, with its gradient, where several maps are quantised in one step.
        """
        with full_precision(z.device):
            table = self.table() if table is None else table
            ids = self.nearest(z, table)
            unit = self.unit(z.movedim(1, -1)).movedim(-1, 1)
            z_q = F.embedding(ids.view(len(z), *z.shape[2:]), table).movedim(-1, 1)
            vq = F.mse_loss(z_q, unit.detach())
            commit = beta * F.mse_loss(unit, z_q.detach())
            return Learnt(unit + (z_q - unit).detach(), vq, commit, ids)
