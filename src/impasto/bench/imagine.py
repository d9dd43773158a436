"""Imagine-Bench (Ye et al. 2025, Echo-4o, arXiv 2508.09987): 270 fantasies, one picture each.

    picture   0.8 * min(fantasy, identity) + 0.2 * aesthetic      scores 0 to 10, 3 decimals
    overall   (3 A + 2 H + 2 S + 2 M) / 9                         means of the four groups

    A attribute shift: COLOR, SHAPE, SIZE       S spatiotemporal: TIME, ENVIRONMENT
    H hybridization: MATERIAL, COMBINATION      M Multi-Object

The released script's table calls the last group TWO_OBJECT, a type that no item has, so its
number leaves 60 of 270 items out: given beside ours as "released_script", which also counts
unreadable answers as 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from impasto.bench.judged import answered, interval
from impasto.score.judges.base import Judge, Question
from impasto.score.judges.parse import asked, labelled
from impasto.score.judges.prompts import fill, read_template
from impasto.score.statistics import Outcome, bootstrap

__all__ = ["GROUPS", "METRICS", "OWN_PROMPT", "ImagineItem", "imagine_summary", "judge_imagine",
           "picture_score", "read_items"]  # fmt: skip

SHA256 = "e22e33dd5e2722b9fedfb7ecddeb56841ec6ea93b3f0246a04d8dd374ab5a19e"
SOURCE = "https://github.com/yejy53/Echo-4o"
METRICS = ("Fantasy Fulfillment", "Identity Preservation", "Aesthetic Quality")
GROUPS = {
    "attribute shift": ("COLOR", "SHAPE", "SIZE"),
    "hybridization": ("MATERIAL", "COMBINATION"),
    "spatiotemporal": ("TIME", "ENVIRONMENT"),
    "multi-object": ("Multi-Object",),
}
WEIGHTS = {"attribute shift": 3, "hybridization": 2, "spatiotemporal": 2, "multi-object": 2}
OWN_PROMPT = """You grade a picture that was drawn for this request: <<instruction>>
What the request changes, and what must stay recognisable: <<note>>
Give three whole numbers from 0 (not at all) to 10 (perfect), each on a line of its own:
Fantasy Fulfillment: is the unusual change there, as it was asked for?
Identity Preservation: can the thing still be recognised, drawn as in a photo?
Aesthetic Quality: is the picture well made?"""
"""Impasto's own wording: scores by it are not comparable with published ones."""


@dataclass(frozen=True)
class ImagineItem:
    """instruction: the prompt. note: what changes and what must stay. kind: the file's type."""

    id: int
    instruction: str
    note: str
    kind: str


def read_items(path: str | Path) -> tuple[ImagineItem, ...]:
    """The official file's 270 items. Raises ValueError for any other content."""
    data = Path(path).read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != SHA256:
        raise ValueError(f"{path} has sha256 {digest}, Imagine-Bench's file has {SHA256}; get it "
                         f"from {SOURCE}")  # fmt: skip
    rows = [json.loads(line) for line in data.decode().splitlines()]
    return tuple(ImagineItem(r["id"], r["instruction"], r["note"], r["type"]) for r in rows)


def picture_score(fantasy: int, identity: int, aesthetic: int) -> float:
    """0.8 min(fantasy, identity) + 0.2 aesthetic, to 3 decimals."""
    return round(0.8 * min(fantasy, identity) + 0.2 * aesthetic, 3)


def judge_imagine(
    items: Sequence[ImagineItem], pictures: Mapping[int, Tensor], judge: Judge,
    prompt: str | Path = "",
) -> dict[int, tuple[int, ...] | None]:  # fmt: skip
    """Item id -> its three scores, or None where no answer could be read.

    pictures: id -> (3, H, W). prompt: file with the places <<instruction>> and <<note>>, such as
    the official text; else `OWN_PROMPT`.
    """
    template = read_template(prompt, ("instruction", "note")) if prompt else OWN_PROMPT
    scores = {}
    for item in items:
        if item.id in pictures:
            text = fill(template, instruction=item.instruction, note=item.note)
            question = Question((pictures[item.id],), text)
            read = partial(labelled, names=METRICS)
            scores[item.id] = asked(judge, question, read, max_tokens=1024)
    return scores


def _group(kind: str) -> str:
    return next(name for name, kinds in GROUPS.items() if kind in kinds)


def imagine_summary(
    items: Sequence[ImagineItem], judged: Mapping[int, tuple[int, ...] | None],
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


def _released(items: Sequence[ImagineItem], judged: Mapping[int, tuple[int, ...] | None]
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
