"""Runs at equal cost, and prompts needed, from run folders made by hand."""

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest

from impasto.bench import outcomes, read_results
from impasto.bench.tifa_summary import tifa_summary
from impasto.report import write_report
from impasto.report.table import comparison_table
from impasto.run.budget import _best_of_any, budgets
from impasto.run.compare import compare, planned
from impasto.run.evaluate import evaluate, evaluate_images
from impasto.sample.protocol import Sampling
from impasto.score.power import paired_spread
from impasto.score.statistics import Outcome
from impasto.score.tifa import Ask, TifaScorer
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


class Pruning(BestOfN):
    """As one that drops candidates on the way: the name tells nothing, the search itself does."""

    independent = False


def test_searches_that_are_not_independent_draws_claim_no_prefix(tmp_path):
    search = Pruning(4, FakeSecond())
    names = {"model": "m", "search": "best-of-n-pruned:n=4"}
    path = evaluate(tiny.settings(names=names), FakeGenerator(), search, tmp_path / "run").path
    entry = budgets([path]).equal_samples[2][0]
    assert entry.score is None and "not independent draws" in entry.note
    assert budgets([path]).equal_samples[4][0].score is not None
    names = {"model": "m", "search": "mine"}
    settings = tiny.settings(names=names)
    mine = evaluate(settings, FakeGenerator(), BestOfN(4, FakeSecond()), tmp_path / "mine").path
    assert "best of the first 2" in budgets([mine]).equal_samples[2][0].note
    assert json.loads((mine / "run.json").read_text())["search"]["independent"] is True


class Uncounted(FakeGenerator):
    """As a server's: nobody knows what it computes."""

    def advance(self, state):
        done = super().advance(state)
        return replace(done, costs=tuple(replace(cost, flops=0.0) for cost in done.costs))

    def provenance(self):
        return super().provenance() | {"flops_known": False}


def test_flops_that_nobody_knows_are_no_cheap_pictures(runs, tmp_path):
    """Neither 0 in the record nor a row of the table: a dash, and a note by name."""
    settings = tiny.settings(names={"model": "api", "search": "none"})
    path = evaluate(settings, Uncounted(), NoSearch(), tmp_path / "api").path
    cost = json.loads((path / "cost.json").read_text())
    assert cost["flops"] is None and cost["images"] == 12
    table = budgets([runs[0], path])
    assert list(table.equal_flops) == [20.0]
    entry = table.equal_flops[20.0][1]
    assert entry.score is None
    assert entry.note.startswith("api: its pictures were drawn by a server")
    assert table.equal_samples[1][1].flops is None
    text = comparison_table([runs[0], path], compare([runs[0], path]), table)
    (line,) = (line for line in text.splitlines() if "FLOPs per picture" in line)
    assert line.split()[-1] == "–"


def soft_run(out, name, n=1):
    """A bench of answers, made of the tiny one: a picture's p are 0.04 to 1 by its brightness."""
    def asks_of(spec):
        return (Ask("Is it bright?", "yes", "object"), Ask("Is it warm?", "yes", "attribute"))

    bench = replace(tiny.BENCH, name="soft",
                    rule=partial(tifa_summary, asks_of=asks_of, atoms_of=lambda spec: 2))
    search = NoSearch() if n == 1 else BestOfN(n, FakeSecond())
    settings = tiny.settings(bench=bench, scorer=TifaScorer(Brightness(), asks_of, name="b"),
                             names={"model": name, "search": "none" if n == 1 else "best"})
    return evaluate(settings, FakeGenerator(name=name), search, out).path


class Brightness:
    def answer(self, image, asks):
        return [float(image[0, 0, i].clamp(0.04, 1)) for i in range(len(asks))]

    def self_test(self):
        pass

    def provenance(self):
        return {}


def gm(path):
    """Metadata and sample -> sqrt(p_1 p_2), from the answers as they stand in the file."""
    found = {}
    for record in read_results(path / "results.jsonl"):
        first, second = (rows[0][4] for rows in record.objects.values())
        found[record.metadata, record.sample] = (first * second) ** 0.5, (first + second) / 2
    return found


@pytest.fixture(scope="module")
def soft(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soft")
    return [soft_run(folder / "a", "a"), soft_run(folder / "b", "b"),
            soft_run(folder / "a2", "a", 2), soft_run(folder / "a4", "a", 4)]  # fmt: skip


def test_a_bench_of_answers_is_compared_by_its_answers(soft):
    """Paired by hand: the mean of GM's differences over 12 pictures, of two to a prompt."""
    (difference,) = compare(soft[:2])
    first, second = map(gm, soft[:2])
    by_hand = [sum(second[k][i] - first[k][i] for k in first) / 12 for i in (0, 1)]
    assert difference.score.overall.value == pytest.approx(by_hand[0])
    assert difference.soft["am"].overall.value == pytest.approx(by_hand[1])
    assert score(soft[1]) - score(soft[0]) == pytest.approx(by_hand[0])
    low, high = difference.score.overall[1:]
    assert low < by_hand[0] < high
    verdicts = [sum(r.correct for r in read_results(p / "results.jsonl")) / 12 for p in soft[:2]]
    assert difference.verdicts.overall.value == pytest.approx(verdicts[1] - verdicts[0])
    assert abs(difference.verdicts.overall.value - by_hand[0]) > 0.01, "or nothing is shown"
    values = difference.to_dict()
    assert values["overall"][0] == pytest.approx(by_hand[0])
    assert values["am"][0] == pytest.approx(by_hand[1])
    assert values["verdicts"][0] == pytest.approx(verdicts[1] - verdicts[0])
    assert set(values["holm"]) == set(values["tasks"]) == {s.tag for s in tiny.SPECS}
    text = comparison_table(soft[:2], [difference])
    assert f"{by_hand[0]:+.2f} [" in text and "Soft-TIFA AM" in text


def test_equal_cost_of_a_bench_of_answers(soft):
    table = budgets([soft[0], *soft[2:]]).equal_samples
    for i, k in enumerate((1, 2, 4)):
        assert table[k][i].score.value == pytest.approx(score([soft[0], *soft[2:]][i]))
    assert table[2][2].score == table[2][1].score != table[1][0].score
    entry = budgets([soft[0], soft[3]]).equal_samples[2][1]
    assert entry.between[0] < score(soft[2]) < entry.between[1]
    best = {}
    for (prompt, _), (value, _) in gm(soft[0]).items():
        best[prompt] = max(value, best.get(prompt, 0))
    assert table[2][0].perfect == pytest.approx(sum(best.values()) / 6)


def test_differences_that_are_not_of_the_score_beside_them_say_so(runs, tmp_path):
    """DPG's cascade is not in its answers, so two runs of it are compared by verdicts."""
    pair = [shutil.copytree(path, tmp_path / path.name) for path in runs[:2]]
    for path in pair:
        summary = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps(summary | {"dpg": {}}))
    difference = compare(pair)
    said = "Differences are of verdicts, whether every question about a picture is answered yes"
    assert said in " ".join(comparison_table(pair, difference).split())
    assert said in write_report(pair, tmp_path / "page.html", difference).read_text()
    assert said not in " ".join(comparison_table(runs[:2], compare(runs[:2])).split())


def test_the_best_of_any_k_by_hand():
    """Of .2, .4, .9 the pairs' best are .4, .9, .9."""
    values = [Outcome("t", "p", i, v) for i, v in enumerate((0.4, 0.9, 0.2))]
    assert _best_of_any(values, 2) == pytest.approx(2.2 / 3)
    assert _best_of_any(values, 1) == pytest.approx(0.5)
    assert _best_of_any(values, 4) is None


def test_power_of_a_bench_of_answers_is_by_its_answers(soft):
    (found,) = planned(soft[:2], 0.1)
    first, second = map(gm, soft[:2])
    by_prompt = {}
    for key in first:
        by_prompt.setdefault(key[0], []).append(second[key][0] - first[key][0])
    means = [sum(v) / 2 for v in by_prompt.values()]
    verdicts = paired_spread(*(outcomes(read_results(p / "results.jsonl")) for p in soft[:2]))
    mean = sum(means) / 6
    plain = (sum((m - mean) ** 2 for m in means) / 5) ** 0.5
    # The plan adds half a prompt of the largest step, so it is a little above the plain spread.
    assert plain < found.spread < verdicts


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
