"""The engine of all searches: rows of many draws in one batch, and choices among them on the way.

    B_0 rows a draw -> steps 0 … s -> previews -> B_s rows kept, re-indexed -> … -> finish -> one

A row that is kept goes on from its own caches: no prefix is drawn twice, and the generator is
called once a step however many rows there are, if they fit into the batch. What was chosen more
than once goes on with its own seed first and with `copy_seed`s in its copies. Pictures are decoded
where a choice needs them and nowhere else. A draw's rows are looked at together and by themselves,
so what is chosen does not depend on the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto.images import quantise
from impasto.sample.protocol import Cost, Generator, Sampling, copy_seed
from impasto.search.base import Candidate, Draw, Drawn, Progress, Search, Selection

__all__ = ["PREVIEW", "Chosen", "Population", "Selector", "Stop", "TreeSearch", "preview_size"]

PREVIEW = 64
"""Longest side of the pictures that a trace keeps, in pixels."""


@dataclass(frozen=True)
class Population:
    """The rows of one draw after `step`. images: (B, 3, H, W), unfinished but after the last step.

    histories: of each row the rewards that it and its ancestors were given so far.
    """

    draw: Draw
    step: int
    images: Tensor
    histories: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Chosen:
    """kept: indices of the rows that go on; values, potentials: of all rows, where asked; cost: of
    asking."""

    kept: tuple[int, ...]
    values: tuple[float, ...] | None = None
    potentials: tuple[float, ...] | None = None
    cost: Cost = field(default_factory=Cost)


class Selector(ABC):
    """A way of choosing among the rows of a draw. kind: what a trace calls it."""

    kind: ClassVar[str]

    @abstractmethod
    def __call__(self, population: Population, keep: int) -> Chosen:
        """The `keep` rows that go on."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """The options that decide what it chooses."""


class Stop(NamedTuple):
    """A choice on the way, and how many rows it leaves."""

    selector: Selector
    keep: int


@dataclass(frozen=True)
class _Rows:
    """Rows in one state, those of a draw next to each other.

    draws: for each row the place of its draw in the group. histories: its rewards so far.
    """

    state: Any
    draws: tuple[int, ...]
    histories: tuple[tuple[float, ...], ...]


class TreeSearch(Search):
    """A search by the engine. final: how the picture is chosen among the finished ones."""

    final: Selector

    def stops(self, steps: int) -> Mapping[int, Stop]:
        """Choices on the way, by the step after which they are made; none by default.

        Raises ValueError for a number of steps that the search is not made for.
        """
        return {}

    @property
    def needs_previews(self) -> bool:
        """Whether it looks at unfinished pictures."""
        return False

    @torch.inference_mode()
    def draw(
        self, generator: Generator, draws: Sequence[Draw], sampling: Sampling, batch_size: int,
        progress: Progress | None = None,
    ) -> list[Drawn]:  # fmt: skip
        """The chosen picture of each draw, in order.

        Draws go through in groups of as many as the batch holds, at least one; a group of more
        rows than `batch_size` goes through in parts. Raises ValueError for a batch size below 1 or
        a generator that has not what the search needs, RewardBroken naming prompt and candidate.
        """
        if batch_size < 1:
            raise ValueError(f"the batch size must be at least 1, given {batch_size}")
        if self.needs_previews and not generator.has_preview:
            raise ValueError(f"{generator.provenance()['id']} draws in one go and has no preview, "
                             f"and this search compares unfinished pictures; take a search over "
                             f"finished ones (best-of-n, importance), or a model that draws in "
                             f"visible steps")  # fmt: skip
        size = max(1, batch_size // self.width)
        done: list[Drawn] = []

        def tick(rows: int) -> None:
            if progress is not None:
                progress(len(done) * self.width + rows, len(draws) * self.width)

        for i in range(0, len(draws), size):
            group = _Group(self, generator, draws[i : i + size], tick)
            done += group.drawn(sampling, batch_size)
        return done


class _Group:
    """Some draws on their way through the engine."""

    def __init__(
        self, search: TreeSearch, generator: Generator, draws: Sequence[Draw],
        tick: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.search, self.generator, self.draws, self.tick = search, generator, draws, tick
        self.spent: list[list[Cost]] = [[] for _ in draws]
        self.traces: list[list[Selection]] = [[] for _ in draws]

    def drawn(self, sampling: Sampling, batch_size: int) -> list[Drawn]:
        rows = [(d, c) for d in range(len(self.draws)) for c in range(self.search.width)]
        parts = [self._started(rows[i : i + batch_size], sampling)
                 for i in range(0, len(rows), batch_size)]  # fmt: skip
        steps = parts[0].state.steps
        for step, stop in sorted(self.search.stops(steps).items()):
            for i in range(len(parts)):
                self._advance(parts, i, step + 1)
            self._select(parts, step, stop)
        images: list[Tensor] = []
        for i in range(len(parts)):
            self._advance(parts, i, steps)
            images.append(self.generator.finish(parts[i].state))
            # A finished row is its picture, seed and history; caches make room for the next part.
            parts[i] = replace(parts[i], state=_Done(parts[i].state.seeds))
            self.tick(len(rows) * (i + 1) // len(parts))
        return self._choose(parts, images, steps - 1)

    # ---------------------------------------------------------------- steps

    def _started(self, rows: Sequence[tuple[int, int]], sampling: Sampling) -> _Rows:
        requests = [self.draws[d].request for d, _ in rows]
        seeds = [self.draws[d].row_seed(candidate) for d, candidate in rows]
        state = self.generator.start(requests, seeds, sampling)
        return _Rows(state, tuple(d for d, _ in rows), ((),) * len(rows))

    def _advance(self, parts: list[_Rows], i: int, step: int) -> None:
        """Take the part `i` to `step`; its state before, with its caches, is let go at once."""
        while parts[i].state.step < step:
            parts[i] = replace(parts[i], state=self.generator.advance(
                replace(parts[i].state, costs=())))  # fmt: skip
            for d, cost in zip(parts[i].draws, parts[i].state.costs, strict=True):
                self.spent[d].append(cost)

    # ---------------------------------------------------------------- choices

    def _select(self, parts: list[_Rows], step: int, stop: Stop) -> None:
        """Keep in `parts` what is chosen of each draw; a part that loses all its rows goes."""
        previews = [self.generator.preview(part.state) for part in parts]
        for part in parts:
            cost = self.generator.preview_cost(part.state)
            for d in part.draws:
                self.spent[d].append(cost)
        kept: list[list[tuple[int, int, tuple[float, ...]]]] = [[] for _ in parts]
        for d in range(len(self.draws)):
            chosen = self._chosen(d, parts, previews, step, stop)
            for place, row, seed, history in _goes_on(_places(parts, d), parts, chosen, step):
                kept[place].append((row, seed, history))
        parts[:] = [self._re_indexed(part, rows)
                    for part, rows in zip(parts, kept, strict=True) if rows]  # fmt: skip

    def _chosen(
        self, d: int, parts: Sequence[_Rows], images: Sequence[Tensor], step: int, stop: Stop
    ) -> Chosen:
        """The choice among the rows of draw `d`, recorded."""
        places = _places(parts, d)
        pictures = torch.stack([images[place][row] for place, row in places])
        histories = tuple(parts[place].histories[row] for place, row in places)
        chosen = stop.selector(Population(self.draws[d], step, pictures, histories), stop.keep)
        self.spent[d].append(chosen.cost)
        self.traces[d].append(Selection(step, stop.selector.kind, chosen.kept, _small(pictures),
                                        chosen.values, chosen.potentials))  # fmt: skip
        return chosen

    def _re_indexed(
        self, part: _Rows, rows: Sequence[tuple[int, int, tuple[float, ...]]]
    ) -> _Rows:
        at = [row for row, _, _ in rows]
        state = part.state
        if at != list(range(len(part.draws))):
            state = self.generator.select(state, at)
        return _Rows(replace(state, seeds=tuple(seed for _, seed, _ in rows)),
                     tuple(part.draws[i] for i in at),
                     tuple(history for _, _, history in rows))  # fmt: skip

    def _choose(
        self, parts: Sequence[_Rows], images: Sequence[Tensor], step: int
    ) -> list[Drawn]:  # fmt: skip
        drawn = []
        for d in range(len(self.draws)):
            chosen = self._chosen(d, parts, images, step, Stop(self.search.final, 1))
            places, (best,) = _places(parts, d), chosen.kept
            values = chosen.values or (None,) * len(places)
            candidates = tuple(Candidate(parts[place].state.seeds[row], value)
                               for (place, row), value in zip(places, values, strict=True))
            place, row = places[best]
            cost = Cost.total([*self.spent[d], Cost(images=len(candidates))])
            trace = tuple(self.traces[d]) if len(self.traces[d][0].previews) > 1 else ()
            drawn.append(Drawn(images[place][row], candidates, best, cost, trace))
        return drawn


class _Done(NamedTuple):
    """What is left of a finished state."""

    seeds: tuple[int, ...]


def _places(parts: Sequence[_Rows], d: int) -> list[tuple[int, int]]:
    """(part, row in it) of each row of draw `d`."""
    return [(place, row) for place, part in enumerate(parts)
            for row, draw in enumerate(part.draws) if draw == d]  # fmt: skip


def _goes_on(
    places: Sequence[tuple[int, int]], parts: Sequence[_Rows], chosen: Chosen, step: int
) -> list[tuple[int, int, int, tuple[float, ...]]]:
    """(part, row, seed, history) of each row that goes on."""
    seen: Counter[int] = Counter()
    rows = []
    for i in chosen.kept:
        place, row = places[i]
        part = parts[place]
        seed, history = part.state.seeds[row], part.histories[row]
        if seen[i]:
            seed = copy_seed(seed, step, seen[i])
        seen[i] += 1
        told = () if chosen.values is None else (chosen.values[i],)
        rows.append((place, row, seed, (*history, *told)))
    return rows


def preview_size(height: int, width: int) -> tuple[int, int]:
    """The size at which a trace keeps pictures of height x width: none is made larger."""
    scale = min(1.0, PREVIEW / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _small(images: Tensor) -> Tensor:
    """(B, 3, H, W) for the trace, on the CPU and the 8-bit grid."""
    size = preview_size(*images.shape[-2:])
    if size != tuple(images.shape[-2:]):
        images = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
    return quantise(images).cpu()
