"""How Soft-TIFA's probabilities are summed up.

    prompt      AM, GM over its questions, mean over its pictures      `impasto.score.tifa`
    bench       100 * mean over prompts of GM (headline) and of AM
    skill       100 * mean over all questions of that skill
    atomicity   100 * mean GM of the prompts with that many atoms

Source: Kamath et al. 2025 (GenEval 2), arXiv 2512.16853, section 4. "tasks" and "overall" hold GM
in [0, 1], with intervals over prompts; "correct" counts pictures with every answer right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from impasto.bench.results import Record
from impasto.bench.summary import summarise
from impasto.score.statistics import Estimates, Interval, Outcome, bootstrap
from impasto.score.tifa import Ask, probabilities, soft_tifa
from impasto.spec import Spec

__all__ = ["percent", "tifa_summary"]

LABEL = "overall (Soft-TIFA GM)"


def percent(interval: Interval) -> dict[str, float]:
    """An interval in [0, 1] as score, low and high in [0, 100]."""
    return {"score": 100 * interval.value, "low": 100 * interval.low, "high": 100 * interval.high}


def _plain(interval: Interval) -> dict[str, float]:
    return {"score": interval.value, "low": interval.low, "high": interval.high}


def _estimates(rows: Sequence[Outcome]) -> Estimates:
    return bootstrap(rows, bounds=(0.0, 1.0))


def _pooled(rows: Sequence[Outcome]) -> Interval:
    """The mean over prompts, whatever their task."""
    return _estimates([row._replace(task="all") for row in rows]).overall


def tifa_summary(
    records: Sequence[Record], asks_of: Callable[[Spec], Sequence[Ask]],
    atoms_of: Callable[[Spec], int],
) -> dict[str, Any]:  # fmt: skip
    """GenEval's tables, with Soft-TIFA's numbers as "tasks" and "overall" and in "soft_tifa".

    Raises ValueError for records whose details hold no answers to these questions.
    """
    am, gm, atoms, skills = [], [], [], []
    for r in records:
        asks = asks_of(r.spec)
        p = probabilities(r.objects, asks)
        means = soft_tifa(p)
        am.append(Outcome(r.tag, r.metadata, r.sample, means.am))
        gm.append(Outcome(r.tag, r.metadata, r.sample, means.gm))
        atoms.append(gm[-1]._replace(task=str(atoms_of(r.spec))))
        skills += [am[-1]._replace(task=ask.skill, value=v)
                   for ask, v in zip(asks, p, strict=True)]  # fmt: skip
    base = summarise(records)
    by_task = _estimates(gm).tasks
    return base | {
        "tasks": {task: row | _plain(by_task[task]) for task, row in base["tasks"].items()},
        "overall": {"label": LABEL, **_plain(_pooled(gm)), "tasks": list(base["tasks"])},
        "soft_tifa": {
            "gm": percent(_pooled(gm)),
            "am": percent(_pooled(am)),
            "skills": {k: percent(v) for k, v in sorted(_estimates(skills).tasks.items())},
            "atomicity": {k: percent(v) for k, v in
                          sorted(_estimates(atoms).tasks.items(), key=lambda kv: int(kv[0]))},
        },
    }  # fmt: skip
