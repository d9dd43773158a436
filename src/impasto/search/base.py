"""What every search is: draws in, the best picture that its budget finds out.

A draw is one picture that a bench asks for. A search draws candidates of it, each from

    row_seed(seed, prompt, sample, candidate),    candidate = 0, 1, ...

so candidate 0 is the picture without a search, and runs can be compared in pairs. Nothing depends
on which draws share a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from impasto.sample.protocol import Cost, Generator, Request, Sampling, generate, row_seed
from impasto.spec import Spec

__all__ = ["Candidate", "Draw", "Drawn", "Progress", "Search", "draw_rows"]

Progress = Callable[[int, int], None]
"""Called with (pictures drawn, pictures to draw), candidates included, after every batch."""


@dataclass(frozen=True)
class Draw:
    """The wish for picture number `sample` of a spec, in a run with this seed.

    text: what the model is given; by default the spec's prompt.
    """

    spec: Spec
    seed: int
    sample: int
    text: str | None = None

    @property
    def request(self) -> Request:
        return Request.of(self.spec.prompt if self.text is None else self.text)

    def row_seed(self, candidate: int = 0) -> int:
        return row_seed(self.seed, self.spec.prompt, self.sample, candidate)


@dataclass(frozen=True)
class Candidate:
    """One picture that was considered. value: its reward; None where nothing was compared."""

    seed: int
    value: float | None = None


@dataclass(frozen=True)
class Drawn:
    """A draw fulfilled. image: (3, H, W), that of `candidates[chosen]`.

    cost: of all candidates. What the reward cost is not in it.
    """

    image: Tensor
    candidates: tuple[Candidate, ...]
    chosen: int
    cost: Cost


class Search(ABC):
    """Spends a generator's time to fulfil draws. Register in `impasto.zoo.registry.SEARCHES`.

    width: pictures drawn for each draw; callers save their work after about a batch of pictures.
    independent: each candidate is drawn by itself and the best by their values is chosen at the
    end, so the first k of n are what the search at k would have drawn, at k / n of the cost.
    """

    width: int = 1
    independent: ClassVar[bool] = False

    @abstractmethod
    def draw(
        self, generator: Generator, draws: Sequence[Draw], sampling: Sampling, batch_size: int,
        progress: Progress | None = None,
    ) -> list[Drawn]:  # fmt: skip
        """Fulfil each draw, in order; at most `batch_size` pictures are drawn at a time."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """The options that decide what it chooses."""


def draw_rows(
    generator: Generator, rows: Sequence[tuple[Draw, int]], sampling: Sampling, batch_size: int,
    progress: Progress | None = None,
) -> Iterator[tuple[Tensor, Cost]]:  # fmt: skip
    """Draw each (draw, candidate): its picture (3, H, W) and its share of the cost, in order.

    Lazy: a batch is drawn when its first picture is asked for. Raises ValueError for a batch size
    below 1.
    """
    if batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, given {batch_size}")
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        requests = [draw.request for draw, _ in batch]
        seeds = [draw.row_seed(candidate) for draw, candidate in batch]
        images, cost = generate(generator, requests, seeds, sampling)
        n = len(batch)
        share = Cost(flops=cost.flops / n, images=cost.images // n, row_steps=cost.row_steps // n)
        if progress is not None:
            progress(start + n, len(rows))
        yield from ((image, share) for image in images)
