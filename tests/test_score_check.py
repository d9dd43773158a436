"""How good is a scorer: rates and intervals of scorers whose rates are known beforehand."""

import math
from dataclasses import replace

import pytest
import torch

from impasto.score import check
from impasto.score.base import Score, Scorer, ScorerBroken
from impasto.score.check import check_scorer, wilson
from impasto.world.tasks import GENEVAL_TASKS
from impasto.zoo.registry import SCORERS
from tests.test_score_self_test import FakeScorer, Truth

TASKS = set(GENEVAL_TASKS)


class NoTest(FakeScorer):
    """A fake whose self-test is not what is asked here."""

    def self_test(self):
        self.tested = True


class Valued(Scorer):
    """A fake without verdicts: whatever a function of (picture, spec) says."""

    def __init__(self, one):
        self.one = one

    def score(self, images, specs):
        return [Score(value=float(self.one(image, spec)))
                for image, spec in zip(images, specs, strict=True)]  # fmt: skip

    def self_test(self):
        pass

    def provenance(self):
        return {"id": "valued"}


@pytest.fixture
def register(monkeypatch):
    """Registers a scorer for one test."""

    def put(name, scorer):
        monkeypatch.setitem(SCORERS._factories, name, lambda *, device="cpu": scorer)
        return name

    return put


@pytest.fixture
def truth(monkeypatch):
    """What the world knows of all pictures that the check draws."""
    known = Truth()

    class Recorder(check.Renderer):
        def __call__(self, scenes):
            return known.note(super().__call__(scenes))

    monkeypatch.setattr(check, "Renderer", Recorder)
    return known


def always(correct):
    return NoTest(lambda image, spec: Score(value=float(correct), correct=correct))


# Intervals


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775328),  # z^2 / (n + z^2)
        (10, 10, 0.7224672, 1.0),
        (5, 10, 0.2365931, 0.7634069),
        (1, 1, 0.2065493, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_the_published_interval(right, n, low, high):
    tolerance = 5e-5 if n > 20 else 5e-7
    assert wilson(right, n) == pytest.approx((low, high), abs=tolerance)


def test_wilson_ends_solve_its_equation():
    """Both ends are the p where |share - p| is 1.96 standard errors of p."""
    for right, n in ((3, 7), (40, 41), (500, 2000)):
        for end in wilson(right, n):
            error = math.sqrt(end * (1 - end) / n)
            assert abs(right / n - end) / error == pytest.approx(1.959963984540054)


@pytest.mark.parametrize("n", [0, -1])
def test_no_trials_have_no_interval(n):
    with pytest.raises(ValueError, match="at least one trial"):
        wilson(0, n)


# Rates


@pytest.mark.parametrize("correct", [True, False])
def test_constant_scorers_get_half(register, correct):
    rates = check_scorer(register("constant", always(correct)), scenes=12)
    assert rates["accept"] == dict.fromkeys(GENEVAL_TASKS, float(correct))
    assert rates["reject"] == dict.fromkeys(GENEVAL_TASKS, float(not correct))
    assert set(rates["reject_by"].values()) == {float(not correct)}
    assert set(rates["reject_by"]) <= {"class", "count", "color", "relation"}
    for part in ("accept", "reject"):
        assert rates["intervals"][part] == {
            task: list(wilson(2 * int(rate), 2)) for task, rate in rates[part].items()
        }
    assert (rates["scenes"], rates["seed"], rates["style"]) == (12, 0, "openmoji")
    assert rates["classes"] == 80 and rates["scorer"] == {"id": "fake"}


def test_the_worlds_truth_gets_everything_right(register, truth):
    calls = []
    rates = check_scorer(register("oracle", NoTest(truth.verdict)), scenes=60,
                         progress=lambda done, scenes: calls.append((done, scenes)))  # fmt: skip
    assert rates["accept"] == rates["reject"] == dict.fromkeys(GENEVAL_TASKS, 1.0)
    assert rates["reject_by"] == dict.fromkeys(("class", "count", "color", "relation"), 1.0)
    low, high = rates["intervals"]["accept"]["position"]
    assert (low, high) == pytest.approx((10 / (10 + 1.96**2), 1.0), rel=1e-4)
    assert calls == [(48, 60), (60, 60)]


def test_a_colorblind_scorer_is_found_out_by_color(register, truth):
    class Colorblind(Truth):
        def verdict(self, image, spec):
            self.objects, wanted = truth.objects, {i.cls: i.color for i in spec.include}
            self.colors = {id(o): wanted.get(o.cls)
                           for o in self.objects[image.numpy().tobytes()]}  # fmt: skip
            return super().verdict(image, spec)

    rates = check_scorer(register("blind", NoTest(Colorblind().verdict)), scenes=60)
    assert rates["reject_by"] == {"class": 1.0, "count": 1.0, "color": 0.0, "relation": 1.0}
    assert set(rates["accept"].values()) == {1.0}
    assert all(rates["reject"][task] == 1 for task in TASKS - {"colors", "color_attr"})
    assert rates["reject"]["colors"] < 1 and rates["reject"]["color_attr"] < 1


def test_scenes_depend_on_the_seed_alone(register, monkeypatch):
    seen = []

    def one(image, spec):
        seen.append((image.numpy().tobytes(), spec.prompt))
        return Score(value=1.0, correct=len(spec.prompt) % 2 == 0)

    name = register("listener", NoTest(one))
    drawn = []
    for seed, batch in ((3, 48), (3, 5), (4, 48)):
        monkeypatch.setattr(check, "BATCH", batch)
        rates = check_scorer(name, scenes=12, seed=seed)
        drawn.append((sorted(seen), rates))
        seen.clear()
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[2][0]
    assert len(set(drawn[0][0])) == 24


# Preferences


def test_the_worlds_truth_prefers_every_true_scene(register, truth):
    name = register("oracle", Valued(lambda *given: truth.verdict(*given).value))
    rates = check_scorer(name, scenes=60)
    assert rates["prefer"] == dict.fromkeys(GENEVAL_TASKS, 1.0)
    kinds = {"class", "missing", "count", "color", "swap", "relation"}
    assert rates["prefer_by"] == dict.fromkeys(kinds, 1.0)
    assert rates["intervals"]["prefer"]["position"] == list(wilson(10, 10))
    assert rates["scorer"] == {"id": "valued"} and "accept" not in rates and "coarse" not in rates


@pytest.mark.parametrize("sign", [0, -1])
def test_equal_and_lower_values_are_no_preference(register, truth, sign):
    name = register("against", Valued(lambda *given: sign * truth.verdict(*given).value))
    rates = check_scorer(name, scenes=12)
    assert set(rates["prefer"].values()) == {0.0}


def resized(images, side, antialias=False):
    mode = "bilinear" if antialias else "bicubic"
    return torch.nn.functional.interpolate(images, (side, side), mode=mode, antialias=antialias)


def test_coarse_pictures_are_shown_coarse(register):
    shown = {None: [], 16: []}
    for coarse, kept in shown.items():
        name = register("eye", Valued(lambda image, spec, kept=kept: kept.append(image) or 0))
        rates = check_scorer(name, scenes=6, coarse=coarse)
    assert rates["coarse"] == 16
    for fine, rough in zip(shown[None], shown[16], strict=True):
        assert rough.shape == fine.shape and not torch.equal(rough, fine)
        again = resized(resized(rough[None], 16, antialias=True), 128)[0]
        assert (again - rough).abs().mean() < 0.5 * (fine - rough).abs().mean() + 0.01


# Refusals


def test_fewer_scenes_than_tasks_are_refused(register):
    with pytest.raises(ValueError, match="scenes must be at least 6"):
        check_scorer(register("constant", always(True)), scenes=5)


def test_a_scorer_of_numbered_items_is_sent_to_its_bench():
    with pytest.raises(ValueError, match=r"judges numbered items.*bench export sticker-edits"):
        check_scorer("sticker-edits", scenes=6)


def test_an_unknown_scorer_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown scorer 'stiker': did you mean .*'sticker'"):
        check_scorer("stiker", scenes=6)


def test_a_broken_scorer_is_not_measured(register):
    accepts_all = FakeScorer(lambda image, spec: Score(value=1.0, correct=True))
    with pytest.raises(ScorerBroken, match="self-test"):
        check_scorer(register("broken", accepts_all), scenes=6)


def test_a_style_with_too_few_classes_is_refused(register, monkeypatch, sprites):
    three = {name: sprites.of_class[name] for name in ("person", "cat", "dog")}
    few = replace(sprites, of_class=three)
    monkeypatch.setattr(check.Sprites, "load", lambda style: few)
    with pytest.raises(ValueError, match="draws 3 of GenEval's classes"):
        check_scorer(register("constant", always(True)), scenes=6)


def test_self_test_is_asked_once_before_scoring(register):
    scorer = always(True)
    check_scorer(register("constant", scorer), scenes=6)
    assert scorer.tested


def test_pairs_take_the_tasks_in_turn(sprites):
    pairs = [check._altered(i, 0, sprites, GENEVAL_TASKS) for i in range(12)]
    assert [scene.spec.tag for scene, _, _ in pairs] == 2 * list(GENEVAL_TASKS)
    assert all(scene.spec == twin.spec and scene != twin for scene, twin, _ in pairs)
    assert len({kind for _, _, kind in pairs}) > 1
