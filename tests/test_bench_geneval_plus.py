"""GenEval++: its prompts are a function of their demands, and so are ours."""

from collections import Counter
from pathlib import Path

import pytest

from impasto.bench.geneval_plus import PER_TASK, TASKS, prompt, read_specs
from impasto.bench.summary import overall_label
from impasto.spec import Item, Spec
from impasto.world.splits import meaning
from impasto.zoo.registry import BENCHES

OFFICIAL = Path(__file__).parents[2] / "shared/data/geneval-plus-plus.jsonl"
official = pytest.mark.skipif(not OFFICIAL.is_file(), reason="the official file is not here")


def spec(tag, *items):
    return Spec(tag=tag, include=items, prompt="")


@pytest.mark.parametrize("demands, words", [
    (spec("color_attr", Item(cls="bus", color="brown"), Item(cls="apple", color="orange"),
          Item(cls="cup", color="red")), "a brown bus, an orange apple, and a red cup"),
    (spec("spatial_count_attr", Item(cls="skis", count=1, region="above"),
          Item(cls="tv", count=3, region="below")),
     "one skises on the above and three tvs on the below"),
    (spec("color_spatial_attr", Item(cls="sheep", color="blue", region="left"),
          Item(cls="cow", color="brown", region="right")),
     "blue sheep on the left and brown cow on the right"),
    (spec("color_count_attr", Item(cls="bus", count=3, color="blue"),
          Item(cls="frisbee", color="black")), "three blue buses and one black frisbees"),
    (spec("multi_object_count_attr", Item(cls="cup"), Item(cls="cat", count=2),
          Item(cls="dog", count=3)), "one cup, two cats, and three dogs"),
    (spec("size_spatial_attr", Item(cls="bench", size="larger", region="above"),
          Item(cls="spoon", size="smaller", region="below")),
     "a larger bench on the above and a smaller spoon on the below"),
    (spec("counting", Item(cls="knife", count=7)), "seven knifes"),
])  # fmt: skip
def test_prompts_by_the_published_templates(demands, words):
    assert prompt(demands) == f"A photo of {words}"


@official
def test_the_official_prompts_are_functions_of_their_demands():
    bench = BENCHES.create(f"geneval-plus:path={OFFICIAL}")
    assert Counter(s.tag for s in bench.specs) == dict.fromkeys(TASKS, PER_TASK)
    assert bench.tasks == TASKS and bench.samples_per_prompt == 1
    assert bench.metadata_text == OFFICIAL.read_text()


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "plus.jsonl"
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="has sha256"):
        read_specs(path)
    with pytest.raises(ValueError, match="take sticker-plus"):
        BENCHES.create("geneval-plus")


def test_sticker_plus_has_the_same_shape():
    bench = BENCHES.create("sticker-plus:per_task=24")
    assert bench.tasks == TASKS and len(bench.specs) == 7 * 24
    assert len({meaning(s) for s in bench.specs}) == 7 * 24
    assert all(s.prompt == prompt(s) for s in bench.specs)
    assert {len(s.include) for s in bench.specs if s.tag == "color_attr"} == {3, 4}
    counting = [s for s in bench.specs if s.tag == "counting"]
    assert {s.include[0].count for s in counting} == {4, 5, 6, 7}
    assert all(s.exclude[0].count == s.include[0].count + 1 for s in counting)
    assert BENCHES.create(bench.name) == bench
    assert BENCHES.create("sticker-plus:seed=1").prompts_sha256 != bench.prompts_sha256


def test_only_all_seven_are_its_overall():
    assert overall_label(TASKS, TASKS) == "overall"
    assert overall_label(TASKS).startswith("mean of 7 tasks")
    assert overall_label(TASKS[:3], TASKS).startswith("mean of 3 tasks")
