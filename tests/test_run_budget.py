"""Runs at equal cost, and prompts needed, from run folders made by hand."""

import json

import pytest

from impasto.bench import read_results
from impasto.run.budget import budgets
from impasto.run.compare import compare, planned
from impasto.run.evaluate import evaluate, evaluate_images
from impasto.sample.protocol import Sampling
from impasto.search import BestOfN, NoSearch
from tests import tiny
from tests.fakes import FakeGenerator, FakeSecond


def run(out, n=1, **changes):
    search = NoSearch() if n == 1 else BestOfN(n, FakeSecond())
    names = {"model": "m", "search": "none" if n == 1 else f"best-of-n:n={n}"}
    settings = tiny.settings(names=names, **changes)
    return evaluate(settings, FakeGenerator(), search, out).path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """No search, best of 2, best of 4: of the same model and seed."""
    folder = tmp_path_factory.mktemp("budget")
    return [run(folder / str(n), n) for n in (1, 2, 4)]


def score(path):
    return json.loads((path / "summary.json").read_text())["overall"]["score"]


def test_each_run_at_its_own_pictures_is_its_summary(runs):
    table = budgets(runs).equal_samples
    assert list(table) == [1, 2, 4]
    for i, k in enumerate((1, 2, 4)):
        assert table[k][i].score.value == pytest.approx(score(runs[i]))
        assert table[k][i].flops == 20.0 * k


def test_the_first_k_candidates_are_the_run_of_that_width(runs):
    table = budgets(runs).equal_samples
    # All candidates 0 are the base's pictures, all bests of 2 the second run's.
    assert table[1][1].score == table[1][2].score == table[1][0].score
    assert table[2][2].score == table[2][1].score
    assert score(runs[1]) != score(runs[0]), "or this test could not fail"


def test_pictures_that_nobody_kept_give_a_range_that_holds_the_truth(runs):
    entry = budgets([runs[0], runs[2]]).equal_samples[2][1]
    assert entry.score is None
    low, high = entry.between
    assert low <= score(runs[1]) <= high and low < high
    unknown = 0
    for record in read_results(runs[2] / "results.jsonl"):
        drawn = json.loads((runs[2] / record.filename).with_suffix(".json").read_text())
        first, second = (c["value"] for c in drawn["candidates"][:2])
        unknown += second > first and drawn["chosen"] != 1
    assert f"m with best-of-n:n=4, best of the first 2: {unknown} of 12 pictures" in entry.note


def test_more_pictures_without_a_choice_leave_the_score(runs):
    entry = budgets([runs[0], runs[1]]).equal_samples[2][0]
    assert entry.score.value == pytest.approx(score(runs[0])) and entry.flops == 40.0
    prompts = {}
    for record in read_results(runs[0] / "results.jsonl"):
        prompts.setdefault(record.metadata, []).append(record.correct)
    # Two pictures a prompt, so any of 2 is any: the plain mean over six tasks of one prompt each.
    assert entry.perfect == pytest.approx(sum(map(any, prompts.values())) / 6)
    lacking = budgets([runs[0], runs[2]]).equal_samples[4][0]
    assert lacking.perfect is None and lacking.note.endswith("draw them by --samples 4")


def test_equal_flops_compare_what_the_same_work_draws(runs, tmp_path):
    table = budgets(runs).equal_flops
    assert list(table) == [20.0, 40.0, 80.0]
    assert [entry.pictures for entry in table[80.0]] == [4, 2, 4], "best of 2 has no third"
    assert [entry.pictures for entry in table[20.0]] == [1, 1, 1]
    assert table[40.0][2].score == table[40.0][1].score
    slow = run(tmp_path / "slow", sampling=Sampling(steps=5))
    table = budgets([runs[0], slow]).equal_flops
    assert list(table) == [20.0, 50.0] and [e.pictures for e in table[50.0]] == [2, 1]
    assert table[20.0][1].score is None and "one picture costs 50 FLOPs" in table[20.0][1].note


def test_what_a_run_lacks_is_said_by_name(runs, tmp_path):
    judged = evaluate_images(tiny.settings(), runs[0] / "images", tmp_path / "judged").path
    table = budgets([runs[0], judged])
    assert "drawn elsewhere" in table.equal_flops[20.0][1].note
    assert table.equal_samples[1][1].score == table.equal_samples[1][0].score


def test_searches_that_are_not_independent_draws_claim_no_prefix(tmp_path):
    search = BestOfN(4, FakeSecond())
    names = {"model": "m", "search": "tts-var:n=4"}
    path = evaluate(tiny.settings(names=names), FakeGenerator(), search, tmp_path / "run").path
    entry = budgets([path]).equal_samples[2][0]
    assert entry.score is None and "not independent draws" in entry.note
    assert budgets([path]).equal_samples[4][0].score is not None


def test_json_holds_both_tables(runs):
    values = json.loads(json.dumps(budgets(runs).to_dict(), allow_nan=False))
    assert [row["pictures"] for row in values["equal_samples"]] == [1, 2, 4]
    assert [row["flops"] for row in values["equal_flops"]] == [20.0, 40.0, 80.0]
    assert values["equal_flops"][0]["runs"][0]["score"][0] == pytest.approx(score(runs[0]))


def test_plans_are_of_pairs_or_of_a_score(runs):
    (alone,) = planned(runs[:1], 0.1)
    p = score(runs[0])
    q = p + 0.1
    assert alone.spread == pytest.approx((p * (1 - p) + q * (1 - q)) ** 0.5)
    assert alone.have == 6 and "a score of" in alone.basis
    pair = planned(runs, 0.1)
    assert len(pair) == 2 and all("paired" in plan.basis for plan in pair)
    with pytest.raises(ValueError, match="give one above 0"):
        planned(runs, 0)


def test_holm_and_directions_are_in_the_differences(runs):
    (difference,) = compare(runs[:2])
    values = difference.to_dict()
    assert set(values["holm"]) == set(values["p"]) == set(values["second_tasks"])
    for task, p in values["p"].items():
        assert min(1, p) <= values["holm"][task] <= 1
    assert values["disagreements"] == []
