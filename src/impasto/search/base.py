"""What every search is: draws in, the best picture that its budget finds out.

A draw is one picture that a bench asks for. A search draws candidates of it, each from

    row_seed(seed, prompt, sample, candidate),    candidate = 0, 1, ...

so candidate 0 is the picture without a search, and runs can be compared in pairs. Nothing depends
on which draws share a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from impasto.sample.protocol import Cost, Generator, Request, Sampling, row_seed
from impasto.sample.seeds import derived_seed
from impasto.spec import Spec

__all__ = ["Candidate", "Draw", "Drawn", "Progress", "Search", "Selection"]

Progress = Callable[[int, int], None]
"""Called with (rows done, rows to draw), all candidates counted, after every batch."""


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

    def choice_seed(self, step: int) -> int:
        """What a choice among its rows after `step` is drawn from."""
        return derived_seed(self.row_seed(), "choice", step)


@dataclass(frozen=True)
class Candidate:
    """One finished picture. value: its reward; None where nothing was compared."""

    seed: int
    value: float | None = None


@dataclass(frozen=True)
class Selection:
    """One choice among the rows of a draw, after the step `step` (0-based).

    kind: "cluster", "resample", or "final" for the choice of the picture. kept: indices of the
    rows that go on, ascending; one that repeats was copied. values, potentials: of the rows
    before, where they were asked. previews: (rows before, 3, h, w), small.
    """

    step: int
    kind: str
    kept: tuple[int, ...]
    previews: Tensor
    values: tuple[float, ...] | None = None
    potentials: tuple[float, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the pictures."""
        return {"step": self.step, "kind": self.kind, "rows": len(self.previews),
                "kept": list(self.kept),
                "values": None if self.values is None else list(self.values),
                "potentials": None if self.potentials is None else list(self.potentials)
                }  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A draw fulfilled. image: (3, H, W), that of `candidates[chosen]`.

    candidates: the pictures that were finished. cost: of all rows, those given up included. trace:
    the choices in their order, the last one among the candidates.
    """

    image: Tensor
    candidates: tuple[Candidate, ...]
    chosen: int
    cost: Cost
    trace: tuple[Selection, ...] = ()


class Search(ABC):
    """Spends a generator's time to fulfil draws. Register in `impasto.zoo.registry.SEARCHES`.

    width: rows begun for each draw; callers save their work after about a batch of rows.
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
        """Fulfil each draw, in order; at most `batch_size` rows are in the network at a time."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """The options that decide what it chooses."""
