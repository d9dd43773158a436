"""Soft-TIFA: its means by hand, GenEval 2's file, and the sticker world's own questions."""

import json

import numpy as np
import pytest
import torch

from impasto.bench.geneval2 import geneval2_bench
from impasto.bench.results import Record
from impasto.score.base import Found, ScorerBroken
from impasto.score.geneval import GenEvalScorer
from impasto.score.geneval2 import parse_items, read_items
from impasto.score.judges.local import LocalJudge
from impasto.score.tifa import Ask, TifaScorer, VlmAnswerer, probabilities, soft_tifa
from impasto.score.tifa_detector import DetectorAnswerer, asks_of, confidence, exactly
from impasto.spec import Item, Spec
from impasto.world import Sprites, alter, compose, render, sample_spec
from impasto.zoo.registry import BENCHES, SCORERS
from tests import tiny_vlm

PICTURE = torch.full((3, 128, 128), 0.5)


def test_the_two_means_by_hand():
    assert soft_tifa([0.5, 0.5, 0.125]) == pytest.approx((0.375, 0.3149802625))  # (1/32)^(1/3)
    assert soft_tifa([0.9]) == pytest.approx((0.9, 0.9))
    assert soft_tifa([1.0, 0.0]) == (0.5, 0.0)
    for p in ([], [1.2], [float("nan")]):
        with pytest.raises(ValueError, match="probabilities"):
            soft_tifa(p)


LINES = [
    {"prompt": "two dogs and a red car", "atom_count": 4,
     "vqa_list": [["How many dogs are in the image?", "two"], ["Is the car red?", "Yes"]],
     "skills": ["count", "attribute"]},
    {"prompt": "a bear chasing a pig", "atom_count": 3,
     "vqa_list": [["Are there any pigs in the image?", "Yes"]], "skills": ["object"]},
]  # fmt: skip


def items():
    return parse_items("".join(json.dumps(line) + "\n" for line in LINES))


class Fixed:
    """Answers from a list, for rules to be checked by hand."""

    def __init__(self, *p):
        self.p = list(p)

    def answer(self, image, asks):
        return [self.p.pop(0) for _ in asks]


def records(bench, asks_of_spec, *p):
    scorer = TifaScorer(Fixed(*p), asks_of_spec, name="fixed")
    scores = scorer.score(PICTURE[None].expand(len(bench.specs), -1, -1, -1), bench.specs)
    return [Record.of(f"images/{i:05d}/samples/00000.png", spec, score)
            for i, (spec, score) in enumerate(zip(bench.specs, scores, strict=True))]  # fmt: skip


def test_geneval2_is_summed_up_as_its_paper_does():
    """By hand: GM sqrt(.9 * .4) = .6 and .8; AM .65 and .8; skills as they are."""
    bench = geneval2_bench(items())
    asks = {item.prompt: item.asks for item in items()}
    found = records(bench, lambda spec: asks[spec.prompt], 0.9, 0.4, 0.8)
    summary = bench.summarise(found)
    tifa = summary["soft_tifa"]
    assert tifa["gm"]["score"] == pytest.approx(70)
    assert tifa["am"]["score"] == pytest.approx(72.5)
    assert {k: v["score"] for k, v in tifa["skills"].items()} == pytest.approx(
        {"attribute": 40, "count": 90, "object": 80})  # fmt: skip
    assert {k: v["score"] for k, v in tifa["atomicity"].items()} == pytest.approx(
        {"3": 80, "4": 60})  # fmt: skip
    assert summary["overall"]["score"] == pytest.approx(0.7)
    assert summary["overall"]["low"] < 0.7 < summary["overall"]["high"]
    assert [r.correct for r in found] == [False, True]
    assert found[0].reason == "Is the car red? yes: 0.400"
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_uneven_atoms_weigh_by_prompt_and_not_by_task():
    three = [*LINES, {**LINES[1], "prompt": "a cow chasing a pig"}]
    parsed = parse_items("\n".join(map(json.dumps, three)))
    bench = geneval2_bench(parsed)
    asks = {item.prompt: item.asks for item in parsed}
    summary = bench.summarise(records(bench, lambda s: asks[s.prompt], 0.9, 0.4, 0.8, 0.1))
    assert summary["soft_tifa"]["gm"]["score"] == pytest.approx(50)  # (.6 + .8 + .1) / 3


def test_other_files_and_answers_are_refused(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(LINES[0]))
    with pytest.raises(ValueError, match="has sha256"):
        read_items(path)
    with pytest.raises(ValueError, match="take sticker-tifa"):
        BENCHES.create("geneval2")
    with pytest.raises(ValueError, match="take sticker-tifa"):
        SCORERS.create("geneval2", device="cpu")
    for change in ({"skills": ["count"]}, {"vqa_list": [["a", "maybe"], ["b", "yes"]]}):
        with pytest.raises(ValueError, match="the text:1 is no line"):
            parse_items(json.dumps(LINES[0] | change))
    with pytest.raises(ValueError, match="needs a scorer that answers"):
        probabilities({"dog": [[0, 0, 1, 1, 0.9]]}, items()[0].asks)


def test_a_vision_language_model_answers_and_an_untrained_one_fails_its_self_test(tmp_path):
    judge = LocalJudge.from_folder(tiny_vlm.saved(tmp_path))
    plain, official = VlmAnswerer(judge), VlmAnswerer(judge, official=True)
    (asks,) = {item.asks for item in items()[:1]}
    p, twice = plain.answer(PICTURE, asks), official.answer(PICTURE, asks)
    assert all(0 <= a <= b for a, b in zip(p, twice, strict=True)) and p != twice
    with pytest.raises(ScorerBroken, match="cannot judge"):
        plain.self_test()


def test_questions_of_a_spec():
    spec = Spec(tag="x", prompt="", include=(
        Item(cls="cup", count=2, color="red", region="left"),
        Item(cls="skis", size="larger"), Item(cls="dog", size="smaller", position=("above", 1)),
    ), exclude=(Item(cls="dog", count=2),))  # fmt: skip
    assert [(a.text, a.skill) for a in asks_of(spec)] == [
        ("Is there a cup in the picture?", "object"),
        ("Are there exactly two cups in the picture?", "count"),
        ("Are the cups red?", "attribute"),
        ("Are the cups in the left half of the picture?", "region"),
        ("Is there a pair of skis in the picture?", "object"),
        ("Is there a dog in the picture?", "object"),
        ("Is there exactly one dog in the picture?", "count"),
        ("Is the dog above the pair of skis?", "position"),
        ("Is the pair of skis larger than the dog?", "size"),
    ]


class Objects:
    def detect(self, images):
        return [[Found("cup", (0, 0, 20, 20), 0.5), Found("cup", (90, 0, 120, 20), 0.8),
                 Found("dog", (0, 90, 50, 120), 0.9)]]  # fmt: skip


class LeftIsRed:
    def classify(self, crops):
        return ["red" if one.box[0] == 0 else "blue" for _, one in crops]


def test_answers_by_hand():
    """Two cups of .8 (right, blue) and .5 (left, red), a dog of .9 below; a picture of 128 px."""
    answerer = DetectorAnswerer(GenEvalScorer(Objects(), LeftIsRed()), lambda d, t: d)

    def p(skill, item, other=None):
        return answerer.answer(PICTURE, [Ask("", "yes", skill, item, other)])[0]

    two = Item(cls="cup", count=2, color="red", region="left")
    dog = Item(cls="dog", position=("below", 0), size="larger")
    assert p("object", two) == 0.8 and p("object", Item(cls="cat")) == 0
    assert p("count", two) == pytest.approx(0.4)  # .8 * .5
    assert p("count", Item(cls="cup")) == pytest.approx(0.5)  # .8 * .5 + .2 * .5
    assert p("count", Item(cls="cup", count=3)) == 0
    assert p("attribute", two) == pytest.approx(0.25)  # .5 / 2
    assert p("attribute", Item(cls="cup", color="red")) == 0  # the most confident one is blue
    assert p("region", two) == pytest.approx(0.25)
    # Centres (25, 105) and (105, 10), sides 50 + 30 and 30 + 20: dy = (95 - 5) / 124.2 = .72.
    assert p("position", dog, Item(cls="cup")) == pytest.approx(0.72)  # .9 * .8
    above = Item(cls="dog", position=("above", 0))
    assert p("position", above, Item(cls="cup")) == 0
    assert p("size", dog, Item(cls="cup")) == pytest.approx(0.72)  # .9 * .8; 1500 > 600 px
    assert p("size", Item(cls="cup", size="larger"), Item(cls="dog")) == 0
    with pytest.raises(ValueError, match="cannot read"):
        answerer.answer(PICTURE, [Ask("Is it red?", "yes", "attribute")])


def test_confidence_by_hand():
    """1/2 at the threshold; odds 1 against 3/7, a ratio of 7/3, to the fourth: 29.64."""
    assert confidence(0.3, 0.3) == pytest.approx(0.5)
    assert confidence(0.5, 0.3) == pytest.approx(29.6420 / 30.6420, rel=1e-5)
    assert 0 <= confidence(0.0, 0.3) < 1e-6 and confidence(1.0, 0.3) <= 1


def test_exactly_is_the_binomial_law_for_equal_scores():
    """C(4, 2) .3^2 .7^2 = 0.2646."""
    assert exactly(2, [0.3] * 4) == pytest.approx(0.2646)
    assert sum(exactly(n, [0.3, 0.9, 0.5]) for n in range(4)) == pytest.approx(1)
    assert exactly(0, []) == 1


def test_the_sticker_bench_tells_true_scenes_from_altered_ones():
    """Prompts by the world; the answers come from the rendered pictures only."""
    sprites = Sprites.load()
    scorer = SCORERS.create("sticker-tifa")
    tasks = ("color_count_attr", "color_spatial_attr", "size_spatial_attr", "counting")
    scenes, broken = [], []
    for k, task in enumerate(tasks * 4):
        rng = np.random.default_rng([7, k])
        spec = sample_spec(rng, sprites.classes, weights={task: 1.0})
        scenes.append(compose(spec, rng, sprites))
        broken.append(alter(scenes[-1], rng, sprites)[0])
    specs = [scene.spec for scene in scenes]
    true = [s.value for s in scorer.score(render(scenes, sprites).images, specs)]
    false = [s.value for s in scorer.score(render(broken, sprites).images, specs)]
    assert np.mean(true) > 0.75 and np.mean(false) < np.mean(true) - 0.35


def test_the_sticker_bench_has_its_name_and_rule():
    bench = BENCHES.create("sticker-tifa:per_task=3")
    assert len(bench.specs) == 21 and bench.samples_per_prompt == 1
    assert BENCHES.create(bench.name) == bench
    n = sum(len(asks_of(spec)) for spec in bench.specs)
    summary = bench.summarise(records(bench, asks_of, *[0.5] * n))
    assert summary["soft_tifa"]["gm"]["score"] == pytest.approx(50)
    assert set(summary["tasks"]) == set(bench.tasks)
