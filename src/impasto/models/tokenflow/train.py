"""TokenFlow's losses, as plain functions.

Tokenizer, of pictures x with the frozen teacher's features t and a list of scales, from which one
but the first is left out in a tenth of the steps:

    L_vq, L_commit   means over the scales (`models.codebooks`)
    L_sem = mean over places of 1 - cos(meaning(f), t)

to which the trainer adds the picture's: reconstruction, perceptual, adversarial. Codes learn by
their gradient alone. Source: Qu et al. 2024 (arXiv 2412.03069), section 3.2; the cosine is the
released code's (the paper says a squared distance).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.models.next_scale.maps import Sizes, area
from impasto.models.tokenflow.tokenizer import TokenFlowTokenizer

__all__ = ["DROP_SCALE", "Quantised", "drop_scale", "quantised", "semantic_loss"]

DROP_SCALE = 0.1


class Quantised(NamedTuple):
    """f: (B, C, S, S) with the features' gradient. vq, commit: means over the scales. ids: (B, h_k
    w_k) of each."""

    f: Tensor
    vq: Tensor
    commit: Tensor
    ids: list[Tensor]


def drop_scale(
    scales: Sizes, probability: float = DROP_SCALE, plan: torch.Generator | None = None
) -> Sizes:
    """The scales, with the probability without one of them that is not the first; the last may
    go too. plan: on the CPU."""
    if len(scales) < 3 or float(torch.rand((), generator=plan)) >= probability:
        return scales
    gone = int(torch.randint(1, len(scales), (), generator=plan))
    return scales[:gone] + scales[gone + 1 :]


def quantised(vae: TokenFlowTokenizer, h: Tensor, scales: Sizes) -> Quantised:
    """Features (B, C, S, S) through the residual loop, in training."""
    rest, parts = h.float(), []
    f, table = torch.zeros_like(rest), vae.quantize.table()
    for size in scales:
        own = vae.quantize.learnt(area(rest, size), table=table)
        u = vae.enlarged(own.z_q)
        f, rest = f + u, rest - u.detach()
        parts.append(own)
    vq, commit = (torch.stack([getattr(own, name) for own in parts]).mean()
                  for name in ("vq", "commit"))  # fmt: skip
    return Quantised(f, vq, commit, [own.ids for own in parts])


def semantic_loss(meaning: Tensor, target: Tensor) -> Tensor:
    """L_sem, scalar, of (B, N, T) features."""
    return (1 - F.cosine_similarity(meaning.float(), target.float(), dim=-1)).mean()
