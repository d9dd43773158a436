"""GenEval's summary in its own words, and the tables beside it."""

import dataclasses

import numpy as np
import pytest

from impasto.bench import (
    Record,
    geneval_specs,
    read_results,
    summarise,
    summary_text,
    write_results,
)
from impasto.bench.reasons import read_reason
from impasto.score.base import Score
from impasto.spec import Item, Spec


def run_of(seed, specs, samples=4):
    """Verdicts at random, prompts of one task alike in how hard they are."""
    rng = np.random.default_rng(seed)
    chances = {tag: rng.uniform() for tag in dict.fromkeys(s.tag for s in specs)}
    return [
        Record.of(f"{i:05d}/samples/{k:05d}.png", spec,
                  Score(value=1.0, correct=bool(rng.random() < chances[spec.tag])))
        for i, spec in enumerate(specs) for k in range(samples)
    ]  # fmt: skip


# Printed by `summary_scores.py` of djghosh13/geneval, commit
# af4902f24d3ca90ebbb446dd9891a59e0f82725f (pandas 3.1.1), for the file of `run_of(7, all specs)`.
OFFICIAL = """\
Summary
=======
Total images: 2212
Total prompts: 553
% correct images: 61.48%
% correct prompts: 88.61%

Task breakdown
==============
single_object    = 60.00% (192 / 320)
two_object       = 92.17% (365 / 396)
counting         = 78.12% (250 / 320)
colors           = 19.15% (72 / 376)
position         = 32.50% (130 / 400)
color_attr       = 87.75% (351 / 400)

Overall score (avg. over tasks): 0.61616
"""

# The same for `run_of(8, specs 79 to 199, samples=3)`: three tasks.
OFFICIAL_PART = """\
Summary
=======
Total images: 363
Total prompts: 121
% correct images: 86.23%
% correct prompts: 92.56%

Task breakdown
==============
single_object    = 0.00% (0 / 3)
two_object       = 98.65% (293 / 297)
counting         = 31.75% (20 / 63)

Overall score (avg. over tasks): 0.43466
"""


def test_the_lines_are_the_official_scripts(tmp_path):
    write_results(tmp_path / "r.jsonl", run_of(7, geneval_specs()))
    assert summary_text(read_results(tmp_path / "r.jsonl")) == OFFICIAL


def test_a_mean_over_fewer_tasks_is_not_called_overall():
    records = run_of(8, geneval_specs()[79:200], samples=3)
    label = "mean of 3 tasks (single_object, two_object, counting)"
    assert summary_text(records) == f"{OFFICIAL_PART}Not GenEval's overall score: {label}\n"
    overall = summarise(records)["overall"]
    assert overall["label"] == label
    assert overall["tasks"] == ["single_object", "two_object", "counting"]


def test_no_records_no_summary():
    for rule in (summarise, summary_text):
        with pytest.raises(ValueError, match="no results"):
            rule([])


def test_scores_and_rates():
    records = run_of(7, geneval_specs())
    summary = summarise(records)
    tasks = summary["tasks"]
    assert (summary["images"], summary["prompts"]) == (2212, 553)
    assert summary["images_per_prompt"] == [4, 4]
    for row in tasks.values():
        assert row["score"] == pytest.approx(row["correct"] / row["images"])
        assert row["low"] < row["score"] < row["high"]
    overall = summary["overall"]
    assert overall["label"] == "overall"
    assert overall["score"] == pytest.approx(np.mean([row["score"] for row in tasks.values()]))
    assert 0.005 < overall["high"] - overall["low"] < 0.06
    by_prompt = np.array([r.correct for r in records]).reshape(553, 4)
    assert summary["correct_images"] == pytest.approx(by_prompt.mean())
    assert summary["any_correct"] == pytest.approx(by_prompt.any(1).mean())
    assert summary["all_correct"] == pytest.approx(by_prompt.all(1).mean())
    assert summary["failures"]["counting"] == {}


def test_the_order_of_records_changes_no_number():
    records = run_of(7, geneval_specs())
    shuffled = [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    one, two = summarise(records), summarise(shuffled)
    assert one["tasks"] == two["tasks"]
    assert one["overall"]["low"] == pytest.approx(two["overall"]["low"], abs=1e-12)


# Tables


@pytest.mark.parametrize(
    ("line", "kind", "cls"),
    [
        ("expected dog>=1, found 0", "missing", "dog"),
        ("expected hot dog>=3, found 2", "too few", "hot dog"),
        ("expected orange>=1, found 0", "missing", "orange"),
        ("expected orange orange>=1, found 0 orange; and 1 blue", "wrong color", "orange"),
        (
            "expected red wine glass>=2, found 1 red; and 1 red, 1 blue",
            "wrong color",
            "wine glass",
        ),
        ("expected dog<4, found 16", "too many", "dog"),
        ("no target for tv remote to be left of", "no target", "tv remote"),
        ("expected tv left of target, found right of and below target", "wrong relation", "tv"),
        ("expected tv above target, found  target", "wrong relation", "tv"),
        ("the picture is grey", "other", ""),
    ],
)
def test_reasons_are_read_back(line, kind, cls):
    failure = read_reason(line)
    assert (failure.kind, failure.cls) == (kind, cls)


def test_colors_seen_are_read_back():
    failure = read_reason("expected red cup>=3, found 1 red; and 1 red, 2 blue")
    assert (failure.color, failure.n, failure.seen) == ("red", 3, {"red": 1, "blue": 2})


def record(reason, *items, tag="t"):
    spec = Spec(tag=tag, include=items, prompt="p")
    return Record.of("0.png", spec, Score(value=0.0, correct=not reason, reason=reason))


def test_failures_classes_and_colors():
    red_cup, blue_dog = Item(cls="cup", color="red"), Item(cls="dog", color="blue")
    summary = summarise([
        record("", red_cup, blue_dog, tag="a"),
        record("expected cup>=1, found 0", red_cup, blue_dog, tag="a"),
        record("expected red cup>=1, found 0 red; and 1 pink\nexpected dog>=1, found 0",
               red_cup, blue_dog, tag="a"),
        record("expected dog<3, found 4", Item(cls="dog", count=2), tag="b"),
        record("expected dog>=2, found 1", Item(cls="dog", count=2), tag="b"),
    ])  # fmt: skip
    assert summary["failures"] == {"a": {"missing": 2, "wrong color": 1},
                                   "b": {"too few": 1, "too many": 1}}  # fmt: skip
    assert summary["classes"] == {
        "cup": {"asked": 3, "found": 2, "correct": 1},
        "dog": {"asked": 5, "found": 3, "correct": 1},
    }
    assert summary["colors"] == {
        "red": {"asked": 3, "found": 2, "right": 1},
        "blue": {"asked": 3, "found": 2, "right": 2},
    }
    assert summary["color_confusion"] == {"red": {"red": 1, "pink": 1}, "blue": {"blue": 2}}


def test_any_and_all_of_uneven_prompts():
    specs = geneval_specs()[:2]
    records = run_of(0, specs, samples=2)
    verdicts = (True, False, True, True)
    records = [dataclasses.replace(r, correct=c) for r, c in zip(records, verdicts, strict=True)]
    summary = summarise(records[:3])
    assert summary["images_per_prompt"] == [1, 2]
    assert (summary["any_correct"], summary["all_correct"]) == (1.0, 0.5)
