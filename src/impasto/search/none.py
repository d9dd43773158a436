"""No search: the picture that the model draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from impasto.sample.protocol import Generator, Sampling
from impasto.score.base import Scorer
from impasto.search.base import Candidate, Draw, Drawn, Progress, Search, draw_rows
from impasto.zoo.registry import SEARCHES

__all__ = ["NoSearch"]


class NoSearch(Search):
    """One picture per draw, as the model draws it."""

    independent = True

    def draw(
        self, generator: Generator, draws: Sequence[Draw], sampling: Sampling, batch_size: int,
        progress: Progress | None = None,
    ) -> list[Drawn]:  # fmt: skip
        """Candidate 0 of each draw, in order."""
        rows = [(draw, 0) for draw in draws]
        drawn = draw_rows(generator, rows, sampling, batch_size, progress)
        return [Drawn(image, (Candidate(draw.row_seed()),), 0, cost)
                for draw, (image, cost) in zip(draws, drawn, strict=True)]  # fmt: skip

    def provenance(self) -> dict[str, Any]:
        return {}


@SEARCHES.register("none")
def none(*, scorers: Callable[[str], Scorer] | None = None) -> NoSearch:
    """One picture per draw, as the model draws it."""
    return NoSearch()
