"""HPSv2's benchmark: files, gaps, and its rule by hand."""

import json
import statistics

import pytest
from PIL import Image

from impasto.bench import IncompleteError
from impasto.bench.hps import STYLES, hps_summary, rate_hps, read_hps_prompts

PROMPTS = {style: tuple(f"{style} {i}" for i in range(200)) for style in STYLES}


class Brightness:
    """The mean of the picture; remembers prompts and sizes of batches."""

    def __init__(self):
        self.prompts, self.batches = [], []

    def values(self, images, prompts):
        self.prompts += prompts
        self.batches.append(len(prompts))
        return [float(image.mean()) for image in images]


def rated(prompts=PROMPTS):
    """0.25 and up: the k-th style's i-th picture has 0.25 + k / 100 + i / 10000."""
    return {(style, i): 0.25 + k / 100 + i / 10_000
            for k, style in enumerate(prompts) for i in range(len(prompts[style]))}  # fmt: skip


def test_the_rule_by_hand():
    """200 pictures are groups of 80, 80 and 40: the published mean over groups is not the mean."""
    told = hps_summary(rated(), PROMPTS)
    assert told["coverage"] == {"judged": 800, "unreadable": 0, "of": 800}
    assert told["overall"]["score"] == pytest.approx(25 + 1.5 + 0.995)
    assert told["overall"]["low"] < told["overall"]["score"] < told["overall"]["high"]
    for k, style in enumerate(STYLES):
        one = told["styles"][style]
        assert one["score"] == pytest.approx(25 + k + 0.995)
        means = [25 + k + middle for middle in (0.395, 1.195, 1.795)]
        assert one["groups"]["mean"] == pytest.approx(statistics.mean(means))
        assert one["groups"]["deviation"] == pytest.approx(statistics.pstdev(means))


def test_gaps_are_no_score_or_no_groups():
    values = rated()
    del values["anime", 3]
    with pytest.raises(IncompleteError):
        hps_summary(values, PROMPTS)
    told = hps_summary(values, PROMPTS, allow_incomplete=True)
    assert told["coverage"]["judged"] == 799
    assert told["styles"]["anime"]["groups"] is None and told["styles"]["photo"]["groups"]


@pytest.fixture
def folder(tmp_path):
    """Two prompts of each style, and their pictures, brighter with the number."""
    for style in STYLES:
        (tmp_path / style).mkdir()
        (tmp_path / f"{style}.json").write_text(json.dumps([f"{style} one", f"{style} two"]))
        for i in range(2):
            Image.new("RGB", (8, 8), (51 * i,) * 3).save(tmp_path / style / f"{i:05d}.jpg")
    return tmp_path


def test_pictures_are_rated_by_their_prompts(folder):
    prompts, scorer = read_hps_prompts(folder, 2), Brightness()
    values = rate_hps(folder, prompts, scorer, batch_size=3)
    assert scorer.batches == [3, 3, 2]
    assert scorer.prompts == [f"{style} {word}" for style in STYLES for word in ("one", "two")]
    assert values == {(style, i): pytest.approx(0.2 * i, abs=0.01)
                      for style in STYLES for i in range(2)}  # fmt: skip


def test_missing_pictures_and_other_files_are_named(folder):
    prompts = read_hps_prompts(folder, 2)
    (folder / "photo/00001.jpg").unlink()
    with pytest.raises(IncompleteError, match=r"photo/00001\.jpg"):
        rate_hps(folder, prompts, Brightness())
    assert len(rate_hps(folder, prompts, Brightness(), allow_incomplete=True)) == 7
    with pytest.raises(ValueError, match=r"anime\.json is no list of 800 prompts; get benchmark"):
        read_hps_prompts(folder)
    (folder / "paintings.json").write_text(json.dumps([1, 2]))
    with pytest.raises(ValueError, match=r"paintings\.json is no list of 2"):
        read_hps_prompts(folder, 2)
