"""MME, POPE, GQA, MMBench and the world's own questions against hand-computed cases."""

import pytest

from impasto.bench import Record
from impasto.bench.asked import answer_summary
from impasto.bench.asking import Asking, marked
from impasto.bench.understanding import (
    PERCEPTION,
    Reply,
    gqa_match,
    mmbench,
    mme_summary,
    pope_summary,
    same_answer,
)
from impasto.spec import Spec


def replies(*rows):
    return [Reply(*row) for row in rows]


def test_mme_by_hand():
    """Three of four right: acc .75; one picture of two has both: acc+ .5; 125."""
    found = mme_summary(replies(("color", "a", "yes", "yes"), ("color", "a", "no", "no"),
                                ("color", "b", "yes", "yes"), ("color", "b", None, "no")))
    assert found == {"subtasks": {"color": 125}, "perception": None, "cognition": None,
                     "unreadable": 1}
    best = [Reply(task, "a", w, w) for task in PERCEPTION for w in ("yes", "no")]
    assert mme_summary(best)["perception"] == 2000
    with pytest.raises(ValueError, match="two questions"):
        mme_summary(best[:1])
    with pytest.raises(ValueError, match="unknown sub-task"):
        mme_summary(replies(("x", "a", "yes", "yes")))


def test_pope_by_hand():
    """3 hits, 1 false alarm, 2 misses, 2 rejections: P 3/4, R 3/5, F1 2/3, yes 4/8."""
    rows = [("yes", "yes")] * 3 + [("yes", "no")] + [("no", "yes")] * 2 + [("no", "no")] * 2
    found = pope_summary([Reply("random", "", *row) for row in [*rows, (None, "yes")]])
    assert found == pytest.approx({"accuracy": 5 / 8, "precision": 0.75, "recall": 0.6,
                                   "f1": 2 / 3, "yes_ratio": 0.5, "unreadable": 1})
    none = pope_summary([Reply("random", "", "no", "yes")])
    assert (none["precision"], none["recall"], none["f1"]) == (0, 0, 0)
    with pytest.raises(ValueError, match="nothing to sum up"):
        pope_summary([Reply("random", "", None, "yes")])


def test_matches():
    assert gqa_match(" The Dog.", "the dog") and not gqa_match("dog", "dogs")
    assert same_answer("2.", "two") and same_answer("Red cup", "a red cup")
    assert not same_answer("red", "two") and not same_answer("12", "two")


def test_mmbench_by_hand():
    truth = {"1": ("A", "B"), "2": ("C", "D"), "3": ("A", "B")}
    said = {"1": ("A", "B"), "2": ("C", "A"), "3": ("B", "B")}
    assert mmbench(said, truth) == pytest.approx({"plain": 2 / 3, "circular": 1 / 3})
    with pytest.raises(ValueError, match="same questions"):
        mmbench({"1": ("A",)}, truth)


def test_the_worlds_questions_are_summed_up_by_kind():
    """count 1/2 and color 1: plain mean over kinds .75, and 2/3 of all questions."""
    asked = {"a": ("two", "count", "2"), "b": ("one", "count", "three"),
             "c": ("red", "color", "Red."), "d": ("red", "color", None)}  # fmt: skip
    records = [
        Record.of(f"{key}/0.png", Spec(tag=kind, include=(), prompt="?", key=key),
                  marked(Asking("?", truth, lambda said: said or None, same_answer), said), said)
        for key, (truth, kind, said) in asked.items()
    ]  # fmt: skip
    found = answer_summary(records, ("count", "color"))
    assert found["overall"]["score"] == pytest.approx(0.75) and found["images"] == 3
    assert {k: v["score"] for k, v in found["tasks"].items()} == {"count": 0.5, "color": 1}
    pooled = answer_summary(records, ("count", "color"), "over all")["overall"]
    assert pooled["label"] == "over all" and pooled["score"] == pytest.approx(2 / 3)
