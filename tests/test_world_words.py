"""Words: templates byte for byte, captions that mean their spec and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest

from impasto.spec import CLASSES, Item, Spec
from impasto.world.parse import parse
from impasto.world.scenes import Background, Placed, Scene
from impasto.world.splits import meaning
from impasto.world.tasks import GENEVAL_PLUS_TASKS, GENEVAL_TASKS
from impasto.world.words import (
    caption,
    dense_caption,
    english_plural,
    english_singular,
    template,
)

DATA = Path(__file__).parents[2] / "shared" / "data"
TASKS = GENEVAL_TASKS | GENEVAL_PLUS_TASKS


def official(name):
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"needs {path}: the official set is fetched, not part of the project")
    return [Spec.from_dict(json.loads(line)) for line in path.read_text().splitlines()]


def specs(count, seed=0):
    """`count` random specs of every task."""
    rng = np.random.default_rng(seed)
    return [task(rng, CLASSES) for task in TASKS.values() for _ in range(count)]


def demands(text):
    return meaning(Spec(tag="", include=parse(text), prompt=text))


@pytest.mark.parametrize(
    ("name", "opening", "count"),
    [("geneval-evaluation-metadata.jsonl", "a photo of", 553),
     ("geneval-plus-plus.jsonl", "A photo of", 280)],
)  # fmt: skip
def test_templates_and_parser_reproduce_the_official_sets(name, opening, count):
    every = official(name)
    assert len(every) == count
    for spec in every:
        assert template(spec.tag, spec.include, opening) == spec.prompt
        assert parse(spec.prompt) == spec.include


@pytest.mark.parametrize("tag", ["counting_many", "three_colors"])
def test_a_template_needs_a_known_tag(tag):
    with pytest.raises(ValueError, match="allowed: single_object"):
        template(tag, (Item(cls="cup"),))


@pytest.mark.parametrize("name", TASKS)
def test_templates_are_the_prompts_of_the_world(name):
    rng = np.random.default_rng(1)
    for _ in range(50):
        spec = TASKS[name](rng, CLASSES)
        assert template(spec.tag, spec.include) == spec.prompt
        assert parse(spec.prompt) == spec.include


def test_paraphrases_mean_the_spec():
    rng = np.random.default_rng(2)
    for spec in specs(60):
        for _ in range(5):
            text = caption(spec, rng, "paraphrase")
            assert demands(text) == meaning(spec), text


def test_captions_of_different_meaning_never_collide():
    """Also among specs that differ in one word only, where a collision would be."""
    rng, seen = np.random.default_rng(3), {}
    few = ("cup", "orange", "dog", "hot dog", "skis", "tv", "tv remote")
    for task in TASKS.values():
        for _ in range(300):
            spec = task(rng, few)
            for text in (spec.prompt, caption(spec, rng, "paraphrase")):
                assert seen.setdefault(text, meaning(spec)) == meaning(spec), text
    assert len(seen) > 1000


def test_a_relation_is_also_worded_as_its_converse():
    items = (Item(cls="dog"), Item(cls="cat", position=("left of", 0)))
    spec = Spec(tag="position", include=items, prompt="a photo of a cat left of a dog")
    texts = {caption(spec, np.random.default_rng(i), "paraphrase") for i in range(300)}
    assert len(texts) > 30
    assert any("dog to the right of" in text for text in texts)
    assert any("with a cat on its left" in text for text in texts)
    assert not any("cat right of" in text or "cat to the right of" in text for text in texts)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_six_families_of_paraphrases(name):
    spec = TASKS[name](np.random.default_rng(4), CLASSES)
    assert len({caption(spec, np.random.default_rng(i), "paraphrase") for i in range(200)}) >= 6


def test_a_wording_depends_on_the_random_state_alone():
    spec = specs(1)[3]
    first, second = (caption(spec, np.random.default_rng(9), "paraphrase") for _ in range(2))
    assert first == second


def test_plurals_as_people_write_them():
    words = {"knife": "knives", "sheep": "sheep", "person": "people", "bench": "benches",
             "bus": "buses", "wine glass": "wine glasses", "cup": "cups"}  # fmt: skip
    assert {word: english_plural(word) for word in words} == words
    assert english_singular("scissors") == "pair of scissors"
    assert english_singular("cup") == "cup"


@pytest.mark.parametrize("text", ["a photo of a unicorn", "a cup beside a dog", "", "many cups"])
def test_what_is_not_understood_is_named(text):
    with pytest.raises(ValueError, match="noun"):
        parse(text)


def test_unknown_style():
    with pytest.raises(ValueError, match="allowed: geneval, paraphrase"):
        caption(specs(1)[0], np.random.default_rng(0), "poem")


def test_a_dense_caption_names_size_colour_place_and_background():
    objects = (Placed("cup", "red", 0, 20, 20, 70), Placed("dog", None, 0, 110, 64, 30))
    scene = Scene(specs(1)[0], objects, Background("dots", (0.9, 0.9, 0.9), (0.8, 0.8, 0.8)))
    text = dense_caption(scene, np.random.default_rng(0))
    assert "a large red cup in the top left" in text
    assert "a small dog in the middle right" in text
    assert text.endswith("on a light dots background")
