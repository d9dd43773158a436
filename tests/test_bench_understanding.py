"""MME, POPE, GQA, MMBench and the world's own questions against hand-computed cases."""

import numpy as np
import pytest

from impasto.bench import IncompleteError
from impasto.bench.understanding import (
    PERCEPTION,
    Reply,
    ask_world,
    gqa_match,
    mmbench,
    mme_summary,
    pope_summary,
    same_answer,
    world_summary,
)
from impasto.score.judges.local import LocalJudge
from impasto.world import Sprites, compose, render, sample_spec
from impasto.world.questions import Question, questions
from tests import tiny_vlm


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


def test_the_worlds_questions_by_hand():
    """count 1/2 and color 1: plain mean over kinds .75."""
    asked = {"a": (Question("?", "two", "count"), Question("?", "red", "color")),
             "b": (Question("?", "one", "count"),)}
    found = world_summary(asked, {"a": ("2", "Red."), "b": ("three",)})
    assert found["overall"]["score"] == pytest.approx(0.75)
    assert {k: v["score"] for k, v in found["kinds"].items()} == {"count": 0.5, "color": 1}
    with pytest.raises(IncompleteError):
        world_summary(asked, {"a": ("2", None), "b": ("three",)})
    part = world_summary(asked, {"a": ("2", None)}, allow_incomplete=True)
    assert part["coverage"] == {"judged": 1, "unreadable": 1, "of": 3}


def test_a_judge_answers_the_worlds_questions(tmp_path):
    sprites, rng = Sprites.load(), np.random.default_rng(3)
    scene = compose(sample_spec(rng, sprites.classes, weights={"color_attr": 1.0}), rng, sprites)
    asked = {"0": tuple(questions(scene, rng, sprites)[:3])}
    judge = LocalJudge.from_folder(tiny_vlm.saved(tmp_path))
    said = ask_world(judge, render([scene], sprites).images[0], asked["0"])
    assert world_summary(asked, {"0": said})["coverage"]["judged"] == 3
    right = [q.answer for q in asked["0"]]
    assert world_summary(asked, {"0": right})["overall"]["score"] == 1
