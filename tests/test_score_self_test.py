"""The self-test: golden pictures are what they say, and only working scorers pass."""

import pytest
import torch

from impasto.score import self_test
from impasto.score.base import Found, Score, Scorer, ScorerBroken
from impasto.score.self_test import check_captions, check_verdicts, golden
from impasto.score.verdict import Thresholds, judge, kept_objects
from impasto.spec import CLASSES, COLORS
from impasto.world.tasks import GENEVAL_TASKS

NAMES = (*COLORS, "natural")


class Truth:
    """What the world knows of the pictures it has drawn, by their pixels."""

    def __init__(self):
        self.objects = {}
        self.colors = {}

    def note(self, rendered):
        """Keep a `Rendered` batch, and pass it on."""
        for i, image in enumerate(rendered.images):
            slots = [k for k, cls in enumerate(rendered.classes[i].tolist()) if cls >= 0]
            seen = [Found(CLASSES[rendered.classes[i, k]], tuple(rendered.boxes[i, k].tolist()),
                          1.0, rendered.masks[i, k]) for k in slots]  # fmt: skip
            self.objects[image.numpy().tobytes()] = seen
            for k, one in zip(slots, seen, strict=True):
                self.colors[id(one)] = NAMES[rendered.colors[i, k]]
        return rendered

    def verdict(self, image, spec):
        objects = kept_objects(self.objects[image.numpy().tobytes()], spec, Thresholds())
        return judge(spec, objects, lambda one: self.colors[id(one)])


class FakeScorer(Scorer):
    """A fake: whatever a function of (picture, spec) says."""

    gives_verdict = True

    def __init__(self, one):
        self.one = one

    def score(self, images, specs):
        return [self.one(image, spec) for image, spec in zip(images, specs, strict=True)]

    def self_test(self):
        check_verdicts(self)

    def provenance(self):
        return {"id": "fake"}


def says(correct):
    return FakeScorer(lambda image, spec: Score(value=0.5, correct=correct, reason="no such"))


@pytest.fixture(scope="module")
def truth():
    """The truth about the golden pictures, drawn again for it."""
    known = Truth()
    with pytest.MonkeyPatch.context() as patch:
        draw = self_test.render
        patch.setattr(self_test, "render", lambda *given: known.note(draw(*given)))
        golden.__wrapped__()
    return known


# Golden pictures


def test_golden_pictures_are_four_true_and_four_altered_of_each_task():
    pictures = golden()
    assert pictures.images.shape == (48, 3, 128, 128)
    assert pictures.specs[:24] == pictures.specs[24:]
    assert [s.tag for s in pictures.specs[:24]] == [t for t in GENEVAL_TASKS for _ in range(4)]
    assert pictures.broken[:24] == ("",) * 24
    assert set(pictures.broken[24:]) == {"class", "count", "color", "relation"}
    assert len({image.numpy().tobytes() for image in pictures.images}) == 48


def test_golden_pictures_are_the_same_every_time():
    first, again = golden(), golden.__wrapped__()
    assert first is golden() and again is not first
    assert torch.equal(first.images, again.images)
    assert (first.specs, first.broken) == (again.specs, again.broken)


def test_geneval_accepts_the_true_and_rejects_the_altered_by_the_worlds_truth(truth):
    pictures = golden()
    verdicts = [truth.verdict(image, spec).correct
                for image, spec in zip(pictures.images, pictures.specs, strict=True)]  # fmt: skip
    assert verdicts == [True] * 24 + [False] * 24


# Verdicts


def test_a_scorer_that_knows_the_truth_passes(truth):
    check_verdicts(FakeScorer(truth.verdict))


def test_two_mistakes_of_each_kind_are_forgiven_and_three_are_not(truth):
    def wrong_on(rows):
        keys = {golden().images[i].numpy().tobytes() for i in rows}

        def one(image, spec):
            correct = truth.verdict(image, spec).correct
            return Score(value=0.0, correct=correct ^ (image.numpy().tobytes() in keys))

        return FakeScorer(one)

    check_verdicts(wrong_on([0, 1, 24, 25]))
    for rows, words in (([3, 9, 20], "21 of 24 golden pictures accepted"),
                        ([27, 33, 44], "21 of 24 golden pictures rejected")):  # fmt: skip
        with pytest.raises(ScorerBroken, match=words) as caught:
            check_verdicts(wrong_on(rows))
        named = [spec.prompt for spec in golden().specs if repr(spec.prompt) in str(caught.value)]
        assert set(named) == {golden().specs[i].prompt for i in rows}


def test_a_scorer_that_accepts_everything_fails_by_the_altered():
    with pytest.raises(ScorerBroken, match="0 of 24 golden pictures rejected") as caught:
        check_verdicts(says(True))
    first = golden().specs[24].prompt
    assert f"{first!r} accepted with another {golden().broken[24]}" in str(caught.value)


def test_a_scorer_that_rejects_everything_fails_by_the_true():
    with pytest.raises(ScorerBroken, match="0 of 24 golden pictures accepted") as caught:
        check_verdicts(says(False))
    lines = str(caught.value).split("\n")[1:]
    assert lines == [f"  {spec.prompt!r} rejected: no such" for spec in golden().specs[:6]]


def test_a_scorer_without_verdict_fails():
    with pytest.raises(ScorerBroken, match="0 of 24"):
        check_verdicts(says(None))


# Captions


def prefers_own(image, spec):
    """A fake: 1 for a golden picture's own prompt, else 0."""
    row = [torch.equal(image, other) for other in golden().images[:24]].index(True)
    return Score(value=float(golden().specs[row] == spec))


def test_a_scorer_that_prefers_own_prompts_passes():
    check_captions(FakeScorer(prefers_own))


def test_captions_are_compared_with_those_of_another_task():
    pairs = []

    class Listener(FakeScorer):
        def score(self, images, specs):
            pairs.extend(zip(specs[:24], specs[24:], strict=True))
            assert torch.equal(images[:24], images[24:])
            return super().score(images, specs)

    check_captions(Listener(prefers_own))
    assert [own for own, _ in pairs] == list(golden().specs[:24])
    assert all(own.tag != other.tag for own, other in pairs)


def test_a_constant_scorer_fails_by_captions():
    with pytest.raises(ScorerBroken, match="0 of 24 golden pictures prefer") as caught:
        check_captions(FakeScorer(lambda image, spec: Score(value=0.5)))
    assert repr(golden().specs[0].prompt) in str(caught.value)


def test_a_scorer_of_nan_fails_by_captions():
    with pytest.raises(ScorerBroken):
        check_captions(FakeScorer(lambda image, spec: Score(value=float("nan"))))


def test_a_scorer_that_prefers_other_prompts_fails():
    with pytest.raises(ScorerBroken, match="0 of 24"):
        check_captions(FakeScorer(lambda i, s: Score(value=-prefers_own(i, s).value)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_enough(value):
    """As `check_captions` promises."""

    def one(image, spec):
        good = prefers_own(image, spec)
        first = torch.equal(image, golden().images[0])
        return Score(value=value) if first and good.value == (value > 0) else good

    with pytest.raises(ScorerBroken):
        check_captions(FakeScorer(one))
