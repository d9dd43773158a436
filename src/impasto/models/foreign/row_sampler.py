"""Steps between a model's scores and its next token, as transformers' `generate` takes them."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

__all__ = ["Guided", "RowSampler"]


class RowSampler(LogitsProcessor):
    """Leaves each row the token that its own numbers choose. uniforms: (B, T) in [0, 1)."""

    def __init__(self, uniforms: Tensor) -> None:
        self.uniforms, self.step = uniforms, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V), all but one a row -inf. Raises ValueError for NaN."""
        sums = scores.double().softmax(-1).cumsum(-1)
        if not sums[:, -1].isfinite().all():
            raise ValueError(f"the model's scores of token {self.step} are NaN; are the weights "
                             f"whole, and is the dtype wide enough?")  # fmt: skip
        at = self.uniforms[:, self.step, None] * sums[:, -1:]
        self.step += 1
        # Rounding may lift u < 1 to the very end, where the last token of any chance is.
        chosen = torch.minimum(torch.searchsorted(sums, at, right=True),
                               torch.searchsorted(sums, sums[:, -1:].contiguous()))  # fmt: skip
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)


class Guided(LogitsProcessor):
    """(2B, V) scores with and without the prompt as (B, V) guided ones, float32 as sums of
    bfloat16 ones would be rounded to a coarse grid."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        prompted, plain = scores.float().chunk(2)
        return torch.lerp(plain, prompted, self.scale)
