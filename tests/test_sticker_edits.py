"""Sticker edits, compositions and questions, judged by who sees the truth, and by our networks."""

import json
import re
from dataclasses import replace
from functools import cache

import pytest
import torch
from typer.testing import CliRunner

from impasto.bench import Record, read_results
from impasto.bench.export import export_bench
from impasto.bench.keyed import scan_keyed
from impasto.bench.understanding import same_answer
from impasto.cli import app
from impasto.images import read_image, resized
from impasto.score.base import Found
from impasto.score.geneval import GenEvalScorer
from impasto.score.judges import Question, Unanswered
from impasto.score.sticker import sticker
from impasto.score.sticker_edits import StickerEditScorer, difference, iou
from impasto.score.sticker_imagine import StickerImagineScorer
from impasto.score.sticker_judge import StickerJudge
from impasto.spec import COLORS, Spec
from impasto.world import Renderer
from impasto.world.scenes import Background
from impasto.world.suites import (
    EDITS,
    QUESTIONS,
    REFERENCES,
    composition_of,
    drawn,
    edit_of,
    key_of,
    question_of,
    sprites,
)
from impasto.zoo.registry import BENCHES


@cache
def renderer():
    return Renderer(sprites())


class Truth:
    """Detector and colour classifier that know the scenes shown to them, by their pixels."""

    def __init__(self):
        self.scenes, self.colors_of = {}, {}

    def show(self, scene):
        """The scene's picture (3, H, W); from now on it is known."""
        rendered = renderer()([scene])
        found = []
        for k, thing in enumerate(scene.objects):
            box = tuple(rendered.boxes[0, k].tolist())
            found.append(Found(thing.cls, box, 0.99, rendered.masks[0, k]))
            self.colors_of[box] = thing.color
        self.scenes[rendered.images[0].numpy().tobytes()] = found
        return rendered.images[0]

    def detect(self, images):
        return [list(self.scenes[image.numpy().tobytes()]) for image in images]

    def shares(self, crops):
        """Sure of a coloured thing; of a natural one all colours alike."""
        return [tuple(float(c == self.colors_of[one.box]) for c in COLORS)
                if self.colors_of[one.box] else (0.1,) * 10 for _, one in crops]  # fmt: skip

    def classify(self, crops):
        return [self.colors_of[one.box] or "natural" for _, one in crops]


@pytest.fixture
def truth():
    return Truth()


def judged(truth, key, scene):
    scorer = StickerEditScorer(GenEvalScorer(truth, truth))
    spec = Spec(tag="x", include=(), prompt="", key=key)
    return scorer.score(truth.show(scene)[None], [spec])[0]


@pytest.mark.parametrize("kind", EDITS)
def test_the_target_is_right_and_the_source_is_an_edit_not_done(truth, kind):
    for i in range(12):
        edit = edit_of(key := key_of(kind, 3, i))
        right, undone = judged(truth, key, edit.target), judged(truth, key, edit.source)
        assert right.correct and right.value == 1 and not right.reason, (edit, right)
        assert undone.correct is False and undone.scores == {"edit": 0, "rest": 1}, (edit, undone)


def named(kind, wanted):
    """The first edit of a kind that `wanted` accepts."""
    keys = (key_of(kind, 4, i) for i in range(100))
    return next((key, edit) for key in keys if wanted(edit := edit_of(key)))


def with_new(edit, **changes):
    """The target in which what is new is different."""
    (new,) = edit.new
    objects = tuple(replace(o, **changes) if o == new else o for o in edit.target.objects)
    return replace(edit.target, objects=objects)


def test_what_is_wrong_is_said_in_genevals_words(truth):
    key, edit = named("recolour", lambda e: True)
    (new,) = edit.new
    other = "pink" if new.color != "pink" else "blue"
    score = judged(truth, key, with_new(edit, color=other))
    assert score.scores == {"edit": 0, "rest": 1}
    assert score.reason == (f"expected {new.color} {new.cls}>=1, found 0 {new.color}; "
                            f"and 1 {other}")  # fmt: skip
    key, edit = named("remove", lambda e: True)
    assert judged(truth, key, edit.source).reason == f"expected {edit.gone[0].cls}<1, found 1"
    key, edit = named("add", lambda e: e.beside is not None and len(e.source.objects) == 1)
    (new,) = edit.new
    flipped = with_new(edit, cx=128 - new.cx, cy=128 - new.cy)
    score = judged(truth, key, flipped)
    assert score.scores["edit"] == 0 and f"{new.cls} {edit.beside[0]} target" in score.reason


def test_the_rest_has_to_stay(truth):
    key, edit = named("recolour", lambda e: len(e.source.objects) > 1)
    kept = next(o for o in edit.target.objects if o not in edit.new)
    without = replace(edit.target, objects=tuple(o for o in edit.target.objects if o != kept))
    score = judged(truth, key, without)
    assert score.scores == {"edit": 1, "rest": 0}
    assert f"changed: {kept.cls} is not at its place" in score.reason
    black = Background("plain", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    score = judged(truth, key, replace(edit.target, background=black))
    assert score.scores == {"edit": 1, "rest": 0} and "the rest of the picture, by" in score.reason
    key, edit = named("add", lambda e: e.beside is None)
    score = judged(truth, key, with_new(edit, cls=edit.new[0].cls))
    assert score.correct, "without a relation it may be added anywhere"
    stranger = replace(edit.new[0], cls="boat", drawing=sprites().of_class["boat"][0])
    score = judged(truth, key, replace(edit.target, objects=(*edit.source.objects, stranger)))
    assert score.scores == {"edit": 0, "rest": 0} and "changed: a further boat" in score.reason


def test_boxes_and_differences_by_hand():
    """Squares of 2 overlap in 1 x 2: 2 / (4 + 4 - 2). Of 256 pixels a 6 x 6 corner is left out."""
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    a = torch.zeros(3, 16, 16)
    b = a.clone()
    b[:, :2, :2] = 1.0
    assert difference(a, b, []) == pytest.approx(4 / 256)
    assert difference(a, b, [(0, 0, 1, 1)]) == 0
    b[:, 15, 15] = 0.5
    assert difference(a, b, [(0, 0, 1, 1)]) == pytest.approx(0.5 / (256 - 36))


def composed(truth, key, scene):
    scorer = StickerImagineScorer(GenEvalScorer(truth, truth))
    spec = Spec(tag="x", include=(), prompt="", key=key)
    return scorer.score(truth.show(scene)[None], [spec])[0]


def test_compositions_by_hand(truth):
    """Of two objects one missing, the relation with it: two of four demands hold, so 5; half the
    objects look right: 5; the background stays: 10. 0.8 * 5 + 0.2 * 10 = 6."""
    for kind in REFERENCES:
        for i in range(6):
            whole = composition_of(key := key_of(kind, 3, i))
            score = composed(truth, key, whole.target)
            assert score.value == pytest.approx(10, abs=0.05) and not score.reason, (whole, score)
    whole = composition_of(key := key_of("two-references", 3, 0))
    half = replace(whole.target, objects=whole.target.objects[:1])
    score = composed(truth, key, half)
    assert score.scores["fantasy"] == 5 and score.scores["identity"] == 5
    assert score.value == pytest.approx(6, abs=0.05)


@pytest.mark.parametrize("kind", QUESTIONS)
def test_the_sticker_judge_reads_every_form_of_question(truth, kind):
    judge, wrong = StickerJudge(GenEvalScorer(truth, truth)), []
    for i in range(40):
        scene, question = question_of(key_of(kind, 5, i))
        said = judge.ask(Question((truth.show(scene),), f"{question.text} In one word."))
        if not same_answer(said, question.answer):
            wrong.append((question, said))
    assert not wrong


def test_the_sticker_judge_does_not_guess(truth):
    scene, _ = question_of(key_of("count", 5, 0))
    judge, image = StickerJudge(GenEvalScorer(truth, truth)), truth.show(scene)
    for text in ("Is it a nice day?", "How many dreams are there?"):
        with pytest.raises(Unanswered):
            judge.ask(Question((image,), text))
    with pytest.raises(Unanswered, match="2 pictures were shown"):
        judge.ask(Question((image, image), "How many dogs are there?"))
    absent = next(c for c in ("cake", "kite") if all(o.cls != c for o in scene.objects))
    assert judge.ask(Question((image,), f"Is there a {absent} in the picture?")) == "no"
    assert judge.ask(Question((image,), f"What color is the {absent}?")) == "none"


def test_keys_mean_the_same_everywhere_and_others_are_refused():
    assert edit_of("recolour-0-0000").instruction == "Make the cup green"
    assert edit_of("recolour-0-0000") != edit_of("recolour-1-0000")
    for key in ("recolour-0", "paint-0-0000", ""):
        with pytest.raises(ValueError, match="no key KIND-SEED-NUMBER"):
            edit_of(key)
    for name in ("sticker-edits", "sticker-imagine", "sticker-questions"):
        bench = BENCHES.create(f"{name}:per_kind=2,seed=3")
        assert BENCHES.create(bench.name).specs == bench.specs
        assert BENCHES.create(f"{name}:per_kind=2").prompts_sha256 != bench.prompts_sha256
        assert len({spec.key for spec in bench.specs}) == len(bench.specs)


def call(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done


def test_exported_targets_and_sources_through_the_command_line(tmp_path):
    bench = "sticker-edits:per_kind=1"
    call("bench", "export", bench, "--out", tmp_path / "ex")
    rows = list(map(json.loads, (tmp_path / "ex/items.jsonl").read_text().splitlines()))
    specs = BENCHES.create(bench).specs
    assert [(r["key"], r["prompt"]) for r in rows] == [(s.key, s.prompt) for s in specs]
    (file,) = rows[-1]["pictures"]
    assert torch.equal(read_image(tmp_path / "ex" / file), drawn(edit_of(rows[-1]["key"]).source))
    call("eval", bench, "--images", tmp_path / "ex/targets", "--out", tmp_path / "run")
    records = read_results(tmp_path / "run/results.jsonl")
    assert records[0].spec.key == specs[0].key and set(records[0].scores) == {"edit", "rest"}
    found = json.loads((tmp_path / "run/summary.json").read_text())
    assert found["overall"]["score"] == sum(r.correct for r in records) / 5 > 0.5
    assert found["edits"]["rest"]["score"] == sum(r.scores["rest"] for r in records) / 5
    page = (tmp_path / "run/report.html").read_text()
    assert specs[0].prompt in page and "does the edit and keeps the rest" in page
    assert page.count('alt="Source 1 of') == 5 and 'class="gallery ones given"' in page


@pytest.mark.parametrize("bench, scorer, says", [
    ("sticker-edits:per_kind=1", "sticker", r"is about given pictures; it needs .*sticker-edits"),
    ("geneval", "sticker-edits", "judges numbered items, geneval has prompts only"),
])  # fmt: skip
def test_another_scorer_is_refused_before_it_judges(tmp_path, bench, scorer, says):
    call("bench", "export", "sticker-edits:per_kind=1", "--out", tmp_path / "ex")
    edited = ["--images", str(tmp_path / "ex/targets")]
    given = ["--model", "sticker-mmdit"] if bench == "geneval" else edited
    done = CliRunner().invoke(app, ["eval", bench, *given, "--scorer", scorer, "--out",
                                    str(tmp_path / "run")])  # fmt: skip
    assert done.exit_code == 2 and re.search(says, done.output), done.output
    assert not (tmp_path / "run").exists()


def test_several_references_are_exported_and_compositions_judged_by_our_networks(tmp_path):
    bench = BENCHES.create("sticker-imagine:per_kind=1")
    export_bench(bench, tmp_path)
    rows = list(map(json.loads, (tmp_path / "items.jsonl").read_text().splitlines()))
    assert [len(r["pictures"]) for r in rows] == list(REFERENCES.values())
    for file, scene in zip(rows[2]["pictures"], composition_of(rows[2]["key"]).references,
                           strict=True):  # fmt: skip
        assert torch.equal(read_image(tmp_path / file), drawn(scene))
    networks, values = StickerImagineScorer(sticker()), {}
    for folder in ("sources", "targets"):
        pictures = scan_keyed(tmp_path / folder, bench.specs, foreign=bench.foreign)
        images = torch.stack([read_image(tmp_path / folder / p.filename) for p in pictures])
        scores = networks.score(images, bench.specs)
        records = [Record.of(p.filename, spec, score)
                   for p, spec, score in zip(pictures, bench.specs, scores, strict=True)]
        named = [replace(r, filename=f"{i}/0.png") for i, r in enumerate(records)]
        found = bench.summarise(named)
        values[folder] = found["overall"]["score"]
        assert found["scale"] == [0, 10] and found["imagine"]["identity"]["score"] <= 10
    assert values["sources"] < 6 < values["targets"], values


def test_questions_answered_by_the_shipped_networks(tmp_path):
    bench = "sticker-questions:per_kind=2"
    call("bench", "export", bench, "--out", tmp_path / "ex")
    call("eval", bench, "--answers", tmp_path / "ex/truth.jsonl", "--out", tmp_path / "best")
    call("eval", bench, "--judge", "sticker", "--out", tmp_path / "seen", "--allow-incomplete")
    best, seen = (json.loads((tmp_path / run / "summary.json").read_text())
                  for run in ("best", "seen"))  # fmt: skip
    assert best["overall"]["score"] == 1 and seen["overall"]["score"] > 0.6
    rows = list(map(json.loads, (tmp_path / "ex/items.jsonl").read_text().splitlines()))
    assert rows[0]["prompt"].endswith("using a single word or phrase.")
    asked = read_image(tmp_path / "seen/images/00000/samples/00000.png")
    assert torch.equal(asked, read_image(tmp_path / "ex" / rows[0]["pictures"][0]))
    call("compare", tmp_path / "best", tmp_path / "best", "--out", tmp_path / "c.html")


def test_another_size_is_brought_to_the_sources(truth):
    edit = edit_of(key := key_of("recolour", 3, 0))
    scorer = StickerEditScorer(GenEvalScorer(truth, truth))
    large = resized(truth.show(edit.target), 256, 256)
    back = resized(large, 128, 128)
    truth.scenes[back.numpy().tobytes()] = truth.scenes[drawn(edit.target).numpy().tobytes()]
    spec = Spec(tag="x", include=(), prompt="", key=key)
    assert scorer.score(large[None], [spec])[0].correct
