"""The sticker world: exact by construction, deterministic, without the evaluation's scenes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from impasto.bench.geneval_prompts import geneval_specs
from impasto.spec import CLASSES, COLORS, Item, Spec, relations
from impasto.train.data import training_split
from impasto.world import Split, alter, alterations, compose, pack, render, sample_spec
from impasto.world.splits import combinations, held_out, leaks, meaning
from impasto.world.sprites import NATURAL, RGB
from impasto.world.tasks import GENEVAL_PLUS_TASKS, GENEVAL_TASKS

ALL_TASKS = dict.fromkeys([*GENEVAL_TASKS, *GENEVAL_PLUS_TASKS], 1.0)


def scene_of(sprites, seed, weights=None, split=None):
    rng = np.random.default_rng([11, seed])
    return compose(sample_spec(rng, sprites.classes, split, weights or ALL_TASKS), rng, sprites)


def facts(scene, out, row):
    """(class, colour) -> boxes, read from the rendered masks and not from the scene."""
    found: dict[tuple[str, str | None], list] = {}
    for k in range(out.classes.shape[1]):
        if out.classes[row, k] >= 0:
            color = int(out.colors[row, k])
            key = CLASSES[out.classes[row, k]], None if color == NATURAL else COLORS[color]
            found.setdefault(key, []).append(out.boxes[row, k].tolist())
    return found


def test_every_class_is_drawn_in_every_color(sprites):
    assert sprites.classes == CLASSES
    assert sprites.pixels.shape[1:] == (11, 4, 96, 96)
    assert sum(len(v) > 1 for v in sprites.of_class.values()) >= 20


@pytest.mark.parametrize("color", COLORS)
def test_recolouring_reaches_a_large_part_of_each_drawing(sprites, color):
    """At least 15 % of the opaque pixels change towards the colour, in every drawing."""
    index = COLORS.index(color)
    other = COLORS.index("blue" if color != "blue" else "yellow")
    a, b = sprites.pixels[:, index].float(), sprites.pixels[:, other].float()
    opaque = (a[:, 3] > 250).flatten(1).sum(1)
    changed = ((a[:, :3] - b[:, :3]).abs().sum(1) > 90).flatten(1).sum(1)
    share = changed / opaque
    assert float(share.min()) > 0.15, [k for k, v in enumerate(share.tolist()) if v <= 0.15]


def test_flat_fill_has_the_colour_asked_for(sprites):
    for index, color in enumerate(COLORS):
        apple = sprites.pixels[sprites.of_class["book"][0], index].float()
        target = torch.tensor(RGB[color]).float()[:, None, None]
        near = ((apple[:3] - target).abs().amax(0) <= 3) & (apple[3] == 255)
        assert near.float().mean() > 0.2, color


def test_scenes_show_their_specs_exactly(sprites):
    """300 scenes of all tasks: counts, colours, regions, sizes and GenEval's relation formula."""
    scenes = [scene_of(sprites, i) for i in range(300)]
    for start in range(0, 300, 50):
        out = render(scenes[start : start + 50], sprites)
        for row, scene in enumerate(scenes[start : start + 50]):
            found = facts(scene, out, row)
            wanted = {(i.cls, i.color): i.count for i in scene.spec.include}
            assert {k: len(v) for k, v in found.items()} == wanted, scene.spec.prompt
            for item in scene.spec.include:
                boxes = found[item.cls, item.color]
                if item.position:
                    target = scene.spec.include[item.position[1]]
                    (a,), (b,) = boxes, found[target.cls, target.color]
                    assert item.position[0] in relations(a, b), scene.spec.prompt
                if item.region:
                    axis = 0 if item.region in ("left", "right") else 1
                    middle = {(b[axis] + b[axis + 2]) / 2 < 64 for b in boxes}
                    assert middle == {item.region in ("left", "above")}, scene.spec.prompt


def test_analytic_boxes_agree_with_rendered_ones(sprites):
    scenes = [scene_of(sprites, i, {"single_object": 1.0}) for i in range(40)]
    out = render(scenes, sprites)
    for row, scene in enumerate(scenes):
        assert np.abs(np.array(scene.boxes(sprites)[0]) - out.boxes[row, 0].numpy()).max() <= 2.0


def test_masks_are_visible_pixels_and_disjoint(sprites):
    spec = Spec(tag="two_object", include=(Item(cls="book"), Item(cls="apple")), prompt="x")
    scene = compose(spec, np.random.default_rng(0), sprites)
    under, over = (replace(o, cx=64.0, cy=64.0, size=60.0) for o in scene.objects)
    out = render([replace(scene, objects=(under, over))], sprites)
    assert not (out.masks[0, 0] & out.masks[0, 1]).any()
    assert out.masks[0, 1].sum() > out.masks[0, 0].sum() > 0


def test_rendering_is_deterministic_and_independent_of_the_batch(sprites):
    scenes = [scene_of(sprites, i) for i in range(6)]
    again = [scene_of(sprites, i) for i in range(6)]
    assert scenes == again
    whole = render(scenes, sprites)
    for i in range(6):
        one = render(scenes[i : i + 1], sprites)
        assert torch.equal((one.images[0] * 255).round(), (whole.images[i] * 255).round())
    assert torch.equal((whole.images * 255).round() / 255, whole.images)


def test_splits_hold_out_combinations_and_meanings(sprites):
    split, evaluation = training_split(), geneval_specs()
    banned = {meaning(s) for s in evaluation}
    weights = {k: v for k, v in ALL_TASKS.items() if k != "single_object"}
    specs = [scene_of(sprites, i, weights, split).spec for i in range(300)]
    assert not any(held_out(s) or meaning(s) in banned for s in specs)
    assert leaks([s.prompt for s in specs], specs, evaluation) == []
    unseen = [scene_of(sprites, i, {"color_attr": 1.0}, Split("held-out")).spec for i in range(20)]
    assert all(held_out(s) for s in unseen)


def test_leaks_are_found_in_other_words():
    a = Spec(tag="position", prompt="a photo of a cat left of a dog", include=(
        Item(cls="dog"), Item(cls="cat", position=("left of", 0))))  # fmt: skip
    b = Spec(tag="position", prompt="other words", include=(
        Item(cls="cat"), Item(cls="dog", position=("right of", 0))))  # fmt: skip
    c = replace(b, include=(Item(cls="cat"), Item(cls="dog", position=("left of", 0))))
    assert meaning(a) == meaning(b) != meaning(c)
    assert leaks([], [b, c], [a]) == ["other words"]
    assert leaks(["A photo of a CAT, left of a dog!"], [], [a]) != []
    assert combinations(a) == {"cat + dog"}


@pytest.mark.parametrize("task", list(GENEVAL_TASKS))
def test_altered_scenes_break_exactly_one_fact(sprites, task):
    for i in range(12):
        scene = scene_of(sprites, i, {task: 1.0})
        for kind in alterations(scene.spec):
            other, told = alter(scene, np.random.default_rng(i), sprites, kind)
            assert told == kind
            assert other.spec == scene.spec
            before = sorted((o.cls, o.color or "") for o in scene.objects)
            after = sorted((o.cls, o.color or "") for o in other.objects)
            if kind == "relation":
                assert before == after
            elif kind == "count":
                assert abs(len(before) - len(after)) == 1
            else:
                assert len(before) == len(after)
                assert before != after


def test_bad_input_is_named(sprites):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown task"):
        sample_spec(rng, sprites.classes, None, {"color": 1.0})
    with pytest.raises(ValueError, match="allowed: train, seen, held-out"):
        Split("test")
    with pytest.raises(ValueError, match="no layout of 60 objects"):
        compose(Spec(tag="x", include=(Item(cls="bus", count=60),), prompt="p"), rng, sprites)
    with pytest.raises(ValueError, match="states no color"):
        alter(scene_of(sprites, 0, {"two_object": 1.0}), rng, sprites, "color")
    with pytest.raises(ValueError, match="at least one scene"):
        pack([])
