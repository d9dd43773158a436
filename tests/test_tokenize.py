"""`impasto tokenize` and `detokenize`: pictures to ids, to look at, and back; what is refused."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from impasto.cli import app
from impasto.images import quantise, read_image, write_png
from impasto.models.autoencoders import load_autoencoder
from impasto.models.storage import save_network
from impasto.run.tokens import colors_of, difference, maps_picture
from tests import tiny_tokenflow, tiny_vq


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the tokenizer vq (8 px a token, 32 codes), another of other weights, and a
    picture of 24 x 16."""
    monkeypatch.chdir(tmp_path)
    save_network(tiny_vq.tokenizer(), tmp_path / "vq", "float32")
    save_network(tiny_vq.tokenizer(seed=1), tmp_path / "other", "float32")
    write_png("a.png", torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0)))
    return tmp_path


def tokens_of(*arguments):
    done = call("tokenize", *arguments, "--tokenizer", "vq", "--out", "out", "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


# ---------------------------------------------------------------- there and back


def test_there_and_back_again(here):
    told = tokens_of("a.png")
    (row,), model = told["pictures"], load_autoencoder("vq")
    given = read_image(here / "a.png")
    images, ids = model.reconstruct(given[None])
    assert torch.equal(read_image("out/a-given.png"), given)
    back = quantise(images)[0]
    assert torch.equal(read_image("out/a-restored.png"), back)
    assert row["psnr"] == pytest.approx(float(-10 * (given - back).square().mean().log10()))
    assert (row["ids"], row["bits"], row["maps"]) == (6, 30, [[2, 3]])
    assert row["distinct"] == len(ids[0].unique())
    kept = json.loads((here / "out/tokens.json").read_text())
    assert kept["pictures"] == [{"name": "a.png", "height": 16, "width": 24, "maps": [[2, 3]],
                                 "ids": [ids[0][0].tolist()]}]  # fmt: skip
    assert kept["tokenizer"]["digest"] == model.digest
    done = call("detokenize", "out/tokens.json", "--tokenizer", "vq", "--out", "again")
    assert done.exit_code == 0 and done.stdout == "again/a.png\n", done.output
    assert torch.equal(read_image("again/a.png"), back)


def test_what_is_printed(here):
    done = call("tokenize", "a.png", "--tokenizer", "vq", "-o", "out")
    first, last = done.stdout.splitlines()
    assert first.startswith("a.png  24 x 16  PSNR ") and last == "out/tokens.json"
    assert first.endswith(" distinct of 32, 30 bits, 0.0781 a pixel") and "6 ids (2 x 3)" in first


def test_pictures_of_one_name_have_files_each(here):
    (here / "b").mkdir()
    write_png("b/a.png", torch.ones(3, 8, 8))
    write_png("a-2.png", torch.zeros(3, 8, 8))
    told = tokens_of("a.png", "b/a.png", "a-2.png")
    files = [path for row in told["pictures"] for path in row["files"].values()]
    assert len(set(files)) == 12 and len(list((here / "out").glob("*.png"))) == 12
    assert [read_image(row["files"]["given"]).mean().item() for row in told["pictures"][1:]] == [
        1, 0]  # fmt: skip
    done = call("detokenize", "out/tokens.json", "--tokenizer", "vq", "-o", "again", "--json")
    assert len(set(json.loads(done.stdout)["pictures"])) == 3


def test_several_maps(here):
    save_network(tiny_tokenflow.tokenizer(), here / "flow", "float32")
    side = tiny_tokenflow.tokenizer().image
    done = call("tokenize", "a.png", "--size", side, "--tokenizer", "flow", "-o", "x", "--json")
    (row,) = json.loads(done.stdout)["pictures"]
    maps = [list(size) for size in tiny_tokenflow.tokenizer().scales]
    assert row["maps"] == maps and len(maps) > 1
    again = call("detokenize", "x/tokens.json", "--tokenizer", "flow", "-o", "y")
    assert again.exit_code == 0, again.output
    assert torch.equal(read_image("y/a.png"), read_image("x/a-restored.png"))


def test_latents_have_no_ids(here):
    write_png("a.png", torch.rand(3, 16, 16))
    done = call("tokenize", "a.png", "--tokenizer", "sticker-mmdit", "--out", "out")
    assert done.exit_code == 0 and "no ids: its latents are continuous" in done.stdout
    assert sorted(path.name for path in (here / "out").iterdir()) == [
        "a-difference.png", "a-given.png", "a-restored.png"]  # fmt: skip
    tokens_of("a.png")
    done = call("detokenize", "out/tokens.json", "--tokenizer", "sticker-mmdit")
    assert done.exit_code == 2 and "continuous latents and no ids" in done.stderr


# ---------------------------------------------------------------- to look at


def test_an_id_has_one_colour_for_ever():
    """Neighbours differ, and large ids have colours too."""
    ids = torch.tensor([0, 1, 2, 0, 4095, 2**62 - 1])
    colors = (255 * colors_of(ids)).round().int().tolist()
    assert colors[0] == colors[3] and len({tuple(color) for color in colors}) == 5
    assert colors[:2] == [[116, 149, 51], [187, 97, 83]]
    assert len(colors_of(torch.arange(4096)).mul(255).round().unique(dim=0)) > 4080


def test_maps_stand_side_by_side_and_places_are_squares():
    ids = [torch.tensor([5]), torch.tensor([0, 1, 2, 3, 4, 5, 6, 7])]
    picture = maps_picture(ids, [(1, 1), (2, 4)], 16, 32)
    assert picture.shape == (3, 128, 256 + 8 + 256)
    assert torch.equal(picture[:, 5, 5], colors_of(ids[0])[0])
    assert float(picture[:, :, 256:264].min()) == 1
    for k, (y, x) in enumerate((y, x) for y in (0, 64) for x in range(264, 520, 64)):
        patch = picture[:, y : y + 64, x : x + 64]
        assert torch.equal(patch, colors_of(ids[1][k])[:, None, None].expand(3, 64, 64))


def test_differences_are_around_grey():
    given = torch.tensor([0.5, 0.5, 0.0]).view(3, 1, 1)
    restored = torch.tensor([0.5, 0.6, 1.0]).view(3, 1, 1)
    assert difference(given, restored).flatten().tolist() == pytest.approx([0.5, 0.9, 1.0])


# ---------------------------------------------------------------- pictures that people have


@pytest.mark.parametrize("mode, level", [
    ("1", 255), ("L", 200), ("LA", 200), ("P", 200), ("P, transparent", 200), ("RGBA", 200),
    ("CMYK", 200), ("I;16", 200),
])  # fmt: skip
def test_every_kind_of_picture_is_given_as_rgb(here, mode, level):
    """Half is 200 grey, half black; a transparent one keeps its colours."""
    more = {}
    halves = Image.fromarray(np.repeat(np.array([[200, 0]], np.uint8), 8, 1).repeat(8, 0))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(halves).astype(np.uint16) * 256 + 77)
    elif mode in ("RGBA", "LA"):
        image = halves.convert(mode)
        image.putalpha(0)
    elif mode in ("P", "P, transparent"):
        image = halves.convert("RGB").quantize(4)
        more = {} if mode == "P" else {"transparency": image.getpixel((0, 0))}
    else:
        image = halves.convert("RGB").convert(mode, dither=Image.Dither.NONE)
        more = {"format": "JPEG", "quality": 100} if mode == "CMYK" else {}
    image.save("x.png", **more)
    tokens_of("x.png")
    found = (255 * read_image("out/x-given.png")).round()
    assert found.shape == (3, 8, 16)
    assert (found[:, :, :7] - level).abs().max() <= 3 and found[:, :, 9:].max() <= 3


@pytest.mark.parametrize("size, arguments, message", [
    ((4, 4), [], "a.png is 4 x 4: .* multiples of 8 pixels, .*; --size PIXELS scales"),
    ((17, 16), [], "a.png is 17 x 16: .* multiples of 8 pixels"),
    ((16, 16), ["--size", "20"], "a.png is to be cut to 20 x 20: .* multiples of 8 pixels, .*; "
                                 "give another --size"),
    ((16, 16), ["--size", "4104"], "size must be from 1 to 4096 pixels, given 4104"),
    ((3000, 1), ["--size", "4096"], "a picture of 3000 x 1 pixels is too narrow"),
])  # fmt: skip
def test_sizes_that_do_not_fit_write_nothing(here, size, arguments, message):
    Image.new("RGB", size).save("a.png")
    done = call("tokenize", "a.png", "--tokenizer", "vq", "--out", "out", *arguments)
    assert done.exit_code == 2 and not (here / "out").exists()
    assert re.search(message, done.stderr), done.stderr


def test_a_folder_is_no_picture(here):
    (here / "folder").mkdir()
    done = call("tokenize", "folder", "--tokenizer", "vq", "--out", "out")
    assert done.exit_code == 2 and not (here / "out").exists()
    assert "folder is a folder; give the pictures in it" in done.stderr


def test_size_makes_any_picture_fit(here):
    Image.new("RGB", (301, 17), (10, 20, 30)).save("a.png")
    Image.new("RGB", (3, 4), (10, 20, 30)).save("b.png")
    told = tokens_of("a.png", "b.png", "--size", 16)
    assert [row["size"] for row in told["pictures"]] == [[16, 16]] * 2
    assert torch.equal(read_image("out/a-given.png"), read_image("out/b-given.png"))


@pytest.mark.parametrize("name, message", [
    ("none.png", "none.png"), ("text.png", "text.png: not a PNG, JPEG or WEBP"),
    ("half.png", "half.png: damaged or truncated"),
])  # fmt: skip
def test_files_that_are_no_pictures(here, name, message):
    (here / "text.png").write_text("no picture")
    (here / "half.png").write_bytes((here / "a.png").read_bytes()[:-200])
    done = call("tokenize", name, "--tokenizer", "vq", "--out", "out")
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.output
    assert not (here / "out/tokens.json").exists()


# ---------------------------------------------------------------- ids that cannot be


def changed(**changes):
    return lambda values: values["pictures"][0].update(changes)


def ids(*given):
    return changed(ids=[list(given)])


@pytest.mark.parametrize("change, message", [
    (ids(0, 1, 2, 3, 4, 32), r"picture 0 (a.png): ids of map 0 must be whole numbers from 0 to "
                             r"31, given 32"),
    (ids(0, 1, 2, 3, 4, -1), "given -1"), (ids(0, 1, 2, 3, 4, 2**70), "from 0 to 31, given 118"),
    (ids(0, 1, 2, 3, 4, 0.5), "given 0.5"), (ids(0, 1, 2, 3, 4, True), "given True"),
    (ids(0, 1, 2, 3, 4), "map 0 has 2 x 3 = 6 ids, given 5"),
    (ids(*[0] * 7), "map 0 has 2 x 3 = 6 ids, given 7"),
    (changed(ids=[]), "there must be ids of 1 maps, given 0"),
    (changed(ids=[5]), "6 ids, given 5"),
    (changed(maps=[[3, 2]]), "24 x 16 has maps of 2 x 3; given [[3, 2]]"),
    (changed(height=12), "multiples of 8 pixels"),
    (changed(height=0), "must be whole numbers above 0, given 0"),
    (changed(height=10**12), "has maps of 125000000000 x 3"),
    *[(changed(name=name), f"the name of picture 0 must be that of a file, given {name!r}")
      for name in (5, "", "/", "a/..", "a\0b")],
    (changed(more=1), "must have the keys height, ids, maps, name, width"),
    (lambda values: values.update(format="x"), "is no file of ids"),
    (lambda values: values.update(pictures=[]), "holds no pictures"),
    (lambda values: values.pop("tokenizer"), "does not say whose ids"),
    (lambda values: values["tokenizer"].pop("digest"), "ids of another tokenizer"),
])  # fmt: skip
def test_ids_that_cannot_be_are_refused(here, change, message):
    tokens_of("a.png")
    values = json.loads((here / "out/tokens.json").read_text())
    change(values)
    (here / "t.json").write_text(json.dumps(values))
    done = call("detokenize", "t.json", "--tokenizer", "vq", "--out", "again")
    assert done.exit_code == 2 and message in done.stderr, done.output
    assert "t.json" in done.stderr and not (here / "again").exists()


def test_ids_of_another_tokenizer_are_refused(here):
    tokens_of("a.png")
    done = call("detokenize", "out/tokens.json", "--tokenizer", "other", "--out", "again")
    own, theirs = load_autoencoder("other").digest[:12], load_autoencoder("vq").digest[:12]
    assert done.exit_code == 2 and not (here / "again").exists()
    assert f"another tokenizer (vq, digest {theirs}) than other ({own})" in done.stderr


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "\x00\xff", "[" * 10**5])
def test_files_that_hold_no_ids(here, text):
    (here / "t.json").write_text(text)
    done = call("detokenize", "t.json", "--tokenizer", "vq")
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert "t.json is no file of ids" in done.stderr and "impasto tokenize" in done.stderr


def test_there_must_be_a_file(here):
    done = call("detokenize", "none.json", "--tokenizer", "vq")
    assert done.exit_code == 2 and "none.json is no file" in done.stderr
