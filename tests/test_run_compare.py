"""Comparing runs: only what differs in nothing but the method."""

import json

import pytest

from impasto.bench import IncompleteError
from impasto.run.compare import compare, planned
from impasto.run.evaluate import evaluate, evaluate_images
from impasto.run.provenance import SettingsDiffer
from impasto.search import NoSearch
from tests import tiny
from tests.fakes import FakeGenerator, FakeScorer


def run(out, model="fake", **changes):
    return evaluate(tiny.settings(**changes), FakeGenerator(name=model), NoSearch(), out).path


@pytest.fixture
def base(tmp_path):
    return run(tmp_path / "base")


def test_a_run_does_not_differ_from_itself(base):
    (difference,) = compare([base, base])
    assert difference.verdicts.overall.value == 0 and difference.second.overall.value == 0
    assert difference.paired_by == "prompt and seed"


def test_the_difference_is_second_minus_first(tmp_path, base):
    other, third = run(tmp_path / "other", "other"), run(tmp_path / "third", "third")
    scores = [json.loads((p / "summary.json").read_text())["overall"]["score"]
              for p in (base, other, third)]  # fmt: skip
    differences = compare([base, other, third])
    for difference, score in zip(differences, scores[1:], strict=True):
        low, value, high = (difference.verdicts.overall[i] for i in (1, 0, 2))
        assert value == pytest.approx(score - scores[0]) and low <= value <= high
    assert set(differences[0].verdicts.tasks) == {spec.tag for spec in tiny.SPECS}
    assert json.loads(json.dumps(differences[0].to_dict()))["b"] == str(other)


@pytest.mark.parametrize("changes, key", [
    ({"seed": 1}, "seed"), ({"limit": 5}, "bench.metadata_sha256"),
    ({"samples": 1}, "bench.samples_per_prompt"),
    ({"scorer": FakeScorer(threshold=0.4)}, "scorer.threshold"),
])  # fmt: skip
def test_other_prompts_seeds_and_judges_are_refused_by_name(tmp_path, base, changes, key):
    other = run(tmp_path / "other", **changes)
    with pytest.raises(SettingsDiffer, match=f"(?s)cannot be compared.*{key}"):
        compare([base, other])


def test_unfinished_runs_are_refused(tmp_path, base):
    other = run(tmp_path / "other", "other")
    (other / "summary.json").unlink()
    with pytest.raises(IncompleteError, match="other"):
        compare([base, other])


def test_incomplete_sets_are_refused(tmp_path, base):
    (base / "images/00000/samples/00001.png").unlink()
    part = evaluate_images(tiny.settings(), base / "images", tmp_path / "part",
                           allow_incomplete=True)  # fmt: skip
    with pytest.raises(IncompleteError, match="11/12"):
        compare([part.path, part.path])


def test_pictures_from_elsewhere_pair_by_prompt(tmp_path, base):
    judged = evaluate_images(tiny.settings(), base / "images", tmp_path / "judged").path
    (difference,) = compare([base, judged])
    assert difference.paired_by == "prompt" and difference.verdicts.overall.value == 0


def test_a_plan_over_two_benches_is_refused_as_a_comparison_is(tmp_path, base):
    other = evaluate(tiny.settings(limit=3), FakeGenerator(), NoSearch(), tmp_path / "other").path
    with pytest.raises(SettingsDiffer, match=r"bench\.name"):
        planned([base, other], 0.05)


def test_what_is_no_run(tmp_path, base):
    with pytest.raises(ValueError, match="at least two"):
        compare([base])
    with pytest.raises(ValueError, match="is not a run folder"):
        compare([base, tmp_path])
