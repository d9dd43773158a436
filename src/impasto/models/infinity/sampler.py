"""Drawing scale by scale: the equations, and the state of a batch of drawings.

    l      = g_k l_with + (1 - g_k) l_without               guidance, on logits or inside a block
    p      = softmax(l / tau_k) over a bit's two classes
    bit    = [u >= p_0],  u uniform from the row's own seed and the scale
    f^    += linear(codes)                                  towards the picture and the next input

Top-k and top-p on two classes: top-k of 1 leaves the likelier one, of 2 and more both. Top-p drops
the less likely class when its probability is at most 1 - p: a threshold on |log-odds|.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from impasto.models.infinity.model import Condition
from impasto.models.infinity.schedules import (
    TEMPLATES,
    Schedule,
    Size,
    Sizes,
    own_schedule,
    schedule,
)
from impasto.models.next_scale.state import ScaleState, per_scale, scale_seed
from impasto.models.storage import checked_fields
from impasto.sample.seeds import row_uniforms

__all__ = ["Defaults", "TextState", "draw_bits"]


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a model folder says about drawing with it.

    scales: entries of a schedule that its pictures have. guidance, temperature: of all scales, or
    a list of one a scale. guidance_layer: 0 for logits, -n for the states after block depth - n.
    top_k: 0 for all. top_p: 0 or 1 for all. sizes: (height, width) in tokens of each scale, of a
    model that follows no template; its pictures have one size.
    """

    scales: int
    sizes: Sizes | None = None
    guidance: float | tuple[float, ...] = 3.0
    temperature: float | tuple[float, ...] = 0.5
    guidance_layer: int = 0
    top_k: int = 900
    top_p: float = 0.97

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Defaults:
        """The inverse of `to_dict`. Raises ValueError naming unknown or missing keys."""
        given = checked_fields(cls, values, "an infinity model")
        if given["sizes"] is not None:
            given["sizes"] = own_schedule(given["sizes"]).sizes
        return cls(**given)

    def plans(self) -> dict[float, Schedule]:
        """Height over width -> the schedule of such a picture, square ones first."""
        if self.sizes is not None:
            return {self.sizes[-1][0] / self.sizes[-1][1]: own_schedule(self.sizes)}
        ratios = sorted(TEMPLATES, key=lambda ratio: ratio != 1)
        return {ratio: schedule(ratio, self.scales) for ratio in ratios}

    def check(self, depth: int) -> None:
        """Raises ValueError for a value out of range, for a transformer of `depth` blocks."""
        if not 1 <= self.scales <= 13:
            raise ValueError(f"scales must be 1 to 13, given {self.scales!r}")
        if self.sizes is not None and len(own_schedule(self.sizes).sizes) != self.scales:
            raise ValueError(f"there are {len(self.sizes)} sizes for {self.scales} scales")
        if not all(value >= 0 for value in per_scale("guidance", self.guidance, self.scales)):
            raise ValueError(f"guidance must be >= 0 at every scale, given {self.guidance!r}")
        if not all(value > 0 for value in per_scale("temperature", self.temperature, self.scales)):
            raise ValueError(f"temperature must be positive at every scale, given "
                             f"{self.temperature!r}")  # fmt: skip
        if not -depth < self.guidance_layer <= 0:
            raise ValueError(f"guidance_layer must be 0 (logits) or -1 to {1 - depth}, given "
                             f"{self.guidance_layer!r}")  # fmt: skip
        if self.top_k < 0 or not 0 <= self.top_p <= 1:
            raise ValueError(f"top_k must be >= 0 and top_p 0 to 1, given {self.top_k!r} and "
                             f"{self.top_p!r}")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TextState(ScaleState):
    """text: conditions of P prompts with the prompt and P without, one after another in pairs.
    lengths: tokens of each prompt. grid: on which rotary positions lie. temperature: one a
    scale."""

    text: Condition
    lengths: tuple[int, ...]
    grid: Size
    temperature: tuple[float, ...]

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.sizes, self.grid)


def draw_bits(
    logits: Tensor, seeds: Sequence[int], scale: int, *, top_k: int = 0, top_p: float = 0.0
) -> Tensor:
    """Bits, bool (B, L, d), of guided and tempered logits (B, L, d, 2). One number a bit."""
    odds = (logits[..., 1] - logits[..., 0]).double()
    u = row_uniforms([scale_seed(seed, scale) for seed in seeds], odds[0].numel(), odds.device)
    drawn = u.view(odds.shape) >= torch.sigmoid(-odds)
    likelier = odds > 0
    if top_k == 1:
        return likelier
    if not 0 < top_p < 1:
        return drawn
    return torch.where(torch.sigmoid(-odds.abs()) <= 1 - top_p, likelier, drawn)
