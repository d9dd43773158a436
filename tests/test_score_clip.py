"""CLIP's values and colours against transformers' own forward pass and Pillow's resizing."""

import hashlib
import itertools
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from impasto.images import quantise
from impasto.score import clip
from impasto.score.base import Found
from impasto.score.clip import ClipScorer, Normalisation, clip_config, load_clip, token_ids
from impasto.score.color import GREY, TEMPLATES, ClipColorClassifier, color_crop
from impasto.spec import COLORS, Item, Spec
from tests import tiny_clip

SIZE = 96
PROMPTS = ("a photo of a red apple", "four cats", "a dog left of a blue kite", "x")
OPENAI = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved CLIP whose random weights are large enough that pictures and words matter."""
    return tiny_clip.saved(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def model(folder):
    """The same network, loaded by transformers alone."""
    return CLIPModel.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def scorer(folder):
    return ClipScorer.from_folder(folder, name="mine")


def specs(prompts=PROMPTS):
    return [Spec(tag="test", include=(Item(cls="dog"),), prompt=p) for p in prompts]


def pictures(count=4, height=128, width=128, seed=0):
    """Smooth pictures on the 8-bit grid, all different."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return quantise(torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic"))


def resized(image):
    """Pillow's antialiased bilinear resize of each channel, in float."""
    planes = [Image.fromarray(plane.numpy()).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
              for plane in image]  # fmt: skip
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))


def normal(pixels, norm=None):
    mean, std = norm or ((0.5,) * 3, (0.5,) * 3)
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@torch.no_grad()
def cosine(model, pixels, ids):
    """Of one normalised picture and one unpadded text, by CLIPModel's own forward."""
    out = model(input_ids=torch.tensor([ids]), pixel_values=pixels[None])
    return float(out.logits_per_image / model.logit_scale.exp())


def values(scorer, images, asked):
    return [score.value for score in scorer.score(images, asked)]


# Values of whole pictures


@pytest.mark.parametrize(("height", "width"), [(96, 96), (128, 128), (64, 160)])
@pytest.mark.parametrize("norm", [None, OPENAI])
def test_values_are_a_hundred_cosines_of_transformers_own_forward(
    scorer, model, height, width, norm
):
    images = pictures(4, height, width)
    ours = ClipScorer(scorer.model, scorer.tokenizer, normalisation=norm)
    expected = [100 * cosine(model, normal(resized(image), norm), scorer.tokenizer(p).input_ids)
                for image, p in zip(images, PROMPTS, strict=True)]  # fmt: skip
    assert values(ours, images, specs()) == pytest.approx(expected, abs=1e-3)
    assert max(expected) - min(expected) > 5
    assert all(score.correct is None for score in ours.score(images, specs()))


def test_order_and_batch_do_not_matter(scorer, monkeypatch):
    images = pictures(4)
    together = values(scorer, images, specs())
    backwards = values(scorer, images.flip(0), specs(PROMPTS[::-1]))
    alone = [values(scorer, images[i : i + 1], specs()[i : i + 1])[0] for i in range(4)]
    monkeypatch.setattr(clip, "BATCH", 3)
    assert backwards[::-1] == pytest.approx(together, abs=1e-3)
    assert alone == pytest.approx(together, abs=1e-3)
    assert values(scorer, images, specs()) == pytest.approx(together, abs=1e-3)


def test_a_long_prompt_is_cut_with_a_warning(scorer, model):
    long = "a red dog " * 30
    ids = scorer.tokenizer(long).input_ids
    assert len(ids) > 40
    with pytest.warns(UserWarning, match=f"{len(ids) - 1} tokens is scored by its first 39"):
        (value,) = values(scorer, pictures(1), specs([long]))
    cut = [*ids[:39], scorer.tokenizer.eos_token_id]
    expected = 100 * cosine(model, normal(resized(pictures(1)[0])), cut)
    assert value == pytest.approx(expected, abs=1e-3)


def test_the_longest_text_that_fits_is_whole(scorer, recwarn):
    words = "a" + " a" * 38
    ids = scorer.tokenizer(words).input_ids
    assert len(ids) == 40
    assert token_ids(scorer.tokenizer, [words, "a"])[0].tolist() == ids
    assert not recwarn.list


def test_short_texts_are_padded_after_their_end(scorer):
    (row,) = token_ids(scorer.tokenizer, ["a"]).tolist()
    own = scorer.tokenizer("a").input_ids
    assert row == own + [scorer.tokenizer.pad_token_id] * (40 - len(own))
    assert own[-1] == scorer.tokenizer.eos_token_id


def test_pictures_and_specs_must_be_as_many(scorer):
    with pytest.raises(ValueError, match="2 pictures for 1 specs"):
        scorer.score(pictures(2), specs(["a"]))
    assert scorer.score(pictures(1)[:0], []) == []


def test_provenance_has_hash_and_preprocessing(scorer, folder):
    told = scorer.provenance()
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (told["id"], told["sha256"]) == ("mine", digest)
    assert told["preprocessing"]["resize"] == [SIZE, SIZE]
    assert told["preprocessing"]["mean"] == told["preprocessing"]["std"] == [0.5] * 3
    assert not ClipScorer.gives_verdict


def test_half_precision_folders_load_in_float32(folder, tmp_path, scorer):
    CLIPModel.from_pretrained(folder).bfloat16().save_pretrained(tmp_path)
    scorer.tokenizer.save_pretrained(tmp_path)
    model, tokenizer, _ = load_clip(tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert tokenizer("a dog").input_ids == scorer.tokenizer("a dog").input_ids


def test_missing_weights_and_unknown_presets_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        load_clip(tmp_path)
    allowed = "allowed: sticker, patches, tiny"
    with pytest.raises(ValueError, match=f"unknown CLIP preset 'big'; {allowed}"):
        clip_config("big")


# Crops


def found(mask, cls="cup", box=None):
    ys, xs = torch.nonzero(mask, as_tuple=True)
    tight = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    return Found(cls, tuple(float(v) for v in box or tight), 0.9, mask)


def rectangle(x1, y1, x2, y2, height=64, width=64):
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def ellipse(x1, y1, x2, y2, height=64, width=64):
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    u, v = (2 * x - x1 - x2) / (x2 - x1), (2 * y - y1 - y2) / (y2 - y1)
    return u**2 + v**2 <= 1


def crop_by_pillow(image, one, size):
    """The official script's steps: composite on #999, crop to the box, Resize, CenterCrop."""
    levels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(levels)
    canvas = Image.new("RGB", picture.size, "#999")
    cut = Image.composite(picture, canvas, Image.fromarray(one.mask.numpy())).crop(one.box)
    w, h = cut.size
    w, h = (size, int(size * h / w)) if w <= h else (int(size * w / h), size)
    cut = cut.resize((w, h), Image.BICUBIC)
    left, top = int(round((w - size) / 2.0)), int(round((h - size) / 2.0))  # noqa: RUF046
    out = np.asarray(cut.crop((left, top, left + size, top + size)))
    return torch.from_numpy(out.copy()).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize(
    "mask",
    [
        rectangle(30, 2, 33, 60),
        rectangle(5, 40, 62, 44),
        rectangle(0, 0, 17, 23),
        rectangle(50, 41, 64, 64),
        rectangle(7, 9, 8, 10),
        rectangle(0, 63, 64, 64),
        ellipse(3, 5, 40, 58),
        ellipse(1, 20, 61, 57),
    ],
    ids=["tall", "wide", "corner", "far corner", "one pixel", "last row", "odd", "oval"],
)
@pytest.mark.parametrize("size", [32, 96])
def test_crops_are_the_official_scripts(mask, size):
    (image,) = pictures(1, 64, 64, seed=int(mask.sum()))
    one = found(mask)
    torch.testing.assert_close(color_crop(image, one, size), crop_by_pillow(image, one, size),
                               atol=1e-6, rtol=0)  # fmt: skip


def test_centres_are_rounded_half_to_even_as_torchvision_does():
    (image,) = pictures(1, 64, 64)
    halves = set()
    for height in range(34, 60):
        one = found(rectangle(10, 2, 43, 2 + height))
        halves.add((int(96 * height / 33) - 96) % 4)
        assert torch.equal(color_crop(image, one, 96), crop_by_pillow(image, one, 96))
    assert {1, 3} <= halves


def test_corners_between_pixels_are_rounded():
    (image,) = pictures(1, 64, 64)
    mask = ellipse(10, 12, 41, 40)
    for box in ((9.6, 11.5, 41.4, 40.5), (10.5, 12.4, 40.6, 39.9)):
        one = found(mask, box=box)
        assert torch.equal(color_crop(image, one, 32), crop_by_pillow(image, one, 32))


def test_boxes_between_pixels_are_at_least_one_pixel():
    (image,) = pictures(1, 64, 64)
    mask = rectangle(10, 5, 11, 20)
    whole = color_crop(image, found(mask), 32)
    assert torch.equal(color_crop(image, found(mask, box=(9.6, 5.0, 10.4, 20.0)), 32), whole)


def test_thin_objects_lose_their_ends_and_what_is_not_object_is_grey():
    image = torch.zeros(3, 64, 64)
    image[0] = 1.0
    image[:, 24:40] = torch.tensor([0.0, 0.0, 1.0])[:, None, None]
    thin = color_crop(image, found(rectangle(30, 2, 34, 62)), 96)
    assert torch.equal(thin, torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(3, 96, 96))
    hollow = rectangle(10, 10, 50, 50) & ~rectangle(20, 20, 40, 40)
    middle = color_crop(image, found(hollow), 40)[:, 12:28, 12:28]
    assert torch.equal(middle, torch.full((3, 16, 16), GREY))
    assert round(255 * GREY) == 0x99


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"mask of 'cup' is \(32, 64\)"):
        color_crop(torch.zeros(3, 64, 64), found(rectangle(0, 0, 3, 3, height=32)), 96)


# Colours


@torch.no_grad()
def columns_by_hand(model, tokenizer, cls):
    """(10, D): per colour the mean of three unit text features, made a unit again."""
    rows = []
    for color in COLORS:
        texts = (f"a photo of a {color} {cls}", f"a photo of a {color}-colored {cls}",
                 f"a photo of a {color} object")  # fmt: skip
        ids = [torch.tensor([tokenizer(text).input_ids]) for text in texts]
        pixels = torch.zeros(1, 3, SIZE, SIZE)
        units = [model(input_ids=i, pixel_values=pixels).text_embeds[0] for i in ids]
        mean = sum(units) / 3
        rows.append(mean / mean.norm())
    return torch.stack(rows)


@pytest.fixture(scope="module")
def colors(scorer):
    return ClipColorClassifier(scorer.model, scorer.tokenizer)


def test_columns_are_means_of_three_templates_made_units_again(colors, model):
    table = colors.columns(["cup", "dog"])
    for cls in ("cup", "dog"):
        torch.testing.assert_close(table[cls], columns_by_hand(model, colors.tokenizer, cls),
                                   atol=1e-5, rtol=0)  # fmt: skip
    texts = [t.format(color=c, cls="cup") for c in COLORS for t in TEMPLATES]
    features = clip.text_features(model, token_ids(colors.tokenizer, texts))
    means = features.unflatten(0, (10, 3)).mean(1)
    assert means.norm(dim=-1).max() < 0.99
    torch.testing.assert_close(table["cup"].norm(dim=-1), torch.ones(10))
    assert not torch.allclose(table["cup"], means, atol=1e-2)


def test_columns_are_computed_once_per_class(scorer, monkeypatch):
    own = ClipColorClassifier(scorer.model, scorer.tokenizer)
    first = own.columns(["cup", "cup"])["cup"]
    monkeypatch.setattr("impasto.score.color.text_features", lambda *_: pytest.fail("again"))
    assert own.columns(["cup"])["cup"] is first


def tinted(count):
    """Pictures, each mostly of one hue."""
    hues = torch.rand(count, 3, 1, 1, generator=torch.Generator().manual_seed(5))
    return quantise(0.7 * hues + 0.3 * pictures(count, 64, 64, seed=5))


MASKS = itertools.cycle([ellipse(3, 5, 40, 58), rectangle(20, 30, 60, 50)])
CLASSES = itertools.cycle(["cup", "dog", "bus"])
CROPS = [(image, found(next(MASKS), next(CLASSES))) for image in tinted(24)]


def test_colors_are_the_largest_cosines_by_transformers_own_forward(colors, model):
    table = {cls: columns_by_hand(model, colors.tokenizer, cls) for cls in ("cup", "dog", "bus")}
    expected = []
    for image, one in CROPS:
        pixels = normal(crop_by_pillow(image, one, SIZE))
        with torch.no_grad():
            out = model(input_ids=torch.ones(1, 2, dtype=torch.int64), pixel_values=pixels[None])
        expected.append(COLORS[int((table[one.cls] @ out.image_embeds[0]).argmax())])
    assert colors.classify(CROPS) == expected
    assert len(set(expected)) > 1


def test_colors_do_not_depend_on_order_or_batch(colors, monkeypatch):
    together = colors.classify(CROPS)
    assert colors.classify(CROPS[::-1]) == together[::-1]
    assert [colors.classify([crop])[0] for crop in CROPS] == together
    monkeypatch.setattr(clip, "BATCH", 5)
    assert colors.classify(CROPS) == together
    assert colors.classify([]) == []


def test_normalisation_reaches_the_network(scorer, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "impasto.score.color.image_features",
        lambda _, inputs: seen.append(inputs) or torch.ones(len(inputs), 128),
    )
    own = ClipColorClassifier(scorer.model, scorer.tokenizer, normalisation=OPENAI)
    own.classify(CROPS[:2])
    expected = torch.stack([normal(crop_by_pillow(*crop, SIZE), OPENAI) for crop in CROPS[:2]])
    torch.testing.assert_close(seen[0], expected)


def test_weights_that_lack_a_tensor_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "clip")
    path = tmp_path / "clip/model.safetensors"
    tensors = load_file(path)
    tensors.pop("visual_projection.weight")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 tensors are missing .* visual_projection\.weight"):
        load_clip(tmp_path / "clip")
