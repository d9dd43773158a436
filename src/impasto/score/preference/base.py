"""What every preference scorer is: looking at a picture, then rating it by a prompt.

    x = look(picture)       once a picture
    r = rate(x, prompt)     a number; higher is better

A `Scorer` like any other, so it can be a second opinion, a search's reward, or called from Python.
Networks run in float32 without TF32; the published code of some runs in float16 on a GPU. On a CPU
pictures and prompts go through them one by one, so that values do not depend on the batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from impasto.sample.rowwise import in_rows
from impasto.score.base import Score, Scorer
from impasto.score.official import exact_float32
from impasto.score.trained import check_norms, check_prompts
from impasto.spec import Spec

__all__ = ["PreferenceScorer"]

ROWS = 32
"""Pictures or prompts in one pass on a GPU."""


class PreferenceScorer(Scorer):
    """Pictures and prompts to numbers. name: of the exact variant. record: for the provenance."""

    def __init__(self, model: nn.Module, *, name: str, record: Mapping[str, Any] | None = None
                 ) -> None:  # fmt: skip
        self.model, self.name, self.record = model.eval(), name, dict(record or {})
        self.device = next(model.parameters()).device

    @abstractmethod
    def look(self, images: Sequence[Tensor]) -> Tensor:
        """What is kept of pictures (3, H, W) in [0, 1], of any sizes: (B, ...)."""

    @abstractmethod
    def rate(self, seen: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,) values of what `look` kept of picture i by prompt i."""

    def values(self, images: Tensor | Sequence[Tensor], prompts: Sequence[str]) -> list[float]:
        """The value of picture i by prompt i.

        images: (B, 3, H, W) in [0, 1], or B pictures of any sizes. Raises ValueError when they
        differ in number.
        """
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} pictures for {len(prompts)} prompts; give one for "
                             f"each")  # fmt: skip
        if not prompts:
            return []
        with torch.inference_mode(), exact_float32():
            return self.rate(self.look(list(images)), prompts).tolist()

    def score(self, images: Tensor | Sequence[Tensor], specs: Sequence[Spec]) -> list[Score]:
        """`values` by the specs' prompts; no verdict."""
        found = self.values(images, [spec.prompt for spec in specs])
        return [Score(value=value) for value in found]

    def in_rows(self, fn: Callable[[slice], Tensor], n: int) -> Tensor:
        """`fn` of some of `n` rows at a time, results joined."""
        return in_rows(fn, n, 1 if self.device.type == "cpu" else ROWS)

    def self_test(self) -> None:
        """Is it trained, and do prompts matter as they should? Raises ScorerBroken."""
        check_norms(self.model, self.name)
        check_prompts(self.name, self._grid)

    def _grid(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        """(B, P) values of every picture by every prompt."""
        with torch.inference_mode(), exact_float32():
            seen = self.look(images)
            rows = [self.rate(seen, [prompt] * len(images)) for prompt in prompts]
            return torch.stack(rows, dim=1)

    def provenance(self) -> dict[str, Any]:
        return {"id": self.name, "precision": "float32, TF32 off"} | self.record
