"""Runs of one bench that differ in their seed alone, as one: prompts with more pictures each.

    picture j of the run with the i-th seed   =   sample i S + j of the prompt,   S = samples a run

so intervals are over prompts, as a run's own are, and differences are paired by prompt and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

from impasto.bench import read_results
from impasto.run.compare import check_comparable, finished
from impasto.run.directory import RunDirectory, read_json
from impasto.run.judge import read_second
from impasto.run.values import difference_of, estimated, is_pooled, score_values
from impasto.sample.protocol import Cost
from impasto.score.statistics import Estimates, Outcome, bootstrap, paired_difference

__all__ = ["cost_of", "difference", "over_seeds", "score", "second_difference", "second_score",
           "second_values"]  # fmt: skip

Runs = Sequence[RunDirectory]


def second_values(run: RunDirectory) -> list[Outcome]:
    """The second scorer's value of each picture; [] where the run has none."""
    values = read_second(run.second)
    return [Outcome(r.tag, r.metadata, r.sample, values[r.filename])
            for r in read_results(run.results) if values]  # fmt: skip


def over_seeds(
    runs: Runs, values: Callable[[RunDirectory], list[Outcome]] = score_values
) -> list[Outcome]:
    """The values of all runs' pictures. Raises IncompleteError for an unfinished run."""
    found: list[Outcome] = []
    for i, run in enumerate(runs):
        samples = finished(run).record["bench"]["samples_per_prompt"]
        found += [one._replace(sample=i * samples + one.sample) for one in values(run)]
    return found


def score(runs: Runs) -> Estimates:
    """The score of all pictures, with intervals over prompts."""
    values = over_seeds(runs)
    unit = all(0 <= one.value <= 1 for one in values)
    return estimated(values) if unit else bootstrap(values)


def second_score(runs: Runs) -> Estimates | None:
    """The second score; None where there is none."""
    values = over_seeds(runs, second_values)
    return bootstrap(values) if values else None


def difference(a: Runs, b: Runs) -> Estimates:
    """Score of b minus that of a, paired by prompt and seed.

    Raises ValueError for other seeds, SettingsDiffer for other benches or judges.
    """
    _check_paired(a, b)
    differ = difference_of if is_pooled(a[0]) else paired_difference
    return differ(over_seeds(a), over_seeds(b))


def second_difference(a: Runs, b: Runs) -> Estimates | None:
    """The same of the second score; None where there is none."""
    _check_paired(a, b)
    values = over_seeds(a, second_values), over_seeds(b, second_values)
    return paired_difference(*values) if all(values) else None


def _check_paired(a: Runs, b: Runs) -> None:
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} runs cannot be paired; give the same seeds")
    for first, second in zip(a, b, strict=True):
        check_comparable(first, second)


def cost_of(runs: Runs) -> dict[str, float | None]:
    """What each picture kept has cost, by the fields of `Cost`; None where it is not known."""
    costs = [read_json(run.cost) for run in runs]
    kept = sum(read_json(run.summary)["images"] for run in runs)
    names = [field.name for field in fields(Cost)]
    return {name: None if any(cost.get(name) is None for cost in costs) else
            sum(cost[name] for cost in costs) / kept for name in names}  # fmt: skip
