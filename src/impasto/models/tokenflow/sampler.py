"""Drawing TokenFlow scale by scale: the equations, and the state of a batch of drawings.

Scale k = 0 … K - 1 is drawn J times, each time told what the time before gave; the first once:

    f_0 = 0;  f_k = bicubic(f_k-1 + codes(ids_k-1), scale k)         enlarged step by step
    told in pass j     f_k for j = 0;  f_k + codes(ids_k of pass j - 1) for j > 0
    w_k   = 1 + (g - 1) k / (K - 1)                                  a ramp, as in `var.sampler`
    l     = w_k l_prompt + (1 - w_k) l_negative
    ids_k = drawn from l by pass j's top-k, then top-p; the last pass's are kept
    f^    = sum over k of bicubic(codes(ids_k), scale K)             what is decoded: each at once

Keys and values are kept of pass 0 alone; later passes see those of the scales before, and
themselves. The published code's `cfg` is g - 1. Source: Qu et al. 2024 (TokenFlow, arXiv
2412.03069), section 3.3, table 6, and the released code's conventions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor

from impasto.models.next_scale.state import ScaleState
from impasto.models.storage import checked_fields
from impasto.models.var.sampler import ramp

__all__ = ["DEFECTS", "STRATEGIES", "Defaults", "PromptState"]

STRATEGIES: dict[int, tuple[tuple[int, ...], tuple[float, ...]]] = {
    1: ((600,), (0.6,)), 2: ((1200, 1), (0.8, 0.0)), 3: ((1200, 100, 1), (0.8, 0.8, 0.0)),
}  # fmt: skip
"""Number of passes -> published top-k and top-p of each."""
DEFECTS = "blurry, distorted, badly drawn, noisy, cropped, with text or a watermark"
"""What the published model is told not to draw; in its own code another list of the kind."""


@dataclass(frozen=True, kw_only=True)
class PromptState(ScaleState):
    """running: (B, C, h, w) f_k, what the next scale is told. seen: bool (P + 1, places), of P
    prompts and, last, of the negative one: where the cache holds a word."""

    per_row: ClassVar[tuple[str, ...]] = ("f_hat", "running")
    running: Tensor
    seen: Tensor


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a model folder says about drawing with it.

    negative: the text of the unconditional branch; empty for what training dropped captions to.
    guidance: g of the ramp, or a list of one weight a scale. top_k, top_p: one a pass; 0 for all.
    tokens: digest of the tokenizer that the model was trained with.
    """

    negative: str = ""
    guidance: float | tuple[float, ...] = 8.5
    top_k: tuple[int, ...] = STRATEGIES[3][0]
    top_p: tuple[float, ...] = STRATEGIES[3][1]
    tokens: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Defaults:
        """The inverse of `to_dict`. Raises ValueError naming unknown or missing keys."""
        return cls(**checked_fields(cls, values, "a tokenflow model"))

    @property
    def passes(self) -> int:
        """J."""
        return len(self.top_k)

    def check(self, scales: int) -> None:
        """Raises ValueError for a value out of range, for a model of so many scales."""
        if not all(weight >= 0 for weight in ramp(self.guidance, scales)):
            raise ValueError(f"guidance must be >= 0 at every scale, given {self.guidance!r}")
        if not self.top_k or len(self.top_k) != len(self.top_p):
            raise ValueError(f"top_k and top_p must have one number a pass, given {self.top_k!r} "
                             f"and {self.top_p!r}")  # fmt: skip
        if min(self.top_k) < 0 or min(self.top_p) < 0 or max(self.top_p) > 1:
            raise ValueError(f"top_k must be >= 0 and top_p 0 to 1, given {self.top_k!r} and "
                             f"{self.top_p!r}")  # fmt: skip
