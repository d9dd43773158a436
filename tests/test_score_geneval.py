"""GenEval's judge with a fake detector and a fake colour classifier: what is asked of whom."""

from dataclasses import replace

import pytest
import torch

from impasto.score.base import Found
from impasto.score.geneval import BATCH, GenEvalScorer
from impasto.score.verdict import Thresholds
from impasto.spec import COLORS, Item, Spec

SIDE = 8


def picture(number):
    """A picture whose first pixel says which one it is."""
    image = torch.zeros(3, SIDE, SIDE)
    image[0, 0, 0] = number
    return image


def pictures(count):
    return torch.stack([picture(i) for i in range(count)])


def found(cls, score=0.95, pixel=0):
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[pixel // SIDE, pixel % SIDE] = True
    return Found(cls, (0.0, 0.0, 4.0, 4.0), score, mask)


def spec(*include, tag="test"):
    return Spec(tag=tag, include=include, prompt="a photo of something")


class FakeDetector:
    """A fake: gives each picture the objects listed under its number."""

    def __init__(self, objects):
        self.objects = objects
        self.batches = []

    def detect(self, images):
        self.batches.append(len(images))
        return [self.objects[int(image[0, 0, 0])] for image in images]


class FakeColors:
    """A fake: the colour is numbered by the first pixel of the object's mask."""

    def __init__(self):
        self.asked = []

    def classify(self, crops):
        self.asked.append([(int(image[0, 0, 0]), one) for image, one in crops])
        return [COLORS[int(one.mask.flatten().int().argmax())] for _, one in crops]


def scorer(objects, **options):
    return GenEvalScorer(FakeDetector(objects), FakeColors(), **options)


def test_more_pictures_than_a_batch_keep_their_order():
    count = 2 * BATCH + 3
    objects = [[found("dog" if i % 3 else "cat", 0.5 + i / 1000, i % 10)] for i in range(count)]
    specs = [spec(Item(cls="dog", color=COLORS[i % 7])) for i in range(count)]
    judge = scorer(objects)
    scores = judge.score(pictures(count), specs)
    assert judge.detector.batches == [BATCH, BATCH, 3]
    assert [s.correct for s in scores] == [bool(i % 3) and i % 7 == i % 10 for i in range(count)]
    told = [one[0][4] for s in scores for one in s.details.values()]
    assert told == [0.5 + i / 1000 for i in range(count)]
    assert all(s.value == float(s.correct) for s in scores)


def test_nothing_to_judge_is_no_score():
    assert scorer([]).score(pictures(1)[:0], []) == []


def test_colors_are_asked_in_one_call_and_only_where_needed():
    objects = [
        [found("dog", 0.9), found("dog", 0.8), found("cat", 0.9)],  # colour of one dog wanted
        [found("dog", 0.9)],  # two wanted, one there
        [found("dog", 0.9)],  # no colour wanted
        [found("dog", 0.2)],  # too faint
        [found("cat", 0.9), found("cup", 0.8)],  # both wanted
    ]
    specs = [
        spec(Item(cls="dog", color="red")),
        spec(Item(cls="dog", count=2, color="red")),
        spec(Item(cls="dog")),
        spec(Item(cls="dog", color="red")),
        spec(Item(cls="cat", color="red"), Item(cls="cup", color="red")),
    ]
    judge = scorer(objects)
    judge.score(pictures(5), specs)
    (asked,) = judge.colors.asked
    assert [(number, one.cls, one.score) for number, one in asked] == [
        (0, "dog", 0.9), (4, "cat", 0.9), (4, "cup", 0.8),
    ]  # fmt: skip


def test_equal_objects_with_other_masks_have_their_own_colors():
    red, blue = found("cup", pixel=COLORS.index("red")), found("cup", pixel=COLORS.index("blue"))
    assert red == blue
    both = spec(Item(cls="cup", count=2, color="red"))
    (score,) = scorer([[red, blue]]).score(pictures(1), [both])
    assert score.reason == "expected red cup>=2, found 1 red; and 1 red, 1 blue"
    one = spec(Item(cls="cup", color="red"))
    scores = scorer([[red], [blue]]).score(pictures(2), [one, one])
    assert [s.correct for s in scores] == [True, False]


def test_reasons_and_details_are_the_rules():
    objects = [[found("cat", 0.5), found("dog", 0.95), found("dog", 0.25)]]
    (score,) = scorer(objects).score(pictures(1), [spec(Item(cls="dog", count=2))])
    assert (score.value, score.correct) == (0.0, False)
    assert score.reason == "expected dog>=2, found 1"
    assert score.details == {"cat": [[0, 0, 4, 4, 0.5]], "dog": [[0, 0, 4, 4, 0.95]]}


def test_thresholds_are_used():
    objects, asked = [[found("dog", 0.5)]], [spec(Item(cls="dog"), tag="counting")]
    assert not scorer(objects).score(pictures(1), asked)[0].correct
    low = Thresholds(counting_threshold=0.4)
    assert scorer(objects, thresholds=low).score(pictures(1), asked)[0].correct
    plain = [replace(asked[0], tag="single_object")]
    assert scorer(objects).score(pictures(1), plain)[0].correct


def test_the_position_threshold_is_used():
    cat, dog = found("cat"), replace(found("dog"), box=(3.0, 0.0, 7.0, 4.0))
    asked = [spec(Item(cls="cat"), Item(cls="dog", position=("right of", 0)))]
    for threshold, holds in ((0.1, True), (0.3, False)):
        judge = scorer([[cat, dog]], thresholds=Thresholds(position_threshold=threshold))
        assert judge.score(pictures(1), asked)[0].correct is holds


@pytest.mark.parametrize(("images", "specs"), [(2, 1), (1, 2), (0, 1)])
def test_pictures_and_specs_must_be_as_many(images, specs):
    asked = [spec(Item(cls="dog"))] * specs
    with pytest.raises(ValueError, match=f"{images} pictures for {specs} specs"):
        scorer([[]] * 2).score(pictures(2)[:images], asked)


def test_a_demand_without_verdict_is_refused():
    with pytest.raises(ValueError, match="region or a size"):
        scorer([[]]).score(pictures(1), [spec(Item(cls="dog", region="left"))])


def test_provenance_has_id_weights_thresholds_and_preprocessing():
    rule = Thresholds(threshold=0.25, max_overlap=0.5)
    told = scorer([], thresholds=rule, name="mine", weights={"a": "1" * 64}).provenance()
    assert (told["id"], told["sha256"]) == ("mine", {"a": "1" * 64})
    assert told["thresholds"]["threshold"] == 0.25 and told["thresholds"]["max_overlap"] == 0.5
    assert told["thresholds"]["counting_threshold"] == 0.9
    assert told["preprocessing"]["detector"] == "FakeDetector"
    assert GenEvalScorer.gives_verdict
