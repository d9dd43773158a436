"""The bench of seen and held-out combinations."""

import pytest

from impasto.bench import Bench
from impasto.spec import CLASSES, Item, Spec
from impasto.world.splits import Split, held_out, meaning
from impasto.zoo.registry import BENCHES


@pytest.mark.parametrize("split", ["seen", "held-out"])
def test_specs_are_of_their_split(split):
    bench = BENCHES.create(f"sticker:split={split},per_task=12")
    assert len(bench.specs) == 60 and len({meaning(s) for s in bench.specs}) == 60
    assert [bench.tasks.count(t) for t in bench.tasks] == [1] * 5
    assert all(held_out(s) == (split == "held-out") for s in bench.specs)
    assert all(s in Split(split) for s in bench.specs)


def test_a_name_says_which_prompts():
    bench = BENCHES.create("sticker:per_task=3,seed=2")
    assert BENCHES.create(bench.name) == bench
    assert BENCHES.create("sticker:per_task=3,seed=3").metadata_sha256 != bench.metadata_sha256
    assert isinstance(bench, Bench) and bench.stratified(5).name.endswith("limit=5")


@pytest.mark.parametrize("text", ["sticker:split=train", "sticker:per_task=0",
                                  "sticker:per_task=501"])
def test_what_is_refused(text):
    with pytest.raises(ValueError, match=r"allowed|give"):
        BENCHES.create(text)


def test_the_excluded_are_found_by_meaning_and_by_text():
    spec = BENCHES.create("sticker:split=seen,per_task=1").specs[0]
    split = Split.without([spec])
    assert spec not in split and spec in Split("seen")
    only_text = Split("train", excluded_texts=split.excluded_texts)
    assert spec not in only_text


def test_a_task_that_has_fewer_combinations_has_them_all():
    every = [Spec(tag="counting", include=(Item(cls=c, count=k),), prompt="")
             for c in CLASSES for k in (2, 3, 4)]  # fmt: skip
    kept = {(s.include[0].cls, s.include[0].count) for s in every if held_out(s)}
    bench = BENCHES.create("sticker")
    counting = [s.include[0] for s in bench.specs if s.tag == "counting"]
    assert {(one.cls, one.count) for one in counting} == kept
    assert len(counting) == len(kept) < 40
    assert all(sum(s.tag == task for s in bench.specs) == 40 for task in ("position", "colors"))
