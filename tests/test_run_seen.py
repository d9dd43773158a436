"""What judging keeps of what the detector saw: whole, resumable, from the verdict's own pass."""

import json
from dataclasses import replace

import pytest
import torch

from impasto.images import read_image
from impasto.run.evaluate import evaluate
from impasto.run.seen import read_seen
from impasto.score.base import Found
from impasto.score.geneval import GenEvalScorer
from impasto.search import NoSearch
from impasto.spec import COLORS
from tests import tiny
from tests.fakes import FakeGenerator


class Detector:
    """Finds a car whose mask and score are the picture's; dies at the picture number `last`."""

    def __init__(self, last=None):
        self.last, self.seen = last, 0

    def detect(self, images):
        found = []
        for image in images:
            self.seen += 1
            if self.last is not None and self.seen > self.last:
                raise KeyboardInterrupt
            mask = image[0] > 0.5
            found.append([Found("car", (0.0, 0.0, 16.0, 16.0), 0.5 + image[0, 0, 0].item() / 2,
                                mask)])  # fmt: skip
        return found


class Colors:
    def shares(self, crops):
        return [(0.123456, 0.8, *(0.0,) * 8) for _ in crops]

    def classify(self, crops):
        raise AssertionError("the probabilities name the colour")


class Scorer(GenEvalScorer):
    def self_test(self):
        pass


def run(out, last=None, batch_size=4):
    scorer = Scorer(Detector(last), Colors())
    return evaluate(tiny.settings(scorer=scorer), FakeGenerator(), NoSearch(), out,
                    batch_size=batch_size)  # fmt: skip


def test_the_file_holds_masks_and_colours_where_asked(tmp_path):
    done = run(tmp_path)
    rows = [json.loads(line) for line in done.seen.read_text().splitlines()]
    assert len(rows) == 12 and list(rows[0]) == ["filename", "size", "objects"]
    assert rows[0]["size"] == [16, 16]
    cars = [row for row in rows if row["objects"] and row["objects"][0]["colors"]]
    assert [row["filename"][7:12] for row in cars] == ["00003", "00003"], "where one was asked"
    assert cars[0]["objects"][0]["colors"][:2] == [0.1235, 0.8]
    view = read_seen(done.seen)[cars[0]["filename"]]
    image = read_image(tmp_path / cars[0]["filename"])
    assert torch.equal(view.objects[0].found.mask, image[0] > 0.5)
    reason = json.loads(done.results.read_text().splitlines()[6])["reason"]
    assert reason == f"expected red car>=1, found 0 red; and 1 {COLORS[1]}"


@pytest.mark.parametrize("last", [1, 6, 11])
def test_interrupted_anywhere_the_bytes_are_the_same(tmp_path, last):
    run(tmp_path / "plain")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", last, batch_size=3)
    run(tmp_path / "cut")
    assert "seen.jsonl" in tiny.tree(tmp_path / "cut")
    assert tiny.tree(tmp_path / "cut") == tiny.tree(tmp_path / "plain")


def test_a_run_without_the_file_is_judged_again_to_the_same(tmp_path):
    done = run(tmp_path)
    before = tiny.tree(tmp_path)
    done.seen.unlink()
    run(tmp_path)
    assert tiny.tree(tmp_path) == before


def test_of_a_scorer_that_shows_nothing_the_boxes_are_kept(tmp_path):
    done = evaluate(tiny.settings(), FakeGenerator(), NoSearch(), tmp_path)
    view = read_seen(done.seen)["images/00000/samples/00000.png"]
    (one,) = view.objects
    assert one.found.cls == "dog" and one.found.box == (0.0, 0.0, 8.0, 8.0)
    assert one.found.mask is None and one.shares is None


def test_verdicts_are_those_of_score():
    images, specs = torch.rand(6, 3, 16, 16), list(tiny.SPECS)
    scorer = Scorer(Detector(), Colors())
    assert [replace(one.score) for one in scorer.inspect(images, specs)] == scorer.score(
        images, specs)  # fmt: skip
