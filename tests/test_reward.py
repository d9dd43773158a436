"""The training reward: every branch by hand."""

import pytest

from impasto.score.reward import reward
from impasto.score.verdict import Thresholds, kept_objects
from impasto.spec import Item, Spec
from tests.test_verdict import found, spec

LEFT, RIGHT = (0, 40, 20, 60), (60, 40, 80, 60)
PLACED = spec(Item(cls="cat"), Item(cls="dog", position=("left of", 0)))


def rated(asked, objects, colors=("red",), as_published=False, thresholds=None):
    """colors: of the objects in the order of their boxes' x1, cyclic."""
    kept = kept_objects(objects, asked, thresholds)
    return reward(asked, kept, lambda one: colors[int(one.box[0]) % len(colors)], thresholds,
                  as_published=as_published)  # fmt: skip


def dogs(n):
    return [found("dog", box=(i, 0, i + 10, 10)) for i in range(n)]


@pytest.mark.parametrize("k, score, accuracy, strict", [
    (0, 0, 0, 0), (1, 0.5, 0, 0), (2, 1, 1, 1),
    # 1 - |2 - 3| / 2, 1 - |2 - 5| / 2: found is not cut to the count, and may go below zero.
    (3, 0.5, 1, 0), (5, -0.5, 1, 0),
])  # fmt: skip
def test_number(k, score, accuracy, strict):
    got = rated(spec(Item(cls="dog", count=2)), dogs(k))
    assert (got.score, got.accuracy, got.strict_accuracy) == (score, accuracy, strict)
    assert got.reason == ("" if strict else f"expected dog==2, found {k}")


def test_exclude_counts_for_accuracy_only():
    asked = spec(Item(cls="dog", count=2), exclude=(Item(cls="dog", count=3), Item(cls="cat")))
    got = rated(asked, [*dogs(2), found("cat")])
    assert (got.score, got.accuracy, got.strict_accuracy) == (1, 0, 1)


@pytest.mark.parametrize("n, colors, score, accuracy, strict", [
    (2, ("red", "red"), 1, 1, 1),  # (1 + 1) / 2
    (2, ("red", "blue"), 0.75, 0, 0),  # (1 + 1/2) / 2
    (2, ("blue", "blue"), 0.5, 0, 0),  # (1 + 0) / 2
    (1, ("red",), 0.25, 0, 0),  # (1/2 + 0) / 2: the number is wrong, colour adds a 0
    (3, ("blue", "red", "red"), 0.25, 1, 0),  # (1/2 + 0) / 2; the verdict takes the last two
])  # fmt: skip
def test_color(n, colors, score, accuracy, strict):
    got = rated(spec(Item(cls="dog", count=2, color="red")), dogs(n), colors)
    assert (got.score, got.accuracy, got.strict_accuracy) == (score, accuracy, strict)


@pytest.mark.parametrize("dog, fair, published, right", [
    (LEFT, 1, 1, 1),  # 1, 1, 1
    ((90, 40, 99, 60), 2 / 3, 3 / 4, 0),  # 1, 1, 0 and with the quirk 1, 1, 0, 1
    (RIGHT, 2 / 3, 3 / 4, 0),  # no relation at all
])
def test_place_and_its_quirk(dog, fair, published, right):
    objects = [found("cat", box=RIGHT), found("dog", box=dog)]
    for as_published, score in ((False, fair), (True, published)):
        got = rated(PLACED, objects, as_published=as_published)
        assert got.score == pytest.approx(score)
        assert (got.accuracy, got.strict_accuracy) == (right, right)


@pytest.mark.parametrize("as_published", [False, True])
def test_a_missing_target_adds_one_zero(as_published):
    # cat: 0; dog: 1, 0
    got = rated(PLACED, [found("dog", box=LEFT)], as_published=as_published)
    assert got.score == pytest.approx(1 / 3)
    assert got.reason == "expected cat==1, found 0\nno target for dog to be left of"


@pytest.mark.parametrize("as_published", [False, True])
def test_a_wrong_number_with_a_place_adds_one_zero(as_published):
    # cat: 1; dog: 0, 0
    got = rated(PLACED, [found("cat", box=RIGHT)], as_published=as_published)
    assert got.score == pytest.approx(1 / 3)


def test_two_targets_are_no_target_though_the_verdict_takes_the_best():
    objects = [found("cat", 0.9, RIGHT), found("cat", 0.8, (60, 0, 80, 20)),
               found("dog", box=LEFT)]  # fmt: skip
    # cat: 1 - |1 - 2| = 0; dog: 1, 0
    got = rated(PLACED, objects, as_published=True)
    assert got.score == pytest.approx(1 / 3)
    assert (got.accuracy, got.strict_accuracy) == (1, 0)


@pytest.mark.parametrize("color, terms", [("red", [1, 1, 1, 1]), ("blue", [1, 1, 0])])
def test_a_wrong_color_skips_the_place(color, terms):
    asked = spec(Item(cls="cat"), Item(cls="dog", color="red", position=("left of", 0)))
    got = rated(asked, [found("cat", box=RIGHT), found("dog", box=LEFT)], (color,), True)
    assert got.score == pytest.approx(sum(terms) / len(terms))


def test_every_pair_is_asked_and_one_failure_is_one_zero():
    asked = spec(Item(cls="cat", count=2), Item(cls="dog", count=2, position=("left of", 0)))
    objects = [found("cat", box=RIGHT), found("cat", box=(30, 40, 40, 60)),
               found("dog", box=LEFT), found("dog", box=(70, 40, 79, 60))]  # fmt: skip
    assert rated(asked, objects).score == pytest.approx(2 / 3)
    assert rated(asked, objects, as_published=True).score == pytest.approx(3 / 4)


def test_thresholds_are_used():
    near = [found("cat", box=(10, 0, 30, 20)), found("dog", box=(5, 0, 25, 20))]
    for threshold, strict in ((0.01, 1), (0.2, 0)):
        rule = Thresholds(position_threshold=threshold)
        assert rated(PLACED, near, thresholds=rule).strict_accuracy == strict
    faint = [found("dog", 0.5)]
    assert rated(spec(Item(cls="dog")), faint).score == 1
    assert rated(spec(Item(cls="dog"), tag="counting"), faint).score == 0


@pytest.mark.parametrize("asked, words", [
    (Spec(tag="x", include=(), prompt="nothing"), "includes nothing"),
    (spec(Item(cls="dog", count=0)), "speaks of 0 'dog'"),
    (spec(Item(cls="mouse")), "no class 'mouse': did you mean .*'computer mouse'"),
    (spec(Item(cls="dog", color="teal")), "no colour 'teal'"),
    (spec(Item(cls="dog"), Item(cls="cat", position=("behind", 0))), "no relation 'behind'"),
    (spec(Item(cls="dog", region="left")), "region or a size"),
])  # fmt: skip
def test_specs_without_a_reward_are_refused(asked, words):
    with pytest.raises(ValueError, match=words):
        rated(asked, [])
