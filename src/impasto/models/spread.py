"""One batch over several devices: rows shared out among copies of a generator.

    Spread([load_generator(name, device=f"cuda:{i}") for i in range(4)])

Candidates of one prompt may so lie on different devices: a search sees one state, and `select`
re-indexes each row where it lies. The copies take their steps at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from impasto.models.networks import NetworkGenerator
from impasto.sample.pictures import Pipeline
from impasto.sample.protocol import Cost, Request, Sampling, State

__all__ = ["Spread", "SpreadState"]


@dataclass(frozen=True, kw_only=True)
class SpreadState(State):
    """parts: one state a copy, None where it has no rows. places: (copy, row of its state) of each
    row."""

    parts: tuple[Any, ...]
    places: tuple[tuple[int, int], ...]

    def rows(self, copy: int) -> list[int]:
        """The rows that lie at a copy, in its state's order."""
        found = {row: i for i, (where, row) in enumerate(self.places) if where == copy}
        return [found[row] for row in sorted(found)]


class Spread(Pipeline):
    """Copies of one generator as a generator.

    Raises ValueError for none, or for generators that are not copies of each other.
    """

    def __init__(self, copies: Sequence[NetworkGenerator]) -> None:
        records = [copy.provenance() | {"device": ""} for copy in copies]
        if not copies or any(record != records[0] for record in records):
            raise ValueError(f"{len(copies)} generators were given; they must be copies of one, "
                             f"with the same weights, dtype and defaults, and at least one")
        self.copies = tuple(copies)

    def start(
        self, requests: Sequence[Request], seeds: Sequence[int], sampling: Sampling
    ) -> SpreadState:
        """Neighbouring rows lie together, as many at each copy as at any other or one fewer."""
        n, many = len(seeds), len(self.copies)
        homes = [i * many // max(n, many) for i in range(n)]
        parts = self._each(lambda copy, at: self.copies[copy].start(
            [requests[i] for i in at], [seeds[i] for i in at], sampling),
            [[i for i in range(n) if homes[i] == copy] for copy in range(many)])  # fmt: skip
        first = next(part for part in parts if part is not None)
        places = tuple((home, i - homes.index(home)) for i, home in enumerate(homes))
        return SpreadState(step=first.step, steps=first.steps, seeds=tuple(seeds), parts=parts,
                           places=places)  # fmt: skip

    def advance(self, state: SpreadState) -> SpreadState:
        """One step of all rows, from the seeds that `state` has."""
        def step(copy: int, rows: Sequence[int]) -> Any:
            part = replace(state.parts[copy], seeds=tuple(state.seeds[i] for i in rows), costs=())
            return self.copies[copy].advance(part)

        parts = self._each(step, self._rows(state))
        spent = [parts[copy].costs[row] for copy, row in state.places]
        return replace(state, step=state.step + 1, parts=parts, costs=state.charged(spent))

    def preview(self, state: SpreadState) -> Tensor:
        return self._pictures(state, lambda copy, _: self.copies[copy].preview(state.parts[copy]))

    def preview_cost(self, state: SpreadState) -> Cost:
        copy, part = next((i, p) for i, p in enumerate(state.parts) if p is not None)
        return self.copies[copy].preview_cost(part)

    def select(self, state: SpreadState, rows: Sequence[int]) -> SpreadState:
        """The state whose row i is row `rows[i]`; it stays at its copy."""
        kept: list[list[int]] = [[] for _ in self.copies]
        places = []
        for i in rows:
            copy, row = state.places[i]
            places.append((copy, len(kept[copy])))
            kept[copy].append(row)
        parts = self._each(
            lambda copy, at: self.copies[copy].select(state.parts[copy], at), kept)
        return replace(state, parts=parts, places=tuple(places),
                       seeds=tuple(state.seeds[i] for i in rows),
                       costs=tuple(state.costs[i] for i in rows))  # fmt: skip

    def finish(self, state: SpreadState) -> Tensor:
        return self._pictures(state, lambda copy, _: self.copies[copy].finish(state.parts[copy]))

    def provenance(self) -> dict[str, Any]:
        """Of the first copy, with all devices."""
        devices = ", ".join(str(copy.device) for copy in self.copies)
        return self.copies[0].provenance() | {"device": devices}

    def _rows(self, state: SpreadState) -> list[list[int]]:
        return [state.rows(copy) for copy in range(len(self.copies))]

    def _pictures(
        self, state: SpreadState, draw: Callable[[int, Sequence[int]], Tensor]
    ) -> Tensor:
        """All rows' pictures, (B, 3, H, W), on the first copy's device."""
        found = self._each(draw, self._rows(state))
        device = self.copies[0].device
        return torch.stack([found[copy][row].to(device) for copy, row in state.places])

    def _each(
        self, work: Callable[[int, Sequence[int]], Any], rows: Sequence[Sequence[int]]
    ) -> tuple[Any, ...]:
        """`work(copy, its rows)` of every copy that has some, at the same time; else None."""
        busy = [copy for copy, at in enumerate(rows) if at]
        if len(busy) == 1:
            return tuple(work(copy, at) if at else None for copy, at in enumerate(rows))
        with ThreadPoolExecutor(len(busy)) as pool:
            waiting = {copy: pool.submit(partial(self._on, copy, work), rows[copy])
                       for copy in busy}  # fmt: skip
            return tuple(waiting[copy].result() if copy in waiting else None
                         for copy in range(len(rows)))  # fmt: skip

    def _on(
        self, copy: int, work: Callable[[int, Sequence[int]], Any], rows: Sequence[int]
    ) -> Any:
        device = self.copies[copy].device
        with torch.cuda.device(device if device.type == "cuda" else -1):
            return work(copy, rows)
