"""Imagine-Bench (Ye et al. 2025, Echo-4o, arXiv 2508.09987): 270 fantasies, one picture each.

    overall   (3 A + 2 H + 2 S + 2 M) / 9                         means of the four groups

    A attribute shift: COLOR, SHAPE, SIZE       S spatiotemporal: TIME, ENVIRONMENT
    H hybridization: MATERIAL, COMBINATION      M Multi-Object

A picture's score is `impasto.score.imagine`'s. The released script's table calls the last group
TWO_OBJECT, a type that no item has, so its number leaves 60 of 270 items out: given beside ours as
"released_script", which also counts unreadable answers as 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from impasto.bench.base import Bench
from impasto.bench.judged import answered, interval
from impasto.bench.numbers import number_summary
from impasto.bench.results import Record
from impasto.score.imagine import PARTS, ImagineItem, picture_score, read_items
from impasto.score.statistics import Outcome, bootstrap
from impasto.spec import Spec
from impasto.zoo.registry import BENCHES

__all__ = ["GROUPS", "imagine", "imagine_bench", "imagine_summary"]

GROUPS = {
    "attribute shift": ("COLOR", "SHAPE", "SIZE"),
    "hybridization": ("MATERIAL", "COMBINATION"),
    "spatiotemporal": ("TIME", "ENVIRONMENT"),
    "multi-object": ("Multi-Object",),
}
WEIGHTS = {"attribute shift": 3, "hybridization": 2, "spatiotemporal": 2, "multi-object": 2}


def _group(kind: str) -> str:
    return next(name for name, kinds in GROUPS.items() if kind in kinds)


def imagine_summary(
    items: Sequence[ImagineItem], judged: Mapping[int, Sequence[float] | None],
    allow_incomplete: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Scores from 0 to 10 with intervals over prompts: overall, groups, and the coverage.

    The overall score is the weighted mean over groups, for a full set the mean over pictures; of
    an incomplete set that lacks a group there is none. Raises IncompleteError for unreadable or
    missing judgements unless `allow_incomplete`.
    """
    scores, coverage = answered(judged, len(items), allow_incomplete)
    rows = [Outcome(_group(item.kind), str(item.id), 0, picture_score(*scores[item.id]))
            for item in items if item.id in scores]  # fmt: skip
    groups = bootstrap(rows, bounds=(0, 10)).tasks
    whole = bootstrap([row._replace(task="all") for row in rows], bounds=(0, 10)).overall
    overall = None
    if set(groups) == set(GROUPS):
        value = sum(WEIGHTS[name] * groups[name].value for name in GROUPS) / 9
        moved = value - whole.value
        low, high = max(whole.low + moved, 0.0), min(whole.high + moved, 10.0)
        overall = interval(whole._replace(value=value, low=low, high=high))
    return {"coverage": coverage, "overall": overall,
            "groups": {name: interval(one) for name, one in groups.items()},
            "released_script": _released(items, judged)}  # fmt: skip


def _released(items: Sequence[ImagineItem], judged: Mapping[int, Sequence[float] | None]
              ) -> float | None:  # fmt: skip
    """The released script's overall: weights 3:2:2 over the groups that its table finds."""
    values: dict[str, list[float]] = {}
    for item in items:
        if item.id in judged:
            scores = judged[item.id]
            one = 0.0 if scores is None else picture_score(*scores)
            values.setdefault(_group(item.kind), []).append(one)
    found = [name for name in GROUPS if name != "multi-object" and name in values]
    if not found:
        return None
    total = sum(WEIGHTS[name] * sum(values[name]) / len(values[name]) for name in found)
    return total / sum(WEIGHTS[name] for name in found)


def _marks(record: Record) -> tuple[float, ...] | None:
    if record.number is None:
        return None
    if lacking := [part for part in PARTS if part not in record.scores]:
        raise ValueError(f"{record.filename} holds no marks for {', '.join(lacking)}; this bench "
                         f"needs the scorer imagine")  # fmt: skip
    return tuple(record.scores[part] for part in PARTS)


def _rule(records: Sequence[Record], items: Mapping[str, ImagineItem]) -> dict[str, Any]:
    judged = {items[r.spec.key].id: _marks(r) for r in records}
    found = imagine_summary([i for i in items.values() if i.id in judged], judged, True)
    label = "overall (3:2:2:2 over groups)" if found["overall"] else ""
    whole = number_summary(records, (0.0, 10.0), label, found["overall"])
    # Of the full set the weights 3:2:2:2 are the groups' shares of it.
    return whole | {"imagine": found} | ({"pooled": True} if found["overall"] else {})


def imagine_bench(items: Sequence[ImagineItem], name: str = "imagine") -> Bench:
    """The bench of these items; a prompt's task is its group, its key the item's id."""
    specs = tuple(Spec(tag=_group(item.kind), include=(), prompt=item.instruction,
                       key=str(item.id)) for item in items)  # fmt: skip
    return Bench(name=name, specs=specs, samples_per_prompt=1, scorer="", second="",
                 verdicts=False, rule=partial(_rule, items={str(i.id): i for i in items}))


@BENCHES.register("imagine")
def imagine(path: str = "") -> Bench:
    """Imagine-Bench's 270 fantasies, from its own file: path=FILE; judged by scorer imagine.

    Raises ValueError without a path, or for a file that is not the official one.
    """
    return imagine_bench(read_items(path))
