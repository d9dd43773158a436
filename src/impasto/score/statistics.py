"""How sure a score is: bootstrap over prompts, stratified by task.

    s = mean over tasks t of s_t,   s_t = sum of values / number of pictures, over t's prompts
    draw:   n_t - 1 of t's n_t prompts, with replacement, whole prompts with all their pictures
    95 %:   s + [2.5 %, 97.5 %] quantiles of (s* - E s*)

Pictures of one prompt are alike, so prompts are drawn, not pictures. n_t - 1 draws make the
bootstrap's variance unbiased (Rao & Wu, JASA 1988). A task where every prompt came out the same
would get an interval of no width, so the prompts drawn from are those of the task and half a
prompt more: a quarter at the lowest value and a quarter at the highest. For a paired difference
these are a quarter with one picture lost and a quarter with one picture won. Centring on the
draws' own mean takes the small pull of that half prompt out again; values have bounds, so
intervals are cut there.

Measured coverage of the overall score (nominal 0.95; beta-binomial prompts, correlation of one
prompt's pictures 0.4, task means .97 .6 .5 .8 .2 .3 / .99 .9 .85 .93 .9 .85 / .6 .1 .2 .5 .02 .03,
500 to 600 models each, so +- 0.02):

    prompts x pictures    this rule           percentile          basic
    553 x 4               .93  .96  .94       .94  .96  .94       .94  .95  .94
    48 x 1                .96  .95  .95       .92  .93  .91       .91  .83  .89
    48 x 4                .96  .99  .97       .94  .91  .93       .93  .90  .93
    12 x 4               1.00 1.00 1.00       .77  .63  .73       .77  .63  .73

    paired, no true difference: 553 x 4 .93 to .96; 48 x 1 .96 to .99; 48 x 4 .94 to .95;
    12 x 4 .99 to 1.00

The studentised bootstrap has infinite ends as soon as a draw shows no spread (at 48 x 1). Below
some eight prompts per task this rule is wide rather than wrong. One task alone, 90 x 4: .94 to .96
for means of .03 to .97 and above at .99, where the percentile rule covers .69.

A paired difference d of a task has a two-sided p of "no difference" by the same draws,

    p = 2 min( P(s* - E s* <= -d), P(s* - E s* >= -d) ),    one draw added to each count

below 0.05 where the interval excludes zero, and Holm's adjustment over the tasks asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Estimates",
    "Interval",
    "Outcome",
    "Prompts",
    "bootstrap",
    "holm",
    "paired_difference",
    "paired_prompts",
    "stratified_bootstrap",
]

DRAWS = 10_000
Floats = NDArray[np.float64]


class Outcome(NamedTuple):
    """One picture's value: a verdict as 0.0 or 1.0, or any other score."""

    task: str
    prompt: str
    sample: int
    value: float


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimates:
    """overall: the plain mean over tasks; tasks: each one's own.

    p: of a paired difference, each task's chance of one as large without a true difference.
    """

    overall: Interval
    tasks: Mapping[str, Interval]
    p: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompts:
    """One task's prompts. sums, numbers: (n,) sum of values and number of pictures of each."""

    sums: Floats
    numbers: Floats

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / self.numbers.sum())


def _draws(prompts: Prompts, low: float, high: float, draws: int, key: list[int]) -> Floats:
    """(draws,) deviations of the task's score from its mean, under resampling of prompts."""
    rows = np.stack([prompts.sums, prompts.numbers], axis=1)
    # Equal prompts are one cell of a multinomial: the same law as drawing them one by one, and
    # for verdicts some five cells instead of a hundred prompts.
    cells, weights = np.unique(rows, axis=0, return_counts=True)
    m = prompts.numbers.max()
    cells = np.concatenate([cells, [[low * m, m], [high * m, m]]])
    chances = np.concatenate([weights, [0.25, 0.25]])
    chances /= chances.sum()
    n = max(len(rows) - 1, 1)
    totals = np.random.default_rng(key).multinomial(n, chances, size=draws) @ cells
    expected = chances @ cells
    deviations: Floats = totals[:, 0] / totals[:, 1] - expected[0] / expected[1]
    return deviations


def stratified_bootstrap(
    tasks: Mapping[str, Prompts],
    extra: tuple[float, float],
    bounds: tuple[float, float],
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimates:
    """Intervals for each task and for their plain mean.

    extra: the two values of the half prompt added. bounds: between which intervals stay. A task's
    draws depend on `seed` and its name alone, not on the order or number of tasks.
    """
    return _estimates(tasks, _deviations(tasks, extra, draws, seed), bounds)


def _estimates(
    tasks: Mapping[str, Prompts], deviations: Floats, bounds: tuple[float, float]
) -> Estimates:
    """deviations: (tasks, draws)."""
    values = np.array([prompts.mean for prompts in tasks.values()])
    estimates = [
        _interval(float(value), row, bounds)
        for value, row in zip([values.mean(), *values],
                              [deviations.mean(axis=0), *deviations], strict=True)
    ]  # fmt: skip
    return Estimates(estimates[0], dict(zip(tasks, estimates[1:], strict=True)))


def _deviations(
    tasks: Mapping[str, Prompts], extra: tuple[float, float], draws: int, seed: int
) -> Floats:
    """(tasks, draws)."""
    return np.stack([
        _draws(prompts, *extra, draws, [seed, *task.encode()]) for task, prompts in tasks.items()
    ])  # fmt: skip


def _interval(value: float, deviations: Floats, bounds: tuple[float, float]) -> Interval:
    low, high = np.clip(value + np.quantile(deviations, [0.025, 0.975]), *bounds)
    return Interval(value, float(low), float(high))


def _two_sided(value: float, deviations: Floats) -> float:
    """The chance of a difference as far from 0 as `value`, to either side, when there is none."""
    slack = 1e-12  # draws equal to the value but for rounding count as reaching it
    below, above = (deviations <= -value + slack).sum(), (deviations >= -value - slack).sum()
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + len(deviations))))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for their number: at 0.05, one false one among all in 20 times at most.

    p'_(i) = max over j <= i of min(1, (m - j + 1) p_(j)),   p_(1) <= ... <= p_(m)

    Needs nothing of how they depend on each other (Holm, Scand. J. Statist. 6:65, 1979).
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for j, key in enumerate(sorted(p, key=lambda key: p[key])):
        largest = max(largest, min(1.0, (len(p) - j) * p[key]))
        adjusted[key] = largest
    return {key: adjusted[key] for key in p}


def _grouped(outcomes: Sequence[Outcome]) -> dict[str, Prompts]:
    """Task -> its prompts, both in order of first appearance."""
    values: dict[str, dict[str, list[float]]] = {}
    for task, prompt, _, value in outcomes:
        values.setdefault(task, {}).setdefault(prompt, []).append(value)
    return {
        task: Prompts(np.array([sum(v) for v in prompts.values()], dtype=float),
                      np.array([len(v) for v in prompts.values()], dtype=float))
        for task, prompts in values.items()
    }  # fmt: skip


def _range(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Lowest and highest value: 0 and 1 for verdicts, else those that occur."""
    values = {outcome.value for outcome in outcomes}
    if not values:
        raise ValueError("no outcomes: there is nothing to estimate")
    return (0.0, 1.0) if values <= {0.0, 1.0} else (min(values), max(values))


def bootstrap(
    outcomes: Sequence[Outcome], draws: int = DRAWS, seed: int = 0,
    bounds: tuple[float, float] | None = None,
) -> Estimates:  # fmt: skip
    """Scores of one run with their intervals. Raises ValueError when there are no outcomes.

    bounds: lowest and highest value that the scale has; default 0 and 1 for verdicts, else those
    that occur.
    """
    occurring = _range(outcomes)
    bounds = bounds or occurring
    return stratified_bootstrap(_grouped(outcomes), bounds, bounds, draws, seed)


def _by_place(outcomes: Sequence[Outcome], name: str) -> dict[tuple[str, str, int], float]:
    places = {(o.task, o.prompt, o.sample): o.value for o in outcomes}
    if len(places) < len(outcomes):
        raise ValueError(f"{name} has {len(outcomes) - len(places)} outcome(s) of a prompt and "
                         f"sample that it has already; keep one of each")  # fmt: skip
    return places


def paired_prompts(
    a: Sequence[Outcome], b: Sequence[Outcome]
) -> tuple[dict[str, Prompts], float]:
    """Task -> its prompts with b - a as values; and the step that one picture is of a prompt's.

    Raises ValueError unless both runs have the same prompts and samples.
    """
    first, second = _by_place(a, "the first run"), _by_place(b, "the second run")
    if alone := sorted(first.keys() ^ second.keys()):
        task, prompt, sample = alone[0]
        raise ValueError(
            f"{len(alone)} of the pictures are in one run only, such as sample {sample} of "
            f"{prompt} ({task}); compare runs of the same bench, or the part that they share"
        )
    low, high = _range([*a, *b])
    tasks = _grouped([Outcome(*place, second[place] - value) for place, value in first.items()])
    return tasks, (high - low) / max(prompts.numbers.max() for prompts in tasks.values())


def paired_difference(
    a: Sequence[Outcome], b: Sequence[Outcome], draws: int = DRAWS, seed: int = 0
) -> Estimates:
    """Scores of b minus scores of a, paired by prompt and sample, with intervals and p of tasks.

    Sample k of a prompt has the same seed in both runs when their run seeds agree: that is the
    caller's to check. Raises ValueError unless both runs have the same prompts and samples.
    """
    tasks, step = paired_prompts(a, b)
    low, high = _range([*a, *b])
    rows = _deviations(tasks, (-step, step), draws, seed)
    estimates = _estimates(tasks, rows, (low - high, high - low))
    p = {task: _two_sided(prompts.mean, row)
         for (task, prompts), row in zip(tasks.items(), rows, strict=True)}  # fmt: skip
    return replace(estimates, p=p)
