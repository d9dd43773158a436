"""Summary of results that are numbers: a task's score is the mean of its values.

overall = plain mean of the task scores, or the mean over all prompts: each bench says which

Intervals: 95 %, bootstrap over prompts (`impasto.score.statistics`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from impasto.bench.judged import interval
from impasto.bench.results import Record, outcomes
from impasto.score.statistics import bootstrap

__all__ = ["number_summary"]


def number_summary(
    records: Sequence[Record], scale: tuple[float, float], label: str = "",
    overall: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """images, prompts, images_per_prompt, scale, tasks (score, low, high, images) and overall.

    Of the readable ones alone. scale: lowest and highest value. label, overall: what the overall
    score is and its score, low and high, where it is not the plain mean over the tasks. Raises
    ValueError for no records.
    """
    records = [record for record in records if record.number is not None]
    if not records:
        raise ValueError("no results: there is nothing to sum up")
    prompts = Counter(record.metadata for record in records)
    images = Counter(record.tag for record in records)
    found = bootstrap(outcomes(records), bounds=scale)
    mean = f"mean of {len(images)} task{'s' * (len(images) != 1)}"
    return {
        "images": len(records),
        "prompts": len(prompts),
        "images_per_prompt": [min(prompts.values()), max(prompts.values())],
        "scale": list(scale),
        "tasks": {task: interval(found.tasks[task]) | {"images": n} for task, n in images.items()},
        "overall": {"label": label or mean, **(overall or interval(found.overall)),
                    "tasks": list(images)},
    }  # fmt: skip
