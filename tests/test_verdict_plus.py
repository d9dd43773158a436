"""GenEval++'s demands by rule: hand-made objects, each fact alone made wrong."""

import pytest
import torch

from impasto.bench.reasons import read_reason
from impasto.score.base import Found
from impasto.score.geneval import GenEvalScorer
from impasto.score.verdict_plus import judge_plus
from impasto.spec import Item, Spec
from impasto.world import compose, sample_spec
from impasto.world.tasks import PLUS

SIZE = (128, 96)


def found(cls, x, y, side=20, color="red"):
    one = Found(cls, (x, y, x + side, y + side), 0.9)
    COLOR[id(one)] = color
    KEEP.append(one)
    return one


COLOR, KEEP = {}, []


def verdict(items, objects):
    groups = {}
    for one in objects:
        groups.setdefault(one.cls, []).append(one)
    spec = Spec(tag="x", include=tuple(items), prompt="p")
    return judge_plus(spec, groups, lambda one: COLOR[id(one)], size=SIZE)


CUPS = Item(cls="cup", count=2)


@pytest.mark.parametrize("items, objects, reason, kind", [
    ([CUPS], [("cup", 0, 0), ("cup", 50, 0)], "", ""),
    ([CUPS], [("cup", 0, 0)], "expected cup>=2, found 1", "too few"),
    ([CUPS], [("cup", 0, 0), ("cup", 30, 0), ("cup", 60, 0)], "expected cup<3, found 3",
     "too many"),
    ([Item(cls="cup", color="blue")], [("cup", 0, 0, 20, "blue")], "", ""),
    ([Item(cls="cup", color="blue")], [("cup", 0, 0)],
     "expected blue cup>=1, found 0 blue; and 1 red", "wrong color"),
    ([Item(cls="cup", region="left")], [("cup", 53, 0)], "", ""),
    ([Item(cls="cup", region="left")], [("cup", 54, 0)], "expected cup>=1 left, found 0 there",
     "wrong place"),
    ([Item(cls="cup", region="right")], [("cup", 55, 0)], "", ""),
    ([Item(cls="cup", region="above")], [("cup", 0, 37)], "", ""),
    ([Item(cls="cup", region="below")], [("cup", 0, 37)], "expected cup>=1 below, found 0 there",
     "wrong place"),
    ([Item(cls="cup", size="larger"), Item(cls="cat", size="smaller")],
     [("cup", 0, 0, 30), ("cat", 60, 0, 29)], "", ""),
    ([Item(cls="cup", size="larger"), Item(cls="cat", size="smaller")],
     [("cup", 0, 0, 30), ("cat", 60, 0, 30)],
     "expected cup larger than cat, found smaller", "wrong size"),
    ([Item(cls="cup", size="larger"), Item(cls="cat", size="smaller")], [("cup", 0, 0)],
     "expected cat>=1, found 0", "missing"),
])  # fmt: skip
def test_each_fact(items, objects, reason, kind):
    score = verdict(items, [found(*one) for one in objects])
    assert (score.reason, score.correct, score.value) == (reason, not reason, float(not reason))
    if reason:
        assert read_reason(reason).kind == kind


@pytest.mark.parametrize("items, words", [
    ([CUPS, Item(cls="cup")], "one class twice"),
    ([CUPS, Item(cls="cat", position=("above", 0))], "demands a relation"),
])  # fmt: skip
def test_what_it_does_not_judge_is_refused(items, words):
    with pytest.raises(ValueError, match=words):
        verdict(items, [])


@pytest.mark.parametrize("task", list(PLUS))
def test_true_scenes_are_accepted(task, sprites, rng_of):
    """The world's own boxes and colours, as a perfect detector would tell them."""
    for i in range(8):
        rng = rng_of(i)
        scene = compose(PLUS[task](rng, sprites.classes), rng, sprites)
        objects, colors = {}, {}
        for one, box in zip(scene.objects, scene.boxes(sprites), strict=True):
            thing = Found(one.cls, tuple(box), 1.0)
            objects.setdefault(one.cls, []).append(thing)
            colors[id(thing)] = one.color
        score = judge_plus(scene.spec, objects, lambda f, c=colors: c[id(f)], size=(128, 128))
        assert score.correct, (scene.spec.prompt, score.reason)


def test_tasks_can_be_sampled_by_name(sprites, rng_of):
    for task in ("size_spatial_attr", "spatial_count_attr", "multi_object_count_attr"):
        assert sample_spec(rng_of(0), sprites.classes, weights={task: 1.0}).tag == task


class Everything:
    """A detector that finds one cup in the left half of a wide picture, and calls it red."""

    def detect(self, images):
        mask = torch.zeros(images.shape[-2:], dtype=torch.bool)
        return [[Found("cup", (40.0, 0.0, 60.0, 20.0), 0.9, mask)] for _ in images]

    def classify(self, crops):
        return ["red"] * len(crops)


@pytest.mark.parametrize("region, correct", [("left", True), ("right", False)])
def test_a_scorer_judges_by_it(region, correct):
    scorer = GenEvalScorer(Everything(), Everything(), rule="GenEval++")
    spec = Spec(tag="x", include=(Item(cls="cup", color="red", region=region),), prompt="p")
    (score,) = scorer.score(torch.zeros(1, 3, 96, 128), [spec])
    assert score.correct is correct and scorer.provenance()["rule"] == "GenEval++"
    with pytest.raises(ValueError, match="GenEval's rule does not judge"):
        GenEvalScorer(Everything(), Everything()).score(torch.zeros(1, 3, 96, 128), [spec])


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match=r"unknown rule 'x'; allowed: GenEval, GenEval\+\+"):
        GenEvalScorer(Everything(), Everything(), rule="x")
