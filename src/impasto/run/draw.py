"""Drawing what a run lacks, here or in workers; a batch is saved as soon as it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from impasto.files import sweep
from impasto.run.batches import in_batches
from impasto.run.cost import Meter
from impasto.run.directory import RunDirectory
from impasto.run.tree import sheet
from impasto.run.workers import Workers
from impasto.sample.protocol import Cost, Generator, Sampling
from impasto.search.base import Draw, Drawn, Search
from impasto.spec import Spec

__all__ = ["DrawBatch", "Place", "draw"]

Place = tuple[int, int]
"""(index of the prompt, index of its sample)."""
Within = Callable[[int, int], None]


@dataclass(frozen=True)
class DrawBatch:
    """Drawing some pictures of a run; in this process or, by pickle, in a worker.

    given: the specs as the model is told them (`Bench.given`), and the pictures' folders.
    """

    run: RunDirectory
    specs: Sequence[Spec]
    given: Sequence[Spec]
    seed: int
    sampling: Sampling
    size: int

    def __call__(self, makers: tuple[Generator, Search], batch: Sequence[Place]) -> int:
        """Draw and save those of `batch` that are not there yet; returns how many it held."""
        in_batches(self.run.missing(batch), self.size,
                   lambda some, size: replace(self, size=size).save(makers, some),
                   each=makers[1].width)  # fmt: skip
        return len(batch)

    def save(
        self, makers: tuple[Generator, Search], batch: Sequence[Place],
        within: Within | None = None,
    ) -> None:  # fmt: skip
        """Draw `batch` and save it."""
        generator, search = makers
        draws = [Draw(self.specs[i], self.seed, sample, self.given[i].prompt)
                 for i, sample in batch]  # fmt: skip
        drawn = search.draw(generator, draws, self.sampling, self.size, within)
        for (i, sample), one in zip(batch, drawn, strict=True):
            self.run.save(i, sample, self.given[i], one.image, _described(one),
                          sheet=sheet(one.trace))  # fmt: skip


def draw(
    one: DrawBatch,
    makers: tuple[Generator, Search],
    samples: int,
    *,
    workers: Workers,
    meter: Meter,
    progress: Callable[[str, int, int], None],
) -> Cost:
    """Draw and save what is missing; returns what all the pictures cost."""
    places = [(i, s) for i in range(len(one.specs)) for s in range(samples)]
    left = one.run.missing(places)
    done = len(places) - len(left)
    progress("drawing", done, len(places))

    def here(batch: Sequence[Place], size: int) -> None:
        nonlocal done

        def within(drawn: int, candidates: int) -> None:
            progress("drawing", done + len(batch) * drawn // candidates, len(places))

        replace(one, size=size).save(makers, batch, within)
        done += len(batch)
        progress("drawing", done, len(places))

    if not workers.several:
        in_batches(left, one.size, here, each=makers[1].width)
    elif left:
        n = max(1, one.size // makers[1].width)
        batches = [left[i : i + n] for i in range(0, len(left), n)]
        for drawn in workers.each("makers", one, batches, makers, meter):
            done += drawn
            progress("drawing", done, len(places))
        sweep(one.run.path)  # what a killed worker began
    return one.run.total(places)


def _described(drawn: Drawn) -> dict[str, Any]:
    """How a sample was drawn, as its JSON file tells it."""
    spent = asdict(drawn.cost)
    del spent["images"]  # as many as there are candidates
    return {
        "seed": drawn.candidates[drawn.chosen].seed,
        "candidates": [{"seed": c.seed, "value": c.value} for c in drawn.candidates],
        "chosen": drawn.chosen,
        **spent,
        "trace": [selection.to_dict() for selection in drawn.trace],
    }
