"""Intervals that cover: simulated models, small sets, pairs."""

import numpy as np
import pytest

from impasto.score.statistics import (
    Interval,
    Outcome,
    Prompts,
    bootstrap,
    holm,
    paired_difference,
    stratified_bootstrap,
)

SIZES = (80, 99, 80, 94, 100, 100)
MEANS = (0.97, 0.6, 0.5, 0.8, 0.2, 0.3)


def simulated(rng, sizes, images, means=MEANS, likeness=0.4):
    """(chances, correct pictures) of each task's prompts; beta prompts correlate their pictures.

    likeness: the correlation of two pictures of one prompt.
    """
    spread = (1 - likeness) / likeness
    for n, mean in zip(sizes, means, strict=True):
        chances = rng.beta(mean * spread, (1 - mean) * spread, n)
        yield chances, rng.binomial(images, chances)


def as_prompts(values, images):
    return Prompts(np.asarray(values, float), np.full(len(values), float(images)))


def coverage(sizes, images, models, paired=False, draws=600, means=MEANS):
    """Share of simulated models whose true score, or true difference of 0, is in the interval."""
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(models):
        tasks = {}
        for i, (p, k) in enumerate(simulated(rng, sizes, images, means)):
            tasks[str(i)] = as_prompts(rng.binomial(images, p) - k if paired else k, images)
        step = 1 / images
        extra, bounds = ((-step, step), (-1.0, 1.0)) if paired else ((0.0, 1.0), (0.0, 1.0))
        _, low, high = stratified_bootstrap(tasks, extra, bounds, draws).overall
        hits += low <= (0.0 if paired else np.mean(means)) <= high
    return hits / models


def test_intervals_cover_geneval_sized_runs():
    assert 0.93 <= coverage(SIZES, images=4, models=1000) <= 0.97


def test_intervals_cover_paired_differences():
    assert 0.93 <= coverage(SIZES, images=4, models=1000, paired=True) <= 0.97


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(("per_task", "images"), [(8, 1), (8, 4), (2, 4)])
def test_small_sets_err_on_the_wide_side(per_task, images, paired):
    assert coverage((per_task,) * 6, images, models=400, paired=paired) >= 0.925


def outcomes(values, task="t"):
    """values: (prompts, samples)."""
    return [Outcome(task, str(p), k, float(v))
            for p, row in enumerate(values) for k, v in enumerate(row)]  # fmt: skip


def test_the_interval_is_that_of_prompts_not_of_pictures():
    rng = np.random.default_rng(0)
    alike = np.repeat(rng.random((100, 1)) < 0.5, 4, axis=1)
    apart = rng.permutation(alike.ravel()).reshape(100, 4)
    wide, narrow = (bootstrap(outcomes(v)).overall for v in (alike, apart))
    assert wide.value == narrow.value
    # Four equal pictures say no more than one: half-width 1.96 * 0.5 / 10, not / 20.
    assert wide.high - wide.low == pytest.approx(2 * 0.098, rel=0.06)
    assert narrow.high - narrow.low == pytest.approx(0.098, rel=0.15)


def test_resampling_stays_inside_tasks():
    # Tasks that are wholly right or wrong differ a lot; drawn across tasks this would be noise.
    parts = [*outcomes(np.ones((50, 4)), "a"), *outcomes(np.zeros((50, 4)), "b")]
    estimates = bootstrap(parts)
    assert estimates.overall.value == 0.5
    assert estimates.overall.high - estimates.overall.low < 0.04
    assert list(estimates.tasks) == ["a", "b"]


def test_overall_weighs_tasks_not_pictures():
    parts = [*outcomes(np.ones((90, 4)), "a"), *outcomes(np.zeros((10, 1)), "b")]
    assert bootstrap(parts).overall.value == 0.5


@pytest.mark.parametrize("prompts", [1, 2, 8, 80])
def test_all_right_is_not_certain(prompts):
    value, low, high = bootstrap(outcomes(np.ones((prompts, 4)))).overall
    assert (value, high) == (1.0, 1.0)
    assert 0 <= low < 1 - 1 / (4 * prompts)


def test_the_same_call_gives_the_same_numbers_in_any_order():
    rng = np.random.default_rng(1)
    a, b = (outcomes(rng.random((30, 4)) < 0.6, task) for task in "ab")
    one, two = bootstrap([*a, *b]), bootstrap([*b, *a])
    assert one.tasks == {"a": two.tasks["a"], "b": two.tasks["b"]}
    assert bootstrap(a).overall == one.tasks["a"]
    c = outcomes(rng.random((30, 4)))
    assert bootstrap(c, seed=1).overall != bootstrap(c).overall == bootstrap(c).overall


def test_uneven_prompts_are_weighed_by_their_pictures():
    values = [[1, 1, 1, 1], [0], [0, 1]]
    assert bootstrap(outcomes(values)).overall.value == pytest.approx(5 / 7)


def test_pairing_takes_out_what_runs_share():
    rng = np.random.default_rng(2)
    a = rng.random((300, 4)) < rng.beta(0.5, 0.5, (300, 1))
    b = a | (rng.random((300, 4)) < 0.1)
    difference = paired_difference(outcomes(a), outcomes(b)).overall
    assert difference.value == pytest.approx(b.mean() - a.mean())
    assert difference.low > 0
    alone = bootstrap(outcomes(a)).overall
    assert difference.high - difference.low < (alone.high - alone.low) / 2


def test_a_difference_turns_round_with_its_runs():
    rng = np.random.default_rng(3)
    a, b = (outcomes(rng.random((40, 2)) < p) for p in (0.3, 0.7))
    forth, back = paired_difference(a, b).overall, paired_difference(b, a).overall
    assert forth.value == pytest.approx(-back.value)
    assert forth.low == pytest.approx(-back.high, abs=0.02)


def test_a_run_does_not_differ_from_itself():
    a = outcomes(np.random.default_rng(4).random((50, 4)) < 0.5)
    value, low, high = paired_difference(a, a[::-1]).overall
    assert value == 0
    assert -0.01 < low <= 0 <= high < 0.01


def test_scores_that_are_no_verdicts_have_intervals_too():
    values = np.random.default_rng(5).normal(20, 2, (400, 1))
    value, low, high = bootstrap(outcomes(values)).overall
    assert value == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.1)
    shift = paired_difference(outcomes(values), outcomes(values + 1)).overall
    assert shift.value == pytest.approx(1)
    assert 0.9 < shift.low <= 1 <= shift.high < 1.1


def test_runs_that_do_not_match_are_refused():
    a = outcomes(np.ones((3, 2)))
    with pytest.raises(
        ValueError, match=r"1 of the pictures are in one run only, such as sample 1"
    ):
        paired_difference(a, a[:-1])
    with pytest.raises(ValueError, match="the second run has 1 outcome"):
        paired_difference(a, [*a, a[0]])
    for rule in (lambda: bootstrap([]), lambda: paired_difference([], [])):
        with pytest.raises(ValueError, match="no outcomes"):
            rule()


def test_an_interval_is_three_numbers():
    assert Interval(0.5, 0.4, 0.6)._fields == ("value", "low", "high")


def test_holms_adjustment_by_hand():
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": 0.2, "f": 0.5}
    # Sorted: .005 x 6, .01 x 5, .03 x 4, .04 x 3 = .12, not below the one before; .2 x 2, .5 x 1.
    expected = {"a": 0.05, "b": 0.12, "c": 0.12, "d": 0.03, "e": 0.4, "f": 0.5}
    assert holm(p) == pytest.approx(expected)  # the same by statsmodels 0.14 multipletests
    assert list(holm(p)) == list(p)
    assert holm({"a": 0.5, "b": 0.9}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


def test_p_is_below_five_hundredths_where_the_interval_excludes_zero():
    rng = np.random.default_rng(6)
    seen = set()
    for shift in np.linspace(-0.25, 0.25, 41):
        a = outcomes(rng.random((60, 2)) < 0.5)
        b = outcomes(rng.random((60, 2)) < 0.5 + shift)
        found = paired_difference(a, b)
        _, low, high = found.tasks["t"]
        if min(abs(low), abs(high)) > 0.004:  # on the edge, ties and the added draw decide
            assert (found.p["t"] < 0.05) == (low > 0 or high < 0)
            seen.add(found.p["t"] < 0.05)
    assert seen == {True, False}


def test_p_is_the_sign_tests_on_pairs_that_differ():
    # 30 of 200 prompts won, 12 lost: McNemar's chi-square 18^2 / 42 = 7.71, p = 0.0055.
    a = outcomes([[0]] * 30 + [[1]] * 12 + [[1]] * 158)
    b = outcomes([[1]] * 30 + [[0]] * 12 + [[1]] * 158)
    assert paired_difference(a, b).p["t"] == pytest.approx(0.0055, abs=0.002)
    assert paired_difference(a, a).p["t"] == 1.0
