"""Edits and compositions of the sticker world: given pictures and an instruction, no file needed.

    sticker-edits     five kinds: recolour, add, remove, replace, move; mean of their accuracies
    sticker-imagine   objects out of two to four references in one picture; mean of their marks

`impasto bench export` writes pictures, instructions and the exact targets; the results are judged
as a folder of pictures named by the items' keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from impasto.bench.base import Bench
from impasto.bench.judged import interval
from impasto.bench.numbers import number_summary
from impasto.bench.results import Record
from impasto.bench.summary import summarise
from impasto.score.statistics import Outcome, bootstrap
from impasto.spec import Spec
from impasto.world.suites import EDITS, REFERENCES, composition_of, drawn, edit_of, key_of
from impasto.zoo.registry import BENCHES

__all__ = ["sticker_edits", "sticker_imagine"]


def checked(name: str, value: int) -> int:
    """A number of items per kind. Raises ValueError outside 1 to 500."""
    if not isinstance(value, int) or not 1 <= value <= 500:
        raise ValueError(f"{name} is {value!r}; give 1 to 500 items per kind")
    return value


def part_means(records: Sequence[Record], parts: Sequence[str], scale: tuple[float, float]
               ) -> dict[str, Any]:  # fmt: skip
    """Part -> its plain mean over tasks with its interval.

    Raises ValueError for records that have no such parts.
    """
    if any(part not in record.scores for record in records if record.number is not None
           for part in parts):  # fmt: skip
        raise ValueError(f"these results have no parts {', '.join(parts)}; take the bench's own "
                         f"scorer")  # fmt: skip
    rows = {part: [Outcome(r.tag, r.metadata, r.sample, r.scores[part]) for r in records
                   if r.number is not None] for part in parts}  # fmt: skip
    return {part: interval(bootstrap(row, bounds=scale).overall) for part, row in rows.items()}


def _edits_rule(records: Sequence[Record]) -> dict[str, Any]:
    parts = part_means(records, ("edit", "rest"), (0.0, 1.0))
    return summarise(records, EDITS) | {"edits": parts}


def _imagine_rule(records: Sequence[Record]) -> dict[str, Any]:
    parts = part_means(records, ("fantasy", "identity", "aesthetic"), (0.0, 10.0))
    return number_summary(records, (0.0, 10.0)) | {"imagine": parts}


def _edit_sources(spec: Spec) -> tuple[Tensor, ...]:
    return (drawn(edit_of(spec.key).source),)


def _edit_target(spec: Spec) -> Tensor:
    return drawn(edit_of(spec.key).target)


def _references(spec: Spec) -> tuple[Tensor, ...]:
    return tuple(drawn(scene) for scene in composition_of(spec.key).references)


def _composed(spec: Spec) -> Tensor:
    return drawn(composition_of(spec.key).target)


def _specs(
    kinds: Iterable[str], seed: int, per_kind: int, instruction: Callable[[str], str]
) -> tuple[Spec, ...]:
    """As many items of each kind; instruction: of an item's key."""
    keys = {key_of(kind, seed, i): kind for kind in kinds
            for i in range(checked("per_kind", per_kind))}  # fmt: skip
    return tuple(Spec(tag=kind, include=(), prompt=instruction(key), key=key)
                 for key, kind in keys.items())  # fmt: skip


_bench = partial(Bench, samples_per_prompt=1, second="")


@BENCHES.register("sticker-edits")
def sticker_edits(seed: int = 0, per_kind: int = 20) -> Bench:
    """Sticker pictures to be edited as told (--images only): was it done, did the rest stay?

    Raises ValueError for per_kind outside 1 to 500.
    """
    specs = _specs(EDITS, seed, per_kind, lambda key: edit_of(key).instruction)
    return _bench(name=f"sticker-edits:seed={seed},per_kind={per_kind}", specs=specs,
                  scorer="sticker-edits", rule=_edits_rule, sources=_edit_sources,
                  targets=_edit_target)  # fmt: skip


@BENCHES.register("sticker-imagine")
def sticker_imagine(seed: int = 0, per_kind: int = 20) -> Bench:
    """Objects of several sticker pictures in one (--images only), by Imagine-Bench's arithmetic.

    Raises ValueError for per_kind outside 1 to 500.
    """
    specs = _specs(REFERENCES, seed, per_kind, lambda key: composition_of(key).instruction)
    return _bench(name=f"sticker-imagine:seed={seed},per_kind={per_kind}", specs=specs,
                  scorer="sticker-imagine", rule=_imagine_rule, sources=_references,
                  targets=_composed, verdicts=False, foreign=r"_[2-9]\.png$")  # fmt: skip
