"""Drawing VAR scale by scale: the equations, and the state of a batch of drawings.

    w_k    = 1 + (g - 1) k / (K - 1)                        g >= 1: 1 at the first scale, k = 0,
                                                            g at the last; a g < 1 is w at all
    l      = w_k l_with + (1 - w_k) l_without
    p      = softmax of the top_k largest l; then of those the least likely are left out whose
             probabilities together are at most 1 - top_p
    token  = the first whose cumulative p exceeds u sum p,  u uniform from row's seed and scale

The published code's `cfg` is g - 1. Source: Tian et al. 2024 (VAR, arXiv 2404.02905), and its
code's conventions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from impasto.models.next_scale.state import ScaleState, per_scale, scale_seed
from impasto.models.storage import checked_fields
from impasto.models.var.model import Condition
from impasto.sample.seeds import row_uniforms

__all__ = ["ClassState", "Defaults", "draw_tokens", "drawn_by", "ramp", "truncated"]


@dataclass(frozen=True, kw_only=True)
class ClassState(ScaleState):
    """classes: conditions of P classes and, last, of the null class."""

    classes: Condition


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a model folder says about drawing with it.

    classes: their names, in order; empty where only indices are known. guidance: g of the ramp,
    or a list of one weight a scale. top_k: 0 for all. top_p: 0 or 1 for all.
    """

    classes: tuple[str, ...] = ()
    guidance: float | tuple[float, ...] = 2.5
    top_k: int = 900
    top_p: float = 0.96

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Defaults:
        """The inverse of `to_dict`. Raises ValueError naming unknown or missing keys."""
        return cls(**checked_fields(cls, values, "a var model"))

    def check(self, classes: int, scales: int) -> None:
        """Raises ValueError for a value out of range, for a model of so many classes and
        scales."""
        if self.classes and len(self.classes) != classes:
            raise ValueError(f"{len(self.classes)} names were given for {classes} classes")
        if not all(weight >= 0 for weight in ramp(self.guidance, scales)):
            raise ValueError(f"guidance must be >= 0 at every scale, given {self.guidance!r}")
        if self.top_k < 0 or not 0 <= self.top_p <= 1:
            raise ValueError(f"top_k must be >= 0 and top_p 0 to 1, given {self.top_k!r} and "
                             f"{self.top_p!r}")  # fmt: skip


def ramp(guidance: float | Sequence[float], scales: int) -> tuple[float, ...]:
    """w_k for each scale; a list is taken as it is. Raises ValueError for a list of another
    length, or for what is not finite."""
    weights = per_scale("guidance", guidance, scales)
    if not isinstance(guidance, int | float) or guidance < 1:
        return weights
    return tuple(1 + (g - 1) * k / max(scales - 1, 1) for k, g in enumerate(weights))


def truncated(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """p (..., V), zero for what top-k and top-p leave out; the sum is 1 before top-p."""
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    p = logits.softmax(-1)
    if not 0 < top_p < 1:
        return p
    rising, order = p.sort(dim=-1)
    out = rising.cumsum(-1) <= 1 - top_p
    out[..., -1] = False
    return p.masked_fill(torch.zeros_like(out).scatter(-1, order, out), 0)


def draw_tokens(
    logits: Tensor, seeds: Sequence[int], scale: int, *, top_k: int = 0, top_p: float = 0.0,
    refinement: int = 0,
) -> Tensor:  # fmt: skip
    """Tokens (B, L), int64, of guided logits (B, L, V). One number a token."""
    own = [scale_seed(seed, scale, refinement) for seed in seeds]
    u = row_uniforms(own, logits.shape[1], logits.device)
    return drawn_by(u, logits, top_k=top_k, top_p=top_p)


def drawn_by(u: Tensor, logits: Tensor, *, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """Tokens (...), int64, of logits (..., V) by uniform numbers (...), float64."""
    total = truncated(logits.double(), top_k, top_p).cumsum(-1)
    drawn = torch.searchsorted(total, u[..., None] * total[..., -1:], right=True)[..., 0]
    # u times the sum may round up to the sum: the last token with any probability, then.
    return drawn.minimum((total < total[..., -1:]).sum(-1))
