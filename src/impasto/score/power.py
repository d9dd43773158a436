"""How many prompts show a difference: the power of a paired comparison.

    S = mean over tasks t of d_t,      d_t = mean of n_t prompts' differences, variance v_t
    Var S = 1/T^2 sum_t v_t / n_t  =  spread^2 / n      at shares n_t / n that stay as they are
    n = ((z_{1 - alpha/2} + z_{power}) spread / x)^2           prompts to see a difference of x

The usual normal formula for a mean (Lachin, Controlled Clinical Trials 2:93, 1981), for paired
evaluations as Miller, "Adding error bars to evals", arXiv 2411.00640, 2024. It counts prompts of a
bench with the same shares of tasks and the same number of pictures each.

v_t is the variance of the run pair's own per-prompt differences. As in the bootstrap of
`impasto.score.statistics`, half a prompt is added, a quarter with one picture lost and a quarter
with one won, so that a task where nothing differed is not taken for one where nothing can.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from impasto.score.statistics import Floats, Outcome, paired_prompts

__all__ = ["ALPHA", "POWER", "Power", "paired_spread", "plan", "prompts_needed",
           "smallest_difference", "spread_of_score"]  # fmt: skip

ALPHA, POWER = 0.05, 0.8


def _reach(alpha: float, power: float) -> float:
    """z_{1 - alpha/2} + z_{power}."""
    if not (0 < alpha < 1 and 0 < power < 1):
        raise ValueError(f"alpha {alpha} and power {power} must lie between 0 and 1")
    return NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)


def prompts_needed(spread: float, x: float, alpha: float = ALPHA, power: float = POWER) -> int:
    """Prompts, over all tasks, with which a true difference of x is seen with chance `power`.

    spread: as `paired_spread` gives it. Raises ValueError for an x that is not positive.
    """
    if not (math.isfinite(x) and x > 0):
        raise ValueError(f"the difference to be seen is {x}; give one above 0, such as 0.02")
    return max(math.ceil((_reach(alpha, power) * spread / x) ** 2), 1)


def smallest_difference(
    spread: float, prompts: int, alpha: float = ALPHA, power: float = POWER
) -> float:
    """The true difference that so many prompts show with chance `power`."""
    return _reach(alpha, power) * spread / math.sqrt(prompts)


def _variance(differences: Floats, step: float) -> float:
    """Of one task's per-prompt differences and half a prompt more; step: of one picture."""
    values = np.append(differences, [-step, step])
    weights = np.append(np.ones(len(differences)), [0.25, 0.25])
    mean = np.average(values, weights=weights)
    # n / (n - 1) for the prompts there are; a prompt alone has no second to differ from.
    bessel = len(differences) / max(len(differences) - 1, 1)
    return float(np.average((values - mean) ** 2, weights=weights) * bessel)


def paired_spread(a: Sequence[Outcome], b: Sequence[Outcome]) -> float:
    """sqrt(n Var S) of b - a, from the pair's own per-prompt differences.

    Raises ValueError unless both have the same prompts and samples.
    """
    tasks, step = paired_prompts(a, b)
    n = sum(len(task.sums) for task in tasks.values())
    terms = [_variance(task.sums / task.numbers, step) * n / len(task.sums)
             for task in tasks.values()]  # fmt: skip
    return math.sqrt(sum(terms)) / len(tasks)


def spread_of_score(score: float, x: float) -> float:
    """The spread to expect of a run that scores `score` and another that scores x more.

    sqrt(p (1 - p) + q (1 - q)), q = min(p + x, 1): prompts shared equally by the tasks, one
    picture each and nothing in common between the runs. Pairing and more pictures make it
    smaller, so the prompts counted by it are enough. Raises ValueError for no score in [0, 1].
    """
    if not 0 <= score <= 1:
        raise ValueError(f"the score is {score}; give one from 0 to 1")
    q = min(score + x, 1.0)
    return math.sqrt(score * (1 - score) + q * (1 - q))


@dataclass(frozen=True)
class Power:
    """prompts: that show a difference of x in the overall score. have: that were drawn.

    smallest: the difference that those show. basis: what the spread was taken from.
    """

    x: float
    alpha: float
    power: float
    basis: str
    spread: float
    prompts: int
    have: int
    smallest: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan(spread: float, x: float, have: int, basis: str) -> Power:
    """Prompts needed for a difference of x, beside what the `have` ones that there are show."""
    return Power(x, ALPHA, POWER, basis, spread, prompts_needed(spread, x), have,
                 smallest_difference(spread, have))  # fmt: skip
