"""What the pictures of a judged run are worth, in the numbers that its bench is scored by.

    a bench of verdicts    right 1, wrong 0            overall: the mean over tasks
    a bench of numbers     on its own scale            overall: the same
    a bench of answers     Soft-TIFA's GM and AM       overall: the mean over all prompts

A run tells by its summary which it is; "pooled" there: a mean over all prompts, whatever the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from impasto.bench import Record, outcomes, read_results
from impasto.run.directory import RunDirectory, read_json
from impasto.score.statistics import Estimates, Outcome, bootstrap, paired_difference
from impasto.score.tifa import means_of

__all__ = ["difference_of", "estimated", "is_pooled", "pooled", "score_values", "soft_values"]


def soft_values(run: RunDirectory, records: Sequence[Record]) -> dict[str, list[Outcome]]:
    """ "gm" and "am" of each picture by the run's answers; {} for a bench of verdicts."""
    if "soft_tifa" not in read_json(run.summary):
        return {}
    means = [means_of(record.objects) for record in records]
    return {name: [Outcome(r.tag, r.metadata, r.sample, getattr(mean, name))
                   for r, mean in zip(records, means, strict=True)]
            for name in ("gm", "am")}  # fmt: skip


def score_values(run: RunDirectory) -> list[Outcome]:
    """The values whose mean over tasks is the run's overall score."""
    records = read_results(run.results)
    soft = soft_values(run, records)
    values = soft["gm"] if soft else outcomes(records)
    return pooled(values) if soft or is_pooled(run) else values


def is_pooled(run: RunDirectory) -> bool:
    """Whether the run's overall score is the mean over all prompts."""
    return bool(read_json(run.summary).get("pooled"))


def pooled(values: Sequence[Outcome]) -> list[Outcome]:
    """The values with all prompts as one task."""
    return [value._replace(task="all") for value in values]


def estimated(values: Sequence[Outcome]) -> Estimates:
    """The score of values in [0, 1], with its interval."""
    return bootstrap(values, bounds=(0.0, 1.0))


def difference_of(a: Sequence[Outcome], b: Sequence[Outcome]) -> Estimates:
    """b minus a, paired: each task, and overall over all prompts."""
    overall = paired_difference(pooled(a), pooled(b)).overall
    return replace(paired_difference(a, b), overall=overall)
