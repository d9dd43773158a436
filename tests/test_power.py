"""Prompts needed: against statsmodels, by hand, and by simulation of the comparison itself."""

import numpy as np
import pytest

from impasto.score.power import (
    paired_spread,
    plan,
    prompts_needed,
    smallest_difference,
    spread_of_score,
)
from impasto.score.statistics import Outcome, paired_difference


@pytest.mark.parametrize("effect, n", [(0.04, 4905.54), (0.1, 784.886), (0.3, 87.2096)])
def test_prompts_are_those_of_statsmodels(effect, n):
    # statsmodels 0.14: NormalIndPower(ddof=0).solve_power(effect, alpha=.05, power=.8, ratio=0)
    assert prompts_needed(1.0, effect) == np.ceil(n)
    assert prompts_needed(0.5, effect / 2) == np.ceil(n)


def test_the_smallest_difference_is_that_of_statsmodels():
    assert smallest_difference(1.0, 553) == pytest.approx(0.1191355, rel=1e-5)
    assert prompts_needed(1.0, smallest_difference(1.0, 553)) in (553, 554)


def test_the_assumed_spread_by_hand():
    # p = .5, q = .6: .25 + .24 = .49.
    assert spread_of_score(0.5, 0.1) == pytest.approx(0.7)
    assert spread_of_score(0.98, 0.1) == pytest.approx((0.98 * 0.02) ** 0.5)
    with pytest.raises(ValueError, match="the score is 2"):
        spread_of_score(2, 0.1)


def test_the_paired_spread_by_hand():
    # Task a: 4 prompts with differences 1, 0, 0, -1: with +1 and -1 at a quarter each the mean is
    # 0 and the variance 2.5 / 4.5 x 4 / 3 = .7407; b: 2 prompts of 0: .5 / 2.5 x 2 = .4.
    # n = 6: (.7407 x 6 / 4 + .4 x 6 / 2) / 2^2 = .57778.
    a = [Outcome("a", str(i), 0, v) for i, v in enumerate((0.0, 1.0, 0.0, 1.0))]
    b = [Outcome("a", str(i), 0, v) for i, v in enumerate((1.0, 1.0, 0.0, 0.0))]
    same = [Outcome("b", str(i), 0, 1.0) for i in range(2)]
    assert paired_spread(a + same, b + same) ** 2 == pytest.approx(0.577778, rel=1e-5)


def test_impossible_questions_are_refused():
    for x in (0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="give one above 0"):
            prompts_needed(1.0, x)
    with pytest.raises(ValueError, match="between 0 and 1"):
        prompts_needed(1.0, 0.1, power=1.0)


SHARES, BASE, BETTER = (0.3, 0.5, 0.2), (0.3, 0.6, 0.8), (0.42, 0.72, 0.92)


def pair(rng, n):
    """Two runs of n prompts in three tasks, the second truly .12 better, pictures correlated."""
    a, b = [], []
    for task, (share, p, q) in enumerate(zip(SHARES, BASE, BETTER, strict=True)):
        for prompt in range(round(n * share)):
            shared = rng.random(2)
            for sample in range(2):
                # Half of what decides a picture is its prompt's, the same in both runs.
                u = shared[sample] if rng.random() < 0.5 else rng.random(2)[sample]
                w = u if rng.random() < 0.6 else rng.random()
                a.append(Outcome(str(task), str(prompt), sample, float(u < p)))
                b.append(Outcome(str(task), str(prompt), sample, float(w < q)))
    return a, b


def test_as_many_prompts_as_promised_show_the_difference_four_times_in_five():
    rng = np.random.default_rng(3)
    spread = paired_spread(*pair(rng, 3000))
    n = prompts_needed(spread, 0.12)
    assert 60 < n < 250
    shown = [paired_difference(*pair(rng, n), draws=400).overall.low > 0 for _ in range(300)]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.06)
    fewer = [paired_difference(*pair(rng, n // 4), draws=400).overall.low > 0 for _ in range(100)]
    assert np.mean(fewer) < 0.45


def test_a_plan_says_what_is_needed_and_what_there_is():
    found = plan(1.0, 0.1, 553, "a guess").to_dict()
    assert found["prompts"] == 785 and found["have"] == 553 and found["basis"] == "a guess"
    assert found["smallest"] == pytest.approx(0.1191355, rel=1e-4)
    assert (found["alpha"], found["power"], found["x"]) == (0.05, 0.8, 0.1)
