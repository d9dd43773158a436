"""DPG-Bench (Hu et al. 2024, ELLA, arXiv 2403.05135): 1065 dense prompts, four pictures each.

    crop      mean over questions after zeroing (`impasto.score.dpg`)
    image     mean over its crops                    bench   100 * mean over images
    category  100 * mean over its questions, all crops, after zeroing

compatible=true is the released code with its defects: category scores from the last crop only and
before zeroing (ELLA issue 60), and the file's first row unread, so that its item lacks a
proposition and, where others depend on that, is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from impasto.bench.base import Bench
from impasto.bench.results import Record
from impasto.bench.summary import summarise
from impasto.bench.tifa_summary import percent
from impasto.score.dpg import DpgItem, Proposition, cascaded, read_items
from impasto.score.statistics import Outcome, bootstrap
from impasto.spec import Spec
from impasto.zoo.registry import BENCHES

__all__ = ["dpg", "dpg_bench"]

TAG = "dense"


def _answers(record: Record, item: DpgItem) -> dict[int, float] | None:
    """Proposition id -> answer; None where one could not be read."""
    rows = {one.id: record.objects.get(str(one.id)) for one in item.propositions}
    if any(row is None for row in rows.values()):
        raise ValueError(f"{record.filename} holds no answers to DPG-Bench's questions; take the "
                         f"scorer dpg")  # fmt: skip
    if not all(rows.values()):
        return None
    return {key: row[0][4] for key, row in rows.items() if row}


def _released(item: DpgItem, first: bool) -> DpgItem | None:
    """The item as the released code has it; None where it drops it."""
    kept = item.propositions[1:] if first else item.propositions
    ids = {one.id for one in kept}
    if not kept or any(p not in ids for one in kept for p in one.parents):
        return None
    return replace(item, propositions=kept)


def _seen(items: Sequence[DpgItem], compatible: bool) -> dict[str, DpgItem]:
    """Prompt -> item with the propositions that count."""
    rows = [_released(item, i == 0) if compatible else item for i, item in enumerate(items)]
    return {item.prompt: item for item in rows if item is not None}


Crop = tuple[DpgItem, dict[int, float]]


def _crops(records: Sequence[Record], seen: Mapping[str, DpgItem]
           ) -> tuple[dict[str, list[Crop]], int]:  # fmt: skip
    """Prompt -> its readable crops in order, and the number of unreadable ones."""
    crops: dict[str, list[Crop]] = {}
    unreadable = 0
    for record in sorted(records, key=lambda r: r.sample):
        if (item := seen.get(record.prompt)) is None:
            continue
        answers = _answers(record, item)
        if answers is None:
            unreadable += 1
        else:
            crops.setdefault(record.prompt, []).append((item, answers))
    return crops, unreadable


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)


def _image(crops: Sequence[Crop]) -> float:
    scores = [_mean(cascaded(item.propositions, answers)) for item, answers in crops]
    return sum(scores) / len(scores)


def _by_category(crops: Mapping[str, Sequence[Crop]], compatible: bool, broad: bool
                 ) -> dict[str, dict[str, float]]:  # fmt: skip
    def name(one: Proposition) -> str:
        return one.broad if broad else one.category

    rows = [Outcome(name(one), prompt, i, values[one.id])
            for prompt, every in crops.items()
            for i, (item, answers) in enumerate(every[-1:] if compatible else every)
            for values in [answers if compatible else cascaded(item.propositions, answers)]
            for one in item.propositions]  # fmt: skip
    tasks = bootstrap(rows, bounds=(0.0, 1.0)).tasks
    return {task: percent(tasks[task]) for task in sorted(tasks)}


def _rule(records: Sequence[Record], items: Sequence[DpgItem], compatible: bool
          ) -> dict[str, Any]:  # fmt: skip
    crops, unreadable = _crops(records, _seen(items, compatible))
    if not crops:
        raise ValueError("no picture has readable answers to all its questions: no DPG score")
    rows = [Outcome(TAG, prompt, 0, _image(every)) for prompt, every in crops.items()]
    score = bootstrap(rows, bounds=(0.0, 1.0)).overall
    base = summarise(records)
    plain = {"score": score.value, "low": score.low, "high": score.high}
    label = "DPG score" + (f" ({unreadable} pictures unreadable)" if unreadable else "")
    return base | {
        "tasks": {TAG: base["tasks"][TAG] | plain},
        "overall": {"label": label, **plain, "tasks": [TAG]},
        "dpg": {"score": percent(score), "compatible": compatible, "images": len(rows),
                "unreadable_pictures": unreadable,
                "broad": _by_category(crops, compatible, broad=True),
                "detailed": _by_category(crops, compatible, broad=False)},
    }  # fmt: skip


def dpg_bench(items: Sequence[DpgItem], compatible: bool = False, name: str = "dpg") -> Bench:
    """The bench of these items; judged by scorer dpg."""
    specs = tuple(Spec(tag=TAG, include=(), prompt=item.prompt) for item in items)
    return Bench(name=name, specs=specs, scorer="",
                 rule=partial(_rule, items=tuple(items), compatible=compatible))  # fmt: skip


@BENCHES.register("dpg")
def dpg(path: str = "", compatible: bool = False) -> Bench:
    """DPG-Bench's dense prompts, from its own file: path=dpg_bench.csv; judged by scorer dpg.

    compatible: with the released code's defects. Raises ValueError without a path or for a file
    of another shape.
    """
    name = "dpg:compatible=true" if compatible else "dpg"
    return dpg_bench(read_items(path), compatible, name)
