"""Questions have one answer, and it is the scene's; edits do what they say and nothing else."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from impasto.spec import COLORS, Item, Spec, relations
from impasto.world import Background, Placed, Scene, Sprites, compose, render, sample_spec
from impasto.world.edits import KINDS as EDITS
from impasto.world.edits import edit
from impasto.world.questions import KINDS, names, questions
from impasto.world.references import compose_references
from impasto.world.room import BESIDE
from impasto.world.scenes import MAX_COVER
from impasto.world.tasks import GENEVAL_PLUS_TASKS, GENEVAL_TASKS

TASKS = dict.fromkeys(GENEVAL_TASKS | GENEVAL_PLUS_TASKS, 1.0)


@pytest.fixture(scope="module")
def sprites():
    return Sprites.load()


@pytest.fixture(scope="module")
def scenes(sprites):
    """Scenes of every task, with one to seven objects."""
    made = []
    for i in range(60):
        rng = np.random.default_rng([5, i])
        made.append(compose(sample_spec(rng, sprites.classes, weights=TASKS), rng, sprites))
    return made


def scene_of(sprites, *things):
    """A scene with (class, colour, cx, cy) objects of 30 px."""
    objects = tuple(Placed(cls, color, sprites.of_class[cls][0], x, y, 30.0)
                    for cls, color, x, y in things)  # fmt: skip
    return Scene(Spec(tag="", include=(), prompt="test"), objects,
                 Background("plain", (0.9, 0.9, 0.9), (0.9, 0.9, 0.9)))  # fmt: skip


def answers(scene, sprites, seeds=40):
    """Text -> answer over many random states; a question always has the same answer."""
    found = {}
    for seed in range(seeds):
        for q in questions(scene, np.random.default_rng(seed), sprites):
            assert found.setdefault(q.text, q.answer) == q.answer
    return found


@pytest.fixture(scope="module")
def known(sprites):
    scene = scene_of(sprites, ("cup", "red", 25, 64), ("dog", None, 100, 64),
                     ("book", "blue", 25, 20), ("book", "green", 100, 110))  # fmt: skip
    return scene, answers(scene, sprites)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("How many books are there?", "two"),
        ("How many blue books are there?", "one"),
        ("How many objects are there in total?", "four"),
        ("Are there exactly three books?", "no"),
        ("Is there exactly one cup?", "yes"),
        ("What color is the cup?", "red"),
        ("Is the cup red?", "yes"),
        ("Is the cup to the left of the dog?", "yes"),
        ("Is the cup to the right of the dog?", "no"),
        ("Is the blue book above the cup?", "yes"),
        ("What is above the cup?", "a blue book"),
        ("Is the cup on the left or on the right of the picture?", "left"),
        ("Is the green book at the top or at the bottom of the picture?", "bottom"),
        ("Is there a dog in the picture?", "yes"),
        ("Is there a blue book in the picture?", "yes"),
        ("Is there an orange book in the picture?", "no"),
    ],
)
def test_answers_of_a_known_scene(known, text, answer):
    assert known[1][text] == answer


def test_what_is_ambiguous_is_not_asked(known):
    texts = " ".join(known[1])
    assert "color is the dog" not in texts, "the dog is natural"
    assert "the book " not in texts, "there are two books"
    assert "cup at the top or" not in texts, "the cup is in the middle"
    assert "wine glass" not in texts, "a cup may pass for one"
    assert "Is the dog above the cup" not in texts, "the dog is beside the cup"


def test_a_natural_object_may_look_like_a_coloured_one(sprites):
    scene = scene_of(sprites, ("apple", None, 25, 64), ("apple", "green", 100, 64))
    texts = " ".join(answers(scene, sprites))
    assert names(scene, sprites) == {0: "leftmost apple", 1: "rightmost apple"}
    assert "green apple" not in texts
    assert "red apple" not in texts


def test_a_place_tells_equal_objects_apart(sprites):
    scene = scene_of(sprites, ("cup", "red", 64, 20), ("cup", "red", 60, 60),
                     ("cup", "red", 66, 100))  # fmt: skip
    assert names(scene, sprites) == {0: "highest cup", 2: "lowest cup"}


def test_questions_are_of_every_kind_and_depend_on_the_random_state_alone(known, sprites):
    first, second = (questions(known[0], np.random.default_rng(3), sprites) for _ in range(2))
    assert first == second
    assert {q.kind for q in first} == set(KINDS)
    assert len({q.text for q in first}) == len(first)


def test_yes_and_no_come_equally_often(scenes, sprites):
    rng, seen = np.random.default_rng(0), Counter()
    for scene in scenes:
        seen.update((q.kind, q.answer) for q in questions(scene, rng, sprites))
    for kind in KINDS:
        yes, no = seen[kind, "yes"], seen[kind, "no"]
        assert yes + no >= 20 and abs(yes - no) < 3 * (yes + no) ** 0.5, kind


def test_counts_agree_with_the_scene(scenes, sprites):
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven")
    for scene in scenes:
        texts = answers(scene, sprites, 1)
        assert texts["How many objects are there in total?"] == words[len(scene.objects)]


def edits(scenes, sprites, kind):
    """One edit of every scene that allows it."""
    for i, scene in enumerate(scenes):
        try:
            yield edit(scene, np.random.default_rng([7, i]), kind, sprites)
        except ValueError as error:
            assert "can be named" in str(error) or "no room" in str(error)


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_changes_one_object_and_no_pixel_elsewhere(scenes, sprites, kind):
    done = list(edits(scenes, sprites, kind))
    assert len(done) >= 20
    for e in done:
        before, after = set(e.source.objects), set(e.target.objects)
        gone, new = before - after, after - before
        assert (len(gone), len(new)) == {"add": (0, 1), "remove": (1, 0)}.get(kind, (1, 1))
        assert [o for o in e.source.objects if o in after] == [
            o for o in e.target.objects if o in before
        ], "depth order"
        assert e.target.background == e.source.background
    pictures = render([s for e in done for s in (e.source, e.target)], sprites).images
    for e, (a, b) in zip(done, pictures.unflatten(0, (-1, 2)), strict=True):
        changed = (a != b).any(0)
        assert changed.any()
        assert not (changed & ~near(e, sprites)).any()


def near(e, sprites, margin=3):
    """(S, S) bool: pixels in the boxes of what differs between source and target."""
    allowed = torch.zeros(e.source.size, e.source.size, dtype=torch.bool)
    for own, other in ((e.source, e.target), (e.target, e.source)):
        for o, box in zip(own.objects, own.boxes(sprites), strict=True):
            if o not in other.objects:
                grown = np.add(box, (-margin, -margin, margin, margin)).clip(0)
                x1, y1, x2, y2 = grown.astype(int)
                allowed[y1:y2, x1:x2] = True
    return allowed


def holds(scene, sprites):
    """Whether a scene shows its spec: exact counts, colours and the relation."""
    boxes = scene.boxes(sprites)
    for item in scene.spec.include:
        looks = Counter((o.cls, o.color) for o in scene.objects)
        if looks[item.cls, item.color] != item.count:
            return False
        if item.position is not None:
            relation, k = item.position
            other = scene.spec.include[k].cls
            (a,) = [b for o, b in zip(scene.objects, boxes, strict=True) if o.cls == item.cls]
            (b,) = [b for o, b in zip(scene.objects, boxes, strict=True) if o.cls == other]
            if relation not in relations(a, b):
                return False
    return sum(i.count for i in scene.spec.include) == len(scene.objects)


def overlap(scene, sprites):
    """The largest share of a box that another one covers."""
    boxes, worst = scene.boxes(sprites), 0.0
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            area = min((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
            worst = max(worst, max(w, 0) * max(h, 0) / area)
    return worst


@pytest.mark.parametrize("kind", EDITS)
def test_the_target_is_what_its_spec_says(scenes, sprites, kind):
    for e in edits(scenes, sprites, kind):
        assert holds(e.target, sprites)
        assert overlap(e.target, sprites) <= MAX_COVER + 1e-9
        assert e.target.caption == e.target.spec.prompt
        assert all(0 <= v <= e.target.size for box in e.target.boxes(sprites) for v in box)


def test_instructions_say_what_was_done(scenes, sprites):
    for kind in EDITS:
        for e in edits(scenes, sprites, kind):
            gone = [o for o in e.source.objects if o not in e.target.objects]
            new = [o for o in e.target.objects if o not in e.source.objects]
            if kind == "add":
                assert new[0].cls in e.instruction
            else:
                assert names(e.source, sprites)[e.source.objects.index(gone[0])] in e.instruction
            if kind == "recolour":
                assert new[0].color in e.instruction
                assert gone[0] == replace(new[0], color=gone[0].color)
            if kind == "move":
                assert gone[0] == replace(new[0], cx=gone[0].cx, cy=gone[0].cy)
                assert any(f" {words} " in e.instruction for words in BESIDE.values())


def test_a_removed_class_is_excluded(sprites):
    scene = scene_of(sprites, ("cup", "red", 25, 64), ("dog", None, 100, 64))
    e = edit(scene, np.random.default_rng(0), "remove", sprites)
    (kept,) = e.target.objects
    (gone,) = {"cup", "dog"} - {kept.cls}
    assert Item(cls=gone, count=1) in e.target.spec.exclude
    assert e.instruction.endswith(f"the {gone}") or f"the {gone} " in e.instruction


def test_a_natural_apple_is_not_painted_red(sprites):
    scene = scene_of(sprites, ("apple", None, 64, 64))
    drawn = {edit(scene, np.random.default_rng(i), "recolour", sprites).target.objects[0].color
             for i in range(60)}  # fmt: skip
    assert "red" not in drawn
    assert len(drawn) > 4
    assert drawn < set(COLORS)


def test_edits_refuse_what_they_cannot_do(sprites):
    one = scene_of(sprites, ("cup", "red", 64, 64))
    twins = scene_of(sprites, ("cup", "red", 60, 60), ("cup", "red", 66, 66))
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="allowed: recolour, add, remove, replace, move"):
        edit(one, rng, "melt", sprites)
    for scene, kind in ((one, "remove"), (one, "move"), (twins, "recolour"), (twins, "replace")):
        with pytest.raises(ValueError, match="can be named"):
            edit(scene, rng, kind, sprites)


def test_no_room_is_an_error_and_not_an_overlap(sprites):
    full = scene_of(sprites, ("sports ball", "red", 64, 64))
    full = replace(full, objects=(replace(full.objects[0], size=126.0),))
    with pytest.raises(ValueError, match="no room to add"):
        edit(full, np.random.default_rng(0), "add", sprites)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_compositions_take_one_object_of_each_reference(scenes, sprites, count):
    for i in range(10):
        rng = np.random.default_rng([11, i])
        usable = [s for s in scenes[i : i + 40] if names(s, sprites)][:count]
        made = compose_references(usable, rng, sprites)
        assert made.references == tuple(usable)
        assert len(made.target.objects) == count
        for thing, source in zip(made.target.objects, usable, strict=True):
            look = {(o.cls, o.color, o.drawing, o.angle, o.flip) for o in source.objects}
            assert (thing.cls, thing.color, thing.drawing, thing.angle, thing.flip) in look
        assert made.target.background == usable[0].background
        assert holds(made.target, sprites)
        assert overlap(made.target, sprites) <= MAX_COVER + 1e-9
        assert "from the first picture" in made.instruction
        if count == 2:
            assert any(f" {words} the " in made.instruction for words in BESIDE.values())


def test_compositions_need_two_scenes_of_one_size(scenes, sprites):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="2 to 7 scenes"):
        compose_references(scenes[:1], rng, sprites)
    with pytest.raises(ValueError, match="one size"):
        compose_references([scenes[0], replace(scenes[1], size=64)], rng, sprites)
