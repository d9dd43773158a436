"""`impasto measure`'s runs: reconstruction and distance, over models and features that take no
time and whose figures are worked by hand."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from impasto.bench.codes import place_classes
from impasto.bench.reconstruction import psnr, ssim
from impasto.files import write_text
from impasto.images import read_image, write_png
from impasto.models.autoencoders import Reconstruction
from impasto.run import parts
from impasto.run.distance import measure_distance
from impasto.run.pictures import Frame, open_pictures
from impasto.run.provenance import SettingsDiffer
from impasto.run.reconstruction import ReconstructionSettings, measure_reconstruction
from impasto.score.base import Score, ScorerBroken
from impasto.score.features import Extractor
from impasto.spec import CLASSES
from impasto.world.splits import held_out
from tests.fakes import FakeScorer, FakeSecond
from tests.tiny import tree

COVERED = {"fd": {}, "kd": {}}


class Lighter:
    """Adds `step` levels to every picture but the all-white, which stay as they are."""

    name, factor, codebook_size, device = "lighter", 8, None, torch.device("cpu")

    def __init__(self, step=51, codes=None):
        """codes: one of each map, of 1 x 1 and of 2 x 2 places."""
        self.step, self.codes, self.seen = step, codes, 0
        self.codebook_size = None if codes is None else 8

    def sizes_of(self, height, width):
        if height % 8 or width % 8:
            raise ValueError("sides must be multiples of 8 pixels")
        return () if self.codes is None else ((1, 1), (2, 2))

    def tokens_of(self, sizes):
        return 5

    def reconstruct(self, images):
        self.seen += len(images)
        ids = None if self.codes is None else [torch.tensor(c).expand(len(images), -1)
                                               for c in self.codes]
        return Reconstruction((images + self.step / 255).clamp(max=1), ids)

    def provenance(self):
        return {"name": self.name, "step": self.step}


class Mean(Extractor):
    """Mean red of a picture: one feature, in levels."""

    def __init__(self, name="mean", measures=COVERED):
        super().__init__(name, measures, {"pool": 1}, None)

    def __call__(self, images):
        return {"pool": (255 * images[:, :1]).mean((2, 3))}

    def provenance(self):
        return self.record("0" * 64, "none")


class Gap:
    """The largest difference of a pixel."""

    name = "lpips_gap"

    def __call__(self, x, y):
        return (x - y).abs().amax((1, 2, 3))

    def provenance(self):
        return {"name": self.name}


def grey(level, side=16):
    return torch.full((3, side, side), level / 255)


def folder(path, levels, side=16):
    for i, level in enumerate(levels):
        write_png(path / f"{i:02d}.png", grey(level, side))
    return open_pictures(path)


def settings(pictures, **changes):
    values = {"model": Lighter(), "pictures": pictures, "extractors": [Mean()],
              "perceptual": [Gap()]}  # fmt: skip
    return ReconstructionSettings(**(values | changes))


def summary_of(run):
    return json.loads(run.summary.read_text())


# reconstruction


def test_reconstruction_by_hand(tmp_path):
    """51 levels are .2: PSNR 10 log10(1 / .04) = 13.9794 of the three that differ; the white one
    came back exactly. Means of reds 0 50 100 255 and 51 101 151 255."""
    pictures = folder(tmp_path / "in", [0, 50, 100, 255])
    run = measure_reconstruction(settings(pictures), tmp_path / "out")
    values = summary_of(run)
    assert values["means"]["psnr"]["value"] == pytest.approx(13.9794, abs=1e-4)
    assert values["means"]["psnr"]["exact"] == 1
    assert values["means"]["lpips_gap"]["value"] == pytest.approx(0.15)
    assert values["number"] == 4 and values["size"] == [16, 16]
    before, after = np.array([0, 50, 100, 255]), np.array([51, 101, 151, 255])
    fd = (after.mean() - before.mean()) ** 2 + (after.std(ddof=1) - before.std(ddof=1)) ** 2
    assert values["distances"]["fd_mean"]["value"] == pytest.approx(fd, rel=1e-6)
    lines = [json.loads(line) for line in (run.path / "pictures.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["00.png", "01.png", "02.png", "03.png"]
    assert lines[3]["psnr"] is None and lines[3]["ssim_gaussian"] == pytest.approx(1)


def test_every_figure_is_of_the_pictures_in_the_folder(tmp_path):
    pictures = folder(tmp_path / "in", [10, 77, 200])
    run = measure_reconstruction(settings(pictures, model=Lighter(20.4)), tmp_path / "out")
    for line in map(json.loads, (run.path / "pictures.jsonl").read_text().splitlines()):
        x = read_image(tmp_path / "in" / line["name"])[None]
        y = read_image(run.images / line["image"])[None]
        assert line["psnr"] == pytest.approx(float(psnr(x, y)))
        assert line["ssim_skimage_dr2"] == pytest.approx(float(ssim(x, y, "skimage_dr2")))
    assert run.record["kind"] == "reconstruction" and run.record["model"]["step"] == 20.4


def test_published_measures_between_reconstructions_are_called_r(tmp_path):
    """Only the measures that literature calls so: rFID, rsFID, rKID."""
    pictures = folder(tmp_path / "in", [0, 50, 100])
    mean = Mean("clean", {"fid": {}, "fd": {}, "precision_recall": {"k": 1}})
    run = measure_reconstruction(settings(pictures, extractors=[mean]), tmp_path / "out")
    assert list(summary_of(run)["distances"]) == ["rfid_clean", "fd_clean", "precision_clean",
                                                  "recall_clean"]  # fmt: skip


def test_verdicts_kept_on_the_world(tmp_path, sprites):
    pictures, model = open_pictures("world:scenes=12,seed=3"), Lighter(20)
    images = pictures.read(range(12), Frame())
    limit = images.mean((1, 2, 3)).sort().values[9]

    class Dark(FakeScorer):
        """Right: a picture darker than two of these twelve."""

        def score(self, images, specs):
            return [Score(value=0.0, correct=bool(image.mean() < limit)) for image in images]

    run = measure_reconstruction(settings(pictures, model=model, scorer=Dark()), tmp_path / "out")
    dark = images.mean((1, 2, 3)) < limit
    still = dark & (model.reconstruct(images).images.mean((1, 2, 3)) < limit)
    verdicts = summary_of(run)["verdicts"]
    overall = verdicts["overall"]
    assert 0 < int(still.sum()) < int(dark.sum())  # the scenes can tell
    assert (overall["of"], overall["kept"]) == (int(dark.sum()), int(still.sum()))
    assert sum(row["of"] for row in verdicts["tasks"].values()) == overall["of"]
    assert set(verdicts["tasks"]) <= {"single_object", "two_object", "counting", "colors",
                                      "position", "color_attr"}  # fmt: skip


def test_codes_are_counted(tmp_path):
    """7, then 0 0 1 1 in every picture, of 8 codes: two of five places each, and one. Greys of 0
    and 50 levels in code 0: all the variance there is, but for the means' own n - 1."""
    pictures = folder(tmp_path / "in", [0, 50])
    model = Lighter(codes=[[7], [0, 0, 1, 1]])
    run = measure_reconstruction(settings(pictures, model=model), tmp_path / "out")
    values = summary_of(run)
    whole = math.exp(-(0.4 * math.log(0.4) * 2 + 0.2 * math.log(0.2)))
    assert values["codebook"] == {"size": 8, "ids": 10, "distinct": 3, "share": 3 / 8,
                                  "perplexity": pytest.approx(whole)}  # fmt: skip
    first, last = values["maps"]
    assert first == {"size": [1, 1], "ids": 2, "distinct": 1, "share": 1 / 8,
                     "perplexity": pytest.approx(1)}  # fmt: skip
    assert last == {"size": [2, 2], "ids": 8, "distinct": 2, "share": 1 / 4,
                    "perplexity": pytest.approx(2)}  # fmt: skip
    assert values["tokens"] == {"per_picture": 5, "ids": 5, "bits": 15}
    # Each code has 2 places of either grey, n - 1 = 3; all places 4 of either, n - 1 = 7.
    assert values["meaning"] == {"repeated": 1, "color_left": pytest.approx((4 / 3) / (8 / 7))}


def test_mean_color_error_by_hand(tmp_path):
    """51 levels more in every channel of three pictures, none in the white one."""
    run = measure_reconstruction(settings(folder(tmp_path / "in", [0, 50, 100, 255])),
                                 tmp_path / "out")  # fmt: skip
    assert summary_of(run)["means"]["mean_color_error"]["value"] == pytest.approx(3 * 51 / 4)
    lines = [json.loads(line) for line in (run.path / "pictures.jsonl").read_text().splitlines()]
    assert [line["mean_color_error"] for line in lines] == pytest.approx([51, 51, 51, 0], abs=1e-4)


def test_originals_and_codes_are_kept_for_the_page(tmp_path):
    """Lighter loses least where it clips: of 8 pictures two ends of two, the rest at random."""
    levels = [255, 250, 240, 10, 20, 30, 230, 225]
    pictures = folder(tmp_path / "in", levels)
    model = Lighter(codes=[[7], [0, 0, 1, 2]])
    run = measure_reconstruction(settings(pictures, model=model), tmp_path / "out")
    shown = json.loads((run.path / "shown.json").read_text())
    assert shown["best"] == [0, 1] and set(shown["worst"]) <= {3, 4, 5}
    assert sorted(i for kind in shown.values() for i in kind) == list(range(8))
    for i, level in enumerate(levels):
        assert torch.equal(read_image(run.path / "originals" / f"{i:08d}.png"), grey(level))
    codes = json.loads((run.path / "codes.json").read_text())
    assert codes["map"] == [2, 2] and codes["patch"] == [8, 8]
    assert codes["cover"] == [[1, 0.5], [2, 0.75], [3, 1.0]]
    assert [(row["id"], row["count"], row["patches"]) for row in codes["codes"]] == [
        (0, 16, 12), (1, 8, 8), (2, 8, 8)]  # fmt: skip
    sheet = read_image(run.path / "codes.png")
    assert sheet.shape == (3, 24, 96)
    greys = (255 * sheet[0, 8:16, :64]).reshape(8, 8, 8)[0, :, 0]  # each picture's once, in order
    assert greys.tolist() == pytest.approx(levels, abs=1e-3)
    assert float(sheet[:, 8:, 64:].min()) == 1  # and no more


def test_classes_of_places_are_the_worlds(tmp_path, sprites):
    """A code for background and one for all else says as much as chance does of two classes."""
    pictures = open_pictures("world:scenes=12,seed=3")
    classes = pictures.classes(range(12))

    every = pictures.read(range(12), Frame())

    class Told(Lighter):
        codebook_size = 100

        def __init__(self):
            self.step = 0

        def sizes_of(self, height, width):
            return ((16, 16),)

        def reconstruct(self, images):
            at = [min(range(12), key=lambda k: float((image - every[k]).abs().sum()))
                  for image in images]
            return Reconstruction(images, [1 + place_classes(classes[at], (16, 16)).long()])

    run = measure_reconstruction(settings(pictures, model=Told(), extractors=[], perceptual=[]),
                                 tmp_path / "out")  # fmt: skip
    meaning = summary_of(run)["meaning"]
    assert meaning["same_class"] == 1 and 0.3 < meaning["chance"] < 0.95
    rows = json.loads((run.path / "codes.json").read_text())["codes"]
    assert rows[0]["class"] == "background" and all(row["class_share"] == 1 for row in rows)
    named = {CLASSES[row["id"] - 1] for row in rows[1:]}
    assert named == {row["class"] for row in rows[1:]}


def test_held_out_scenes(sprites):
    held = open_pictures("world:scenes=10,split=held-out,seed=2")
    specs = held.specs(range(10))
    assert all(held_out(spec) for spec in specs)
    assert len({spec.tag for spec in specs}) == 5
    images = held.read(range(4, 6), Frame())
    assert torch.equal(images[1:], held.read(range(5, 6), Frame()))
    assert held.provenance()["split"] == "held-out"
    seen = open_pictures("world:scenes=10,split=seen").specs(range(10))
    assert not any(held_out(spec) for spec in seen)
    for wrong in ("world:scenes=3,split=other", "world:run=x,split=seen"):
        with pytest.raises(ValueError, match="split"):
            open_pictures(wrong)


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART", 2)
    pictures = folder(tmp_path / "in", [0, 30, 60, 90, 120])
    measure_reconstruction(settings(pictures), tmp_path / "whole", batch_size=2)

    class Dies(Lighter):
        def reconstruct(self, images):
            if self.seen == 4:
                raise KeyboardInterrupt
            return super().reconstruct(images)

    with pytest.raises(KeyboardInterrupt):
        measure_reconstruction(settings(pictures, model=Dies()), tmp_path / "cut", batch_size=2)
    assert not (tmp_path / "cut" / "summary.json").exists()
    model = Lighter()
    measure_reconstruction(settings(pictures, model=model), tmp_path / "cut", batch_size=2)
    assert model.seen == 1  # the last part only
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
    with pytest.raises(SettingsDiffer, match=r"model\.step: 51 in the folder, 9 now"):
        measure_reconstruction(settings(pictures, model=Lighter(9)), tmp_path / "cut")


def test_a_part_from_elsewhere_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART", 2)
    pictures = folder(tmp_path / "in", [0, 30, 60])
    run = measure_reconstruction(settings(pictures), tmp_path / "out")
    first, last = sorted((run.path / "parts").iterdir())
    os.replace(first, last)
    with pytest.raises(ValueError, match=r"pictures-00001.* is not this run's; delete it"):
        measure_reconstruction(settings(pictures), tmp_path / "out")


def test_broken_features_are_named(tmp_path):
    class Broken(Mean):
        def __call__(self, images):
            return {"pool": super().__call__(images)["pool"] / 0}

    pictures = folder(tmp_path / "in", [0, 30, 60])
    with pytest.raises(ValueError, match=r"mean\.pool of the pictures 0 to 2 is NaN or infinite"):
        measure_distance(pictures, pictures, [Broken()], tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()


def test_memory_is_shared_out(tmp_path):
    class Large(Lighter):
        def reconstruct(self, images):
            if len(images) > 2:
                raise torch.OutOfMemoryError("too many")
            return super().reconstruct(images)

    pictures = folder(tmp_path / "in", [0, 30, 60, 90, 120])
    with pytest.warns(UserWarning, match="going on with 2"):
        measure_reconstruction(settings(pictures, model=Large()), tmp_path / "a", batch_size=4)
    measure_reconstruction(settings(pictures), tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@pytest.mark.parametrize("changes, error, message", [
    ({"extractors": [Mean(measures={"precision_recall": {"k": 3}})]}, ValueError,
     "precision_recall_mean needs at least 4 pictures, there are 3"),
    ({"extractors": [Mean(), Mean()]}, ValueError, "features mean are asked for twice"),
    ({"perceptual": [Gap(), Gap()]}, ValueError, "asked for twice: lpips_gap, lpips_gap"),
    ({"scorer": FakeScorer()}, ValueError, "truth is known"),
    ({"frame": Frame(20)}, ValueError, "20 x 20: .* multiples of 8 pixels; give another --size"),
    ({"frame": Frame(None, 8)}, ValueError, "at 11 x 11 pixels or more, given a side of 8"),
])  # fmt: skip
def test_what_cannot_be_measured_claims_no_folder(tmp_path, changes, error, message):
    pictures = folder(tmp_path / "in", [0, 50, 100])
    with pytest.raises(error, match=message):
        measure_reconstruction(settings(pictures, **changes), tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()


def test_scorers_that_cannot_judge(tmp_path, sprites):
    pictures = open_pictures("world:scenes=3")
    with pytest.raises(ScorerBroken):
        measure_reconstruction(settings(pictures, scorer=FakeScorer(True)), tmp_path / "out")
    with pytest.raises(ValueError, match="gives no verdict"):
        measure_reconstruction(settings(pictures, scorer=FakeSecond()), tmp_path / "out")


def test_pictures_of_several_sizes(tmp_path):
    folder(tmp_path / "in", [0, 50, 100])
    write_png(tmp_path / "in" / "03.png", torch.rand(3, 16, 40))
    pictures = open_pictures(tmp_path / "in")
    with pytest.raises(ValueError, match=r"one size \(00.png is 16 x 16, 03.png is 40 x 16"):
        measure_reconstruction(settings(pictures), tmp_path / "out")
    run = measure_reconstruction(settings(pictures, frame=Frame(24, 12)), tmp_path / "out")
    values = summary_of(run)
    assert values["size"] == [24, 24] and values["measured"] == 12
    assert read_image(run.images / "00000003.png").shape == (3, 24, 24)


# distance


def test_distance_by_hand(tmp_path):
    """Reds 0, 10 and 20, 40: means 5 and 30, variances 50 and 200; 25^2 + (sqrt 200 - sqrt 50)^2
    = 675. kd: k(0, 10) = 1, k(20, 40) = 801^3, k(x, y) = 1, 1, 201^3, 401^3."""
    a, b = folder(tmp_path / "a", [0, 10]), folder(tmp_path / "b", [20, 40])
    run = measure_distance(a, b, [Mean()], tmp_path / "out")
    values = summary_of(run)["distances"]
    assert values["fd_mean"]["value"] == pytest.approx(675, rel=1e-5)
    kd = 1 + 801**3 - 2 * (1 + 1 + 201**3 + 401**3) / 4
    assert values["kd_mean"]["value"] == pytest.approx(kd, rel=1e-5)
    assert summary_of(run)["reference"] == {"name": str(tmp_path / "b"), "pictures": 2,
                                            "moments": []}  # fmt: skip
    back = measure_distance(b, a, [Mean()], tmp_path / "back")
    assert summary_of(back)["distances"]["kd_mean"]["value"] == pytest.approx(kd, rel=1e-5)


def test_an_npz_of_samples_and_published_moments(tmp_path):
    """The same pictures as an array; the reference as mean 30 and variance 200, with and without
    pictures beside them: FD takes the moments, KD the pictures."""
    a = folder(tmp_path / "a", [0, 10])
    levels = np.array([0, 10], np.uint8)[:, None, None, None] * np.ones((2, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "a.npz", levels)
    array = open_pictures(tmp_path / "a.npz")
    torch.testing.assert_close(array.read(range(2), Frame()), a.read(range(2), Frame()))
    moments = {"mu": np.array([30.0]), "sigma": np.array([[200.0]])}
    np.savez(tmp_path / "m.npz", **moments)
    fd = Mean(measures={"fd": {}})
    run = measure_distance(array, open_pictures(tmp_path / "m.npz"), [fd], tmp_path / "out")
    assert summary_of(run)["distances"]["fd_mean"]["value"] == pytest.approx(675, rel=1e-5)
    assert summary_of(run)["reference"]["moments"] == ["pool"]
    np.savez(tmp_path / "both.npz", arr_0=levels, **moments)
    run = measure_distance(array, open_pictures(tmp_path / "both.npz"), [Mean()], tmp_path / "two")
    found = summary_of(run)["distances"]
    assert found["fd_mean"]["value"] == pytest.approx(675, rel=1e-5)
    kd = 1 + 1 - 2 * (1 + 1 + 1 + 101**3) / 4
    assert found["kd_mean"]["value"] == pytest.approx(kd, rel=1e-5)
    with pytest.raises(ValueError, match="kd_mean needs the reference's pictures"):
        measure_distance(array, open_pictures(tmp_path / "m.npz"), [Mean()], tmp_path / "x")
    with pytest.raises(ValueError, match="moments and no pictures; it can be the reference"):
        measure_distance(open_pictures(tmp_path / "m.npz"), array, [fd], tmp_path / "x")


@pytest.mark.parametrize("arrays, message", [
    ({"mu": np.zeros(3), "sigma": np.zeros((2, 2))}, r"moments are \(3,\) and \(2, 2\)"),
    ({"other": np.zeros(3)}, "holds other; needed: arr_0"),
    ({"mu": np.zeros(3)}, "holds mu; needed: arr_0"),
    ({"arr_0": np.zeros((2, 8, 8, 3))}, "arr_0 is float64"),
    ({"arr_0": np.zeros((2, 3, 8, 8), np.uint8)}, "must be uint8"),
    ({"arr_0": np.array([{}])}, "plain arrays"),
])  # fmt: skip
def test_other_arrays_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        open_pictures(tmp_path / "x.npz")


def test_a_cut_off_npz(tmp_path):
    np.savez(tmp_path / "x.npz", np.zeros((4, 8, 8, 3), np.uint8))
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole"):
        open_pictures(tmp_path / "x.npz")


def test_sets_of_two_resolutions(tmp_path):
    a, b = folder(tmp_path / "a", [0, 10]), folder(tmp_path / "b", [20, 40], side=32)
    with pytest.raises(ValueError, match=r"are 16 x 16, those of .* 32 x 32: a distance between"):
        measure_distance(a, b, [Mean()], tmp_path / "out")
    run = measure_distance(a, b, [Mean()], tmp_path / "out", frame=Frame(16))
    assert summary_of(run)["distances"]["fd_mean"]["value"] == pytest.approx(675, rel=1e-5)
    assert summary_of(run)["pictures"] == [16, 16]
    with pytest.raises(ValueError, match="name the features"):
        measure_distance(a, b, [], tmp_path / "none")


def test_a_distance_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART", 2)
    a, b = folder(tmp_path / "a", range(0, 50, 10)), folder(tmp_path / "b", range(100, 150, 10))
    measure_distance(a, b, [Mean()], tmp_path / "whole")

    class Dies(Mean):
        left = 3

        def __call__(self, images):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().__call__(images)

    with pytest.raises(KeyboardInterrupt):
        measure_distance(a, b, [Dies()], tmp_path / "cut")
    assert len(list((tmp_path / "cut" / "parts").iterdir())) == 3
    measure_distance(a, b, [Mean()], tmp_path / "cut")
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


# sources


def test_a_run_gives_its_pictures_and_its_prompts_true_scenes(tmp_path, sprites):
    from impasto.run.evaluate import evaluate
    from impasto.search import NoSearch
    from tests import tiny
    from tests.fakes import FakeGenerator

    run = evaluate(tiny.settings(), FakeGenerator(), NoSearch(), tmp_path / "run")
    drawn = open_pictures(tmp_path / "run")
    assert len(drawn) == 12 and drawn.names[0] == "00000/samples/00000.png"
    true = open_pictures(f"world:run={run.path},seed=4")
    assert [spec.tag for spec in true.specs(range(12))] == [
        spec.tag for spec in tiny.SPECS for _ in range(2)]  # fmt: skip
    pictures = true.read(range(12), Frame())
    assert not torch.equal(pictures[0], pictures[1])  # two samples, two scenes
    assert torch.equal(true.read(range(3, 5), Frame()), pictures[3:5])
    (tmp_path / "empty").mkdir()
    write_text(tmp_path / "empty" / "run.json", "{}")
    with pytest.raises(ValueError, match="it was not judged"):
        open_pictures(f"world:run={tmp_path / 'empty'}")


@pytest.mark.parametrize("text, message", [
    ("nothing", "'nothing' is no source of pictures; allowed: a folder"),
    ("world:scenes=0", "at least 1"),
    ("world:seed=1", "either world:scenes=NUMBER .* or world:run=FOLDER"),
    ("world:scene=3", "did you mean 'scenes'"),
    ("empty", r"holds no pictures \(.jpeg, .jpg, .png, .webp\)"),
    ("text", "x.png: not a PNG, JPEG or WEBP picture"),
])  # fmt: skip
def test_other_sources_are_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    write_text("text/x.png", "no picture")
    with pytest.raises(ValueError, match=message):
        open_pictures(text)


def test_hidden_files_are_no_pictures(tmp_path):
    folder(tmp_path, [0, 10])
    write_png(tmp_path / ".cache" / "x.png", grey(5))
    write_png(tmp_path / "deep" / "x.PNG", grey(5))
    (tmp_path / "folder.png").mkdir()
    assert open_pictures(tmp_path).names == ["00.png", "01.png", "deep/x.PNG"]


def test_the_same_pictures_have_the_same_record(tmp_path):
    a = folder(tmp_path / "a", [0, 10]).provenance()
    assert a == folder(tmp_path / "other" / "a", [0, 10]).provenance()
    assert a["sha256"] != folder(tmp_path / "b", [0, 11]).provenance()["sha256"]
