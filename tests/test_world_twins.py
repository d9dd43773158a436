"""Twins: one fact apart, and which scene shows which prompt, by GenEval's rule on the scene."""

import numpy as np
import pytest

from impasto.score.base import Found
from impasto.score.verdict import Thresholds, judge
from impasto.spec import Item, Spec
from impasto.world import compose, sample_spec
from impasto.world.splits import CONVERSE
from impasto.world.tasks import GENEVAL_TASKS
from impasto.world.twins import CHANCES, differences, twin, twin_spec
from impasto.world.words import template

TASKS = {**dict.fromkeys(GENEVAL_TASKS, 1.0), "region": 1.0, "color_count_attr": 1.0,
         "color_spatial_attr": 1.0, "three_colors": 1.0}  # fmt: skip


def scene_of(task, seed, sprites):
    rng = np.random.default_rng([seed, list(TASKS).index(task)])
    return compose(sample_spec(rng, sprites.classes, weights={task: 1.0}), rng, sprites), rng


def accepted(scene, spec, sprites):
    """GenEval's verdict on what the scene holds."""
    found, colors = {}, {}
    for thing, box in zip(scene.objects, scene.boxes(sprites), strict=True):
        one = Found(thing.cls, box, 1.0, None)
        found.setdefault(thing.cls, []).append(one)
        colors[id(one)] = thing.color or "natural"
    return judge(spec, found, lambda one: colors[id(one)], Thresholds()).correct


@pytest.mark.parametrize("task", GENEVAL_TASKS)
def test_the_rule_agrees_with_what_is_said_of_both_scenes(task, sprites):
    kinds = set()
    for seed in range(12):
        scene, rng = scene_of(task, seed, sprites)
        for kind in differences(scene.spec):
            other = twin(scene, rng, sprites, kind)
            assert accepted(scene, scene.spec, sprites)
            assert accepted(other.scene, other.scene.spec, sprites)
            assert accepted(scene, other.scene.spec, sprites) == other.first_shows
            assert accepted(other.scene, scene.spec, sprites) == other.second_shows
            kinds.add(other.kind)
    assert kinds == {
        "single_object": {"class"}, "two_object": {"class", "missing"},
        "counting": {"class", "count"}, "colors": {"class", "color"},
        "position": {"class", "missing", "relation"},
        "color_attr": {"class", "missing", "color", "swap"},
    }[task]  # fmt: skip


def test_relations_across_are_asked_of_the_formula(sprites):
    """Of two relations across, both can be true; the converse never is."""
    said = set()
    for seed in range(60):
        scene, rng = scene_of("position", seed, sprites)
        other = twin(scene, rng, sprites, "relation")
        before, after = (s.include[1].position[0] for s in (scene.spec, other.scene.spec))
        said.add((CONVERSE[before] == after, other.first_shows or other.second_shows))
    assert said == {(True, False), (False, False), (False, True)}


@pytest.mark.parametrize("task", TASKS)
def test_a_twin_has_a_prompt_of_its_own_that_says_what_it_is(task, sprites):
    for seed in range(8):
        scene, rng = scene_of(task, seed, sprites)
        for kind in differences(scene.spec):
            spec, told = twin_spec(scene.spec, rng, sprites.classes, kind)
            assert told == kind and spec.prompt == template(spec.tag, spec.include)
            assert spec.prompt != scene.spec.prompt and spec.include != scene.spec.include
            assert bool(spec.exclude) == (spec.tag == "counting")


def differing(before, after):
    return [name for name in ("cls", "count", "color", "position", "region")
            if any(getattr(a, name) != getattr(b, name)
                   for a, b in zip(before.include, after.include, strict=True))]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "kind", "fields"),
    [("color_attr", "swap", ["color"]), ("color_attr", "color", ["color"]),
     ("color_attr", "class", ["cls"]), ("position", "relation", ["position"]),
     ("counting", "count", ["count"]), ("region", "region", ["region"])],
)  # fmt: skip
def test_one_thing_is_different(task, kind, fields, sprites):
    for seed in range(8):
        scene, rng = scene_of(task, seed, sprites)
        spec, _ = twin_spec(scene.spec, rng, sprites.classes, kind)
        assert differing(scene.spec, spec) == fields
        if kind == "swap":
            colors = [item.color for item in scene.spec.include]
            assert [item.color for item in spec.include] == colors[::-1]


def test_what_a_spec_does_not_say_cannot_differ():
    cup = Spec(tag="single_object", include=(Item(cls="cup"),), prompt="a photo of a cup")
    assert differences(cup) == ("class",)
    with pytest.raises(ValueError, match="cannot differ in count; allowed: class"):
        twin_spec(cup, np.random.default_rng(0), ("cup", "dog"), "count")


def test_kinds_come_as_often_as_they_should(sprites):
    scene, rng = scene_of("position", 0, sprites)
    kinds = [twin_spec(scene.spec, rng, sprites.classes)[1] for _ in range(700)]
    total = sum(CHANCES[kind] for kind in set(kinds))
    for kind in ("class", "missing", "relation"):
        assert kinds.count(kind) / 700 == pytest.approx(CHANCES[kind] / total, abs=0.06)
