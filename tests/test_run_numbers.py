"""Runs whose results are numbers: no verdicts, no second scorer; table, page and comparison."""

import json
import math

import pytest

from impasto.bench import Bench, IncompleteError, read_results
from impasto.bench.numbers import number_summary
from impasto.report import write_report
from impasto.report.table import comparison_table
from impasto.run.compare import compare, planned
from impasto.run.evaluate import evaluate, evaluate_images
from impasto.score.base import Score
from impasto.search import NoSearch
from tests import tiny
from tests.fakes import FakeGenerator, FakeScorer


class FakeNumber(FakeScorer):
    """10 times the first pixel; unreadable below `unread`."""

    gives_verdict = False

    def __init__(self, unread=0.0):
        super().__init__()
        self.unread = unread

    def _one(self, value, spec):
        if value < self.unread:
            return Score(value=math.nan, reason="no answer could be read")
        return Score(value=10 * value, scores={"half": 5 * value})


BENCH = Bench(name="tens", specs=tiny.SPECS, samples_per_prompt=2, scorer="", second="",
              verdicts=False, rule=lambda records: number_summary(records, (0.0, 10.0)))


def run(out, name="fake", **changes):
    values = {"bench": BENCH, "scorer": FakeNumber(), "second": None} | changes
    return evaluate(tiny.settings(**values), FakeGenerator(name=name), NoSearch(), out)


def test_a_run_of_numbers_from_drawing_to_page(tmp_path):
    done = run(tmp_path / "a", names={"model": "a"})
    assert not done.second.exists() and done.record["second"] is None
    records, summary = read_results(done.results), json.loads(done.summary.read_text())
    mean = sum(r.value for r in records) / 12  # two pictures of each prompt, a prompt a task
    assert summary["overall"]["score"] == pytest.approx(mean) and summary["scale"] == [0, 10]
    assert 0 <= summary["overall"]["low"] < mean < summary["overall"]["high"] <= 10
    colors = summary["tasks"]["colors"]
    assert colors["images"] == 2 and "correct" not in colors
    table = comparison_table([done.path], [])
    assert f"{mean:.2f} [" in table and "scores by" in table and "second score" not in table
    page = write_report([done.path], tmp_path / "a.html", []).read_text()
    assert "on the bench&#39;s scale from 0 to 10" in page and "scores disagree" not in page
    assert "half " in page and "second score" not in page and "right / all" not in page


def test_numbers_are_compared_on_their_own_scale(tmp_path):
    runs = [run(tmp_path / name, name, names={"model": name}).path for name in "ab"]
    (difference,) = compare(runs)
    means = [json.loads((path / "summary.json").read_text())["overall"]["score"] for path in runs]
    assert difference.verdicts.overall.value == pytest.approx(means[1] - means[0])
    assert difference.second is None and difference.disagreements == []
    assert difference.to_dict()["second"] is None and planned(runs[:1], 0.02) == []
    page = write_report(runs, tmp_path / "ab.html", [difference]).read_text()
    assert "b scores" in page and "against a" in page
    assert comparison_table(runs, [difference])


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path):
    class Stops(FakeNumber):
        left = 3

        def _one(self, value, spec):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return super()._one(value, spec)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny.settings(bench=BENCH, scorer=Stops(), second=None,
                               names={"scorer": "FakeNumber"}),
                 FakeGenerator(), NoSearch(), tmp_path / "cut", batch_size=1)  # fmt: skip
    done = run(tmp_path / "cut")
    assert len(read_results(done.results)) == 12
    assert tiny.tree(tmp_path / "cut") == tiny.tree(whole.path)


def test_what_cannot_be_read_is_no_number(tmp_path):
    drawn = run(tmp_path / "drawn")
    low = sum(r.value < 5 for r in read_results(drawn.results))
    settings = tiny.settings(bench=BENCH, scorer=FakeNumber(unread=0.5), second=None)
    with pytest.raises(IncompleteError, match=f"{12 - low}/12 readable judgements"):
        evaluate_images(settings, drawn.images, tmp_path / "judged")
    done = evaluate_images(settings, drawn.images, tmp_path / "judged", allow_incomplete=True)
    summary = json.loads(done.summary.read_text())
    assert summary["coverage"] == {"images": 12 - low, "of": 12, "unreadable": low}
    assert "unreadable" in write_report([done.path], tmp_path / "p.html", []).read_text()
    assert "Incomplete" in comparison_table([done.path], [])
    with pytest.raises(IncompleteError):
        compare([done.path, done.path])


def test_a_bench_takes_the_kind_of_scorer_that_it_needs(tmp_path):
    with pytest.raises(ValueError, match="FakeNumber gives no verdict; tiny needs one that says "
                                         "right or wrong, such as sticker"):
        run(tmp_path, bench=tiny.BENCH)
    with pytest.raises(ValueError, match="FakeScorer gives a verdict; tens needs one that says a"):
        run(tmp_path, scorer=FakeScorer())
