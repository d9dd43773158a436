"""The page of tokenizers: what it says, that its numbers are the runs', and that it is quiet."""

import json
import re

import pytest
import torch

from impasto.bench import IncompleteError
from impasto.bench.codes import cover, meaning, place_classes, place_colors, use_of
from impasto.images import write_png
from impasto.report.bars import curves, level
from impasto.report.reconstruction import write_reconstruction_report
from impasto.report.reconstruction_words import difference_text, figures
from impasto.run.pictures import open_pictures
from impasto.run.reconstruction import ReconstructionSettings, measure_reconstruction
from impasto.run.reconstructions import differences, read_reconstructions
from tests.test_run_measure import Gap, Lighter, grey


@pytest.fixture
def runs(tmp_path):
    """Pictures lightened by 51 levels and by 5, of hostile names; the second has codes."""
    for i, level_ in enumerate((0, 50, 100, 150, 200)):
        write_png(tmp_path / "in" / f"<script>x {i}.png", grey(level_))
    found = []
    for name, model in (("a", Lighter(51)), ("b", Lighter(5, codes=[[7], [0, 0, 1, 1]]))):
        model.name = name
        settings = ReconstructionSettings(model=model, pictures=open_pictures(tmp_path / "in"),
                                          perceptual=[Gap()])  # fmt: skip
        found.append(measure_reconstruction(settings, tmp_path / name).path)
    return found


def test_a_page_of_two(runs, tmp_path):
    text = write_reconstruction_report(runs, tmp_path / "page.html").read_text()
    again = write_reconstruction_report(runs, tmp_path / "page.html").read_text()
    assert text == again and "&lt;script&gt;x 0.png" in text and "<script>x" not in text
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert text.count("<article") == 5 and text.count('class="shot"') == 5 * 5
    assert "from 5 tokens of 15 bits together" in text and "continuous latents" in text
    assert "b − a" in text


@pytest.mark.parametrize(("share", "shown"), [(0.9988, "99.9 %"), (1, "100 %"), (0.03, "3 %"),
                                              (0.00004, "0.004 %")])  # fmt: skip
def test_a_share_of_codes_is_a_plain_number(runs, tmp_path, share, shown):
    path = runs[1] / "summary.json"
    summary = json.loads(path.read_text())
    summary["maps"][0]["share"] = share
    path.write_text(json.dumps(summary))
    text = write_reconstruction_report(runs, tmp_path / "page.html").read_text()
    assert f'<td class="number">{shown}</td>' in text


def test_differences_are_paired_by_hand(runs):
    """20 log10(51 / 5) more decibels in every picture that can be lightened by 51 at all."""
    a, b = read_reconstructions(runs)
    found = differences(a, b)
    assert found["psnr"]["value"] == pytest.approx(20.17, abs=0.01)
    assert found["psnr"]["low"] == pytest.approx(found["psnr"]["value"])
    assert found["mean_color_error"]["value"] == pytest.approx(-46, abs=1e-4)
    assert found["lpips_gap"]["high"] < 0 and "kept" not in found
    line = figures([a, b], [found])[0]
    assert line.name == "PSNR, dB ↑" and line.values[0].startswith("13.98 [")
    assert line.differences == ["+20.17 [+20.17, +20.17] ★"]


def test_a_difference_in_words():
    assert difference_text({"value": 0.5, "low": -0.25, "high": 1}) == "+0.5 [-0.25, +1]"
    assert difference_text({"value": -2, "low": -3, "high": -1}) == "-2 [-3, -1] ★"
    assert difference_text({"value": 2}) == "+2" and difference_text(None) == ""


def test_runs_that_have_no_page(runs, tmp_path):
    (runs[0] / "shown.json").unlink()
    with pytest.raises(ValueError, match="from before there was a page of reconstructions"):
        write_reconstruction_report(runs, tmp_path / "page.html")
    (runs[0] / "summary.json").unlink()
    with pytest.raises(IncompleteError):
        write_reconstruction_report(runs, tmp_path / "page.html")
    with pytest.raises(ValueError, match="is not a run folder"):
        write_reconstruction_report([tmp_path], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


# the numbers


def test_use_by_hand():
    found = use_of(torch.tensor([[3, 3], [5, 2**61]]), 2**62)
    assert (found["ids"], found["distinct"]) == (4, 3) and found["share"] == 3 / 2**62
    assert found["perplexity"] == pytest.approx(2**1.5)
    for wrong in ([-1], [8], []):
        with pytest.raises(ValueError, match="from 0 to 7, at least one"):
            use_of(torch.tensor(wrong, dtype=torch.int64), 8)


def test_cover_by_hand():
    """4, 3, 2 and 1 of ten ids: half is reached with the second code."""
    ids = torch.tensor([7] * 4 + [2] * 3 + [9] * 2 + [0])
    assert cover(ids) == [(1, 0.4), (2, 0.7), (4, 1.0)]
    assert cover(torch.tensor([0, 1, 2, 3, 4, 5])) == [
        (1, pytest.approx(1 / 6)), (2, pytest.approx(1 / 3)), (3, 0.5), (4, pytest.approx(2 / 3)),
        (6, 1.0)]  # fmt: skip


def test_meaning_by_hand():
    """Code 0: classes a a b, so 1 of 3 pairs agrees; code 1: b b, all; code 2 occurs once and
    says nothing. Of all six, a a b b b a: 3 + 3 of 15 pairs."""
    ids = torch.tensor([[0, 0, 0], [1, 1, 2]])
    classes = torch.tensor([[4, 4, -1], [-1, -1, 4]])
    reds = torch.tensor([0.0, 0.2, 0.4, 0.6, 1.0, 0.8])
    colors = torch.stack([reds, torch.zeros(6), torch.ones(6)], -1).view(2, 3, 3)
    found = meaning(ids, colors, classes)
    assert found["repeated"] == pytest.approx(5 / 6)
    assert found["same_class"] == pytest.approx((3 * 1 / 3 + 2 * 1) / 5)
    assert found["chance"] == pytest.approx(6 / 15)
    left = (3 * 0.04 + 2 * 0.08) / 5
    assert found["color_left"] == pytest.approx(left / 0.14)
    alone = meaning(torch.tensor([[0, 1]]), colors[:1, :2], classes[:1, :2])
    assert alone["same_class"] is None and alone["color_left"] is None
    assert "same_class" not in meaning(ids, colors, None)


def test_rare_codes_do_not_look_consistent_by_themselves():
    """Ids drawn without regard to classes: what they have in common is chance, however rare."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(3000, (1, 6000), generator=rng)
    classes = torch.randint(4, (1, 6000), generator=rng)
    found = meaning(ids, torch.rand(1, 6000, 3, generator=rng), classes)
    assert found["same_class"] == pytest.approx(found["chance"], abs=0.03)
    assert found["color_left"] == pytest.approx(1, abs=0.05)


def test_places_by_hand():
    images = torch.zeros(1, 3, 4, 8)
    images[:, 0, :, 4:] = 1
    assert place_colors(images, (1, 2))[0].tolist() == [[0, 0, 0], [1, 0, 0]]
    classes = torch.full((1, 4, 8), -1)
    classes[0, :3, 4:] = 17
    classes[0, 3, 4:] = 5
    assert place_classes(classes, (1, 2)).tolist() == [[-1, 17]]


def test_drawings():
    assert 'width="50.00"' in level(0.25, 7) and "run-1" in level(0.25, 7)
    assert "M0.00 100.00L100.00 50.00L200.00 0.00" in curves([([(0, 0), (0.5, 0.5), (1, 1)], 2)])


def test_run_files_are_json(runs):
    codes = json.loads((runs[1] / "codes.json").read_text())
    assert [code["why"] for code in codes["codes"]] == ["most used"] * 2
    assert not (runs[0] / "codes.json").exists()
