"""The full-size scorer on tiny random networks: against a slow reference, and what it refuses."""

import json
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Mask2FormerForUniversalSegmentation

from impasto.score.base import Found, ScorerBroken, Wanted
from impasto.score.clip import OPENAI, load_clip
from impasto.score.color import ClipColorClassifier
from impasto.score.detector import Mask2FormerDetector, detector_config, tight_boxes
from impasto.score.geneval import GenEvalScorer, SelectiveDetector, wanted
from impasto.score.mask2former_convert import mask2former, to_mmdet
from impasto.score.mmdetection import inputs, masks_at, padded_size, resized_size
from impasto.score.official import OfficialScorer
from impasto.score.trained import PAINTS, check_colors, check_detector, check_norms
from impasto.score.verdict import Thresholds
from impasto.score.voting import VotingDetector, build_network
from impasto.spec import CLASSES, COLORS, Item, Spec
from impasto.zoo.convert import CONVERTERS, convert
from impasto.zoo.registry import SCORERS
from impasto.zoo.weights import load_state
from tests import tiny_clip

ODD = ((37, 53), (50, 41))
THRESHOLDS = Thresholds(threshold=0.3, counting_threshold=0.5)


@pytest.fixture(scope="module")
def model():
    """A tiny detector, sure enough of its classes to find something."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = Mask2FormerForUniversalSegmentation(detector_config("tiny", queries=20))
        torch.nn.init.normal_(network.class_predictor.weight, std=1.0)
        torch.nn.init.normal_(network.class_predictor.bias, std=1.0)
    return network.eval()


@pytest.fixture(scope="module")
def detector(model):
    return Mask2FormerDetector(model, inputs, masks_at, classes=CLASSES, batch=2)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A tiny CLIP with QuickGELU, and words for its prompts."""
    return tiny_clip.saved(tmp_path_factory.mktemp("clip"), norms=True)


@pytest.fixture(scope="module")
def colors(clip_folder):
    network, tokenizer, _ = load_clip(clip_folder)
    return ClipColorClassifier(network, tokenizer, normalisation=OPENAI)


def pictures(count=1, height=37, width=53, seed=0):
    """Coarse noise on the 8-bit grid."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (count, 3, 6, 6), generator=generator).float() / 255
    return torch.nn.functional.interpolate(coarse, (height, width), mode="nearest")


# Objects, by the letter of mmdetection's instance_postprocess and GenEval's evaluate_image


SEEN = {}


def slow(model, image):
    """`compute_slowly`, each picture once."""
    key = id(model), tuple(image.shape), image.numpy().tobytes()
    if key not in SEEN:
        SEEN[key] = compute_slowly(model, image)
    return SEEN[key]


@torch.no_grad()
def compute_slowly(model, image):
    """Class -> rows [x1, y1, x2, y2, score] and masks of one picture, all Q of them."""
    out = model(pixel_values=inputs(image[None]))
    logits, masks = out.class_queries_logits[0], out.masks_queries_logits[0]
    height, width = image.shape[-2:]
    small = resized_size((height, width))
    resize = partial(torch.nn.functional.interpolate, mode="bilinear", align_corners=False)
    masks = resize(masks[None], padded_size(small))[:, :, : small[0], : small[1]]
    masks = resize(masks, (height, width))[0]
    scores = logits.softmax(-1)[:, :-1].flatten()
    best = sorted(range(len(scores)), key=lambda i: -scores[i])[: len(logits)]
    found = {name: ([], []) for name in CLASSES}
    for i in best:
        mask = masks[i // 80]
        inside = (mask > 0).float()
        sure = float((mask.sigmoid() * inside).sum() / (inside.sum() + 1e-6))
        ys, xs = np.nonzero(inside.numpy())
        box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0] * 4
        rows, planes = found[CLASSES[i % 80]]
        rows.append([float(v) for v in box] + [float(scores[i]) * sure])
        planes.append(inside.bool())
    return found


def kept_slowly(found, threshold):
    """GenEval's selection: class -> [(row, mask)], most confident first."""
    detected = {}
    for name, (rows, masks) in found.items():
        order = np.argsort([row[4] for row in rows])[::-1]
        order = [i for i in order if rows[i][4] > threshold][:16]
        if order:
            detected[name] = [(rows[i], masks[i]) for i in order]
    return detected


def by_class(found, threshold):
    detected = {}
    for one in sorted(found, key=lambda one: (CLASSES.index(one.cls), -one.score)):
        if one.score > threshold:
            detected.setdefault(one.cls, []).append(([*one.box, one.score], one.mask))
    return {name: rows[:16] for name, rows in detected.items()}


def assert_same(got, expected):
    assert list(got) == list(expected)
    for name, rows in expected.items():
        assert len(got[name]) == len(rows)
        for (row, mask), (other, plane) in zip(got[name], rows, strict=True):
            assert row[:4] == other[:4] and row[4] == pytest.approx(other[4], abs=1e-5)
            assert mask is None or torch.equal(mask, plane)


@pytest.mark.parametrize("size", ODD)
@pytest.mark.parametrize("threshold", [0.05, 0.3])
def test_objects_are_mmdetections_to_the_letter(model, detector, size, threshold):
    image = pictures(1, *size)
    expected = kept_slowly(slow(model, image[0]), threshold)
    assert sum(map(len, expected.values())) > 3
    (found,) = detector.detect(image)
    assert_same(by_class(found, threshold), expected)


def test_what_is_wanted_is_what_is_found_without_asking(detector):
    """Every skip at once gives the same objects, boxes and scores to the last bit."""
    images = pictures(2)
    every = detector.detect(images)
    some = frozenset(one.cls for one in every[0][:2])
    for above in (0.05, 0.3):
        full = [[one for one in found if one.score > above] for found in every]
        hints = [Wanted(above=above), Wanted(classes=some, above=above, masks=frozenset())]
        first, second = detector.detect_wanted(images, hints)
        assert first == full[0] and len(first) > 1
        assert all(torch.equal(a.mask, b.mask) for a, b in zip(first, full[0], strict=True))
        assert second == [one for one in full[1] if one.cls in some]
        assert all(one.mask is None for one in second)


def test_masks_are_only_made_for_rows_that_can_count(detector):
    """The bound p <= threshold, on the logits that are resized."""
    sizes = []

    def counted(logits, size):
        sizes.append(len(logits))
        return masks_at(logits, size)

    own = Mask2FormerDetector(detector.model, inputs, counted, classes=CLASSES)
    images = pictures(1)
    (full,) = own.detect(images)
    (few,) = own.detect_wanted(images, [Wanted(above=0.5)])
    assert 0 < sizes[1] < sizes[0] and few == [one for one in full if one.score > 0.5]
    own.detect_wanted(images, [Wanted(above=0.5, classes=frozenset())])
    own.detect_wanted(images, [Wanted(above=1.0)])
    assert len(sizes) == 2


def test_no_mask_score_exceeds_one_however_it_is_summed():
    """The proof in the module, tried: masks that are as sure as they can be, of odd sizes."""
    from impasto.score.detector import _mask_scores

    for size in ((1, 1), (37, 53), (511, 509), (1024, 1024)):
        inside, score = _mask_scores(torch.full((2, *size), 80.0))
        assert bool(inside.all()) and float(score.max()) <= 1.0
    _, score = _mask_scores(torch.full((1, 5, 5), -1.0))
    assert score.tolist() == [0.0]


def test_masks_come_only_for_the_classes_that_are_asked(detector):
    (full,) = detector.detect(pictures(1))
    name = full[0].cls
    (found,) = detector.detect_wanted(pictures(1), [Wanted(above=0.05, masks=frozenset([name]))])
    assert found == full
    assert [one.mask is not None for one in found] == [one.cls == name for one in found]


# Hints


def spec(*include, exclude=(), tag="test"):
    return Spec(tag=tag, include=include, exclude=exclude, prompt="a photo of something")


def test_hints_say_what_the_rule_looks_at():
    asked = spec(Item(cls="dog", count=2, color="red"), Item(cls="cat"),
                 exclude=(Item(cls="cow", count=2),), tag="counting")  # fmt: skip
    rule = Thresholds()
    assert wanted(asked, rule) == Wanted(above=0.9, masks=frozenset(["dog"]))
    few = wanted(replace(asked, tag="colors"), rule, "asked")
    assert few == Wanted(classes=frozenset(["dog", "cat", "cow"]), above=0.3,
                         masks=frozenset(["dog"]))  # fmt: skip


def test_only_detectors_that_can_be_told_are_told(detector):
    assert isinstance(detector, SelectiveDetector)
    assert not isinstance(VotingDetector(build_network("tiny")), SelectiveDetector)


def test_an_object_without_mask_has_no_color():
    with pytest.raises(ValueError, match="the 'dog' has no mask"):
        from impasto.score.color import color_crop

        color_crop(torch.zeros(3, 8, 8), Found("dog", (0, 0, 4, 4), 0.9), 8)


# Verdicts


class SlowDetector:
    """The reference above as a detector that cannot be told anything."""

    def __init__(self, model):
        self.model = model

    def detect(self, images):
        return [[Found(name, tuple(row[:4]), row[4], mask)
                 for name, (rows, masks) in slow(self.model, image).items()
                 for row, mask in zip(rows, masks, strict=True)]
                for image in images]  # fmt: skip


@pytest.fixture(scope="module")
def cases(model):
    """Pictures and demands of every kind, some of which they meet."""
    images = torch.cat([pictures(1, seed=seed) for seed in range(3)] * 5)
    specs = []
    for i, image in enumerate(images):
        seen = kept_slowly(slow(model, image), 0.3)
        names = [*list(seen), "zebra"]
        first, second = names[i % len(names)], names[(i // 3 + 1) % len(names)]
        color = COLORS[i % 10]
        specs.append([
            spec(Item(cls=first, color=color), tag="colors"),
            spec(Item(cls=first), Item(cls=second, position=("above", 0)), tag="position"),
            spec(Item(cls=first), exclude=(Item(cls=first, count=2),), tag="counting"),
            spec(Item(cls=names[0]), exclude=(Item(cls="zebra"),), tag="single_object"),
            spec(Item(cls=first, color=color), Item(cls=second, color=COLORS[-i % 10])),
        ][i // 3])  # fmt: skip
    return images, specs


@pytest.mark.parametrize("details", ["all", "asked"])
def test_verdicts_and_reasons_are_the_slow_references(model, detector, colors, cases, details):
    images, specs = cases
    expected = GenEvalScorer(SlowDetector(model), colors, THRESHOLDS).score(images, specs)
    scorer = OfficialScorer(detector, colors, thresholds=THRESHOLDS, details=details)
    got = scorer.score(images, specs)
    assert [(s.correct, s.reason) for s in got] == [(s.correct, s.reason) for s in expected]
    assert len({s.correct for s in got}) == 2 and any("; and " in s.reason for s in got)
    for one, other, asked in zip(got, expected, specs, strict=True):
        named = {item.cls for item in (*asked.include, *asked.exclude)}
        there = {name: rows for name, rows in other.details.items()
                 if details == "all" or name in named}  # fmt: skip
        assert list(one.details) == list(there)
        for name, rows in there.items():
            assert np.allclose(one.details[name], rows, atol=1e-5)


def test_pictures_of_many_sizes_keep_their_order(detector, colors):
    sizes = [(37, 53), (50, 41), (37, 53), (64, 64), (50, 41), (37, 53)]
    images = [pictures(1, *size, seed=i)[0] for i, size in enumerate(sizes)]
    names = [sorted(detector.detect(image[None])[0], key=lambda o: -o.score)[0].cls
             for image in images]  # fmt: skip
    specs = [spec(Item(cls=name)) for name in names]
    scorer = OfficialScorer(detector, colors, thresholds=THRESHOLDS)
    together = scorer.score(images, specs)
    alone = [scorer.score(image[None], [asked])[0]
             for image, asked in zip(images, specs, strict=True)]  # fmt: skip
    for one, other in zip(together, alone, strict=True):
        assert (one.correct, one.reason, list(one.details)) == (
            other.correct, other.reason, list(other.details))  # fmt: skip
        for name, rows in one.details.items():
            assert np.allclose(rows, other.details[name], atol=1e-4)
    assert len({json.dumps(one.details) for one in together}) == len(sizes)
    with pytest.raises(ValueError, match="6 pictures for 5 specs"):
        scorer.score(images, specs[:5])


def test_the_network_sees_batches_of_one_size_and_no_more_than_asked(detector, colors):
    seen = []

    def preprocess(images):
        seen.append(tuple(images.shape))
        return inputs(images)

    own = Mask2FormerDetector(detector.model, preprocess, masks_at, classes=CLASSES, batch=2)
    images = [pictures(1, *size)[0] for size in ((37, 53), (50, 41), (37, 53), (37, 53))]
    OfficialScorer(own, colors).score(images, [spec(Item(cls="dog"))] * 4)
    assert seen == [(2, 3, 37, 53), (1, 3, 37, 53), (1, 3, 50, 41)]


def test_all_crops_of_a_batch_go_through_clip_at_once(detector, colors, cases, monkeypatch):
    images, specs = cases
    calls = []
    real = colors.shares
    monkeypatch.setattr(colors, "shares", lambda crops: calls.append(len(crops)) or real(crops))
    OfficialScorer(detector, colors, thresholds=THRESHOLDS).score(images, specs)
    assert len(calls) == 1 and calls[0] > 3


def test_crops_are_the_official_scripts(colors, monkeypatch):
    """Composite on #999, crop to the box, 224 or the model's side by bicubic, centre."""
    seen = []
    monkeypatch.setattr("impasto.score.color.image_features",
                        lambda _, x: seen.append(x) or torch.ones(len(x), 128))  # fmt: skip
    image = pictures(1, 64, 64, seed=3)[0]
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[5:40, 10:60] = torch.rand(35, 50, generator=torch.Generator().manual_seed(0)) > 0.3
    box = tuple(tight_boxes(mask[None])[0].tolist())
    colors.classify([(image, Found("dog", box, 0.9, mask))])
    rgb = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
    blank = Image.new("RGB", rgb.size, color="#999")
    crop = Image.composite(rgb, blank, Image.fromarray(mask.numpy())).crop(box)
    size = colors.size
    crop = crop.resize((int(size * crop.width / crop.height), size), Image.Resampling.BICUBIC)
    left = round((crop.width - size) / 2)
    expected = np.asarray(crop.crop((left, 0, left + size, size))).astype(np.float32) / 255
    expected = (expected - np.array(OPENAI.mean)) / np.array(OPENAI.std)
    got = seen[0][0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


# Loading


@pytest.fixture(scope="module")
def converted(model, tmp_path_factory):
    """A folder that `impasto convert` wrote of the tiny detector."""
    folder = tmp_path_factory.mktemp("detector")
    model.save_pretrained(folder / "hub")
    config = detector_config("tiny", queries=20)
    tensors = to_mmdet(load_state(folder / "hub" / "model.safetensors"), config)
    torch.save({"state_dict": tensors}, folder / "x.pth")
    CONVERTERS._factories["tiny-official"] = partial(mask2former, config=config)
    convert(folder / "x.pth", "tiny-official", folder / "out")
    del CONVERTERS._factories["tiny-official"]
    return folder / "out"


def create(detector, clip, **options):
    text = ",".join(f"{k}={v}" for k, v in {"detector": detector, "clip": clip, **options}.items())
    return SCORERS.create(f"geneval:{text}", device="cpu")


@pytest.fixture
def quick(clip_folder, tmp_path):
    """A copy of the CLIP's folder whose config.json a test may change."""

    def make(**changes):
        for path in clip_folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        config = json.loads((tmp_path / "config.json").read_text())
        for tower, act in changes.items():
            config[f"{tower}_config"]["hidden_act"] = act
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make


def test_a_scorer_of_folders_judges_as_its_parts(converted, clip_folder, detector, colors, cases):
    images, specs = cases
    with pytest.warns(UserWarning, match="not be labelled official"):
        scorer = create(converted, clip_folder)
    assert scorer.thresholds == Thresholds()
    expected = OfficialScorer(detector, colors).score(images[:4], specs[:4])
    got = scorer.score(images[:4], specs[:4])
    assert [(s.correct, s.reason) for s in got] == [(s.correct, s.reason) for s in expected]


def test_provenance_says_mode_weights_and_why_it_is_not_official(converted, clip_folder):
    with pytest.warns(UserWarning, match="none of OpenMMLab's files"):
        told = create(converted, clip_folder).provenance()
    assert (told["id"], told["mode"], told["official"]) == ("geneval", "official", False)
    assert any("none of OpenMMLab's files" in why for why in told["not_official_because"])
    assert any("not ViT-L/14" in why for why in told["not_official_because"])
    record = json.loads((converted / "conversion.json").read_text())
    assert told["sha256"]["detector"] == record["result"]["model.safetensors"]
    assert told["conversion"]["source"] == record["source"]
    assert told["precision"] == "float32, TF32 off"
    assert "OpenCV" in told["preprocessing"]["detector"]
    json.dumps(told)


def test_official_files_and_vit_l_14_are_labelled_official(converted, clip_folder, monkeypatch):
    record = json.loads((converted / "conversion.json").read_text())
    start = record["source"]["sha256"][:8]
    monkeypatch.setattr("impasto.score.official_load.OFFICIAL_FILES", {"2.x": f"x-{start}.pth"})
    monkeypatch.setattr("impasto.score.official_load.VIT_L_14", {"image_size": 96})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = create(converted, clip_folder).provenance()
    assert told["official"] is True and told["not_official_because"] == []
    assert create(converted, clip_folder, mode="hf").provenance()["official"] is False


def test_weights_of_the_hub_need_mode_hf_and_are_not_official(converted, clip_folder):
    hub = converted.parent / "hub"
    with pytest.raises(ValueError, match=r"mode=official wants OpenMMLab's weights.*mode=hf"):
        create(hub, clip_folder)
    told = create(hub, clip_folder, mode="hf").provenance()
    assert (told["mode"], told["official"]) == ("hf", False)
    assert told["not_official_because"][0] == "mode is hf"


def test_plain_gelu_is_refused_by_name(converted, quick):
    for towers in ({"text": "gelu"}, {"vision": "gelu"}):
        with pytest.raises(ValueError, match=r"computes 'gelu' in its .*need 'quick_gelu'"):
            create(converted, quick(**towers))
    assert create(converted, quick(text="gelu"), mode="hf")


def test_weights_changed_after_conversion_are_refused(converted, clip_folder, tmp_path):
    for path in converted.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"not what conversion\.json says"):
        create(tmp_path, clip_folder)


def test_damaged_folders_are_named(converted, clip_folder, tmp_path):
    for path in converted.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for text in ("{", "[]", '{"result": {}}'):
        (tmp_path / "conversion.json").write_text(text)
        with pytest.raises(ValueError, match=r"conversion\.json is no record"):
            create(tmp_path, clip_folder)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or truncated"):
        create(tmp_path, clip_folder, mode="hf")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        create(tmp_path, clip_folder, mode="hf")


@pytest.mark.parametrize(("change", "words"), [
    (lambda t: {k: v for k, v in t.items() if "class_predictor" not in k},
     r"class_predictor\.bias \(missing\)"),
    (lambda t: t | {"other.weight": torch.ones(1)}, r"other\.weight \(unexpected\)"),
    (lambda t: t | {"class_predictor.bias": torch.ones(3)}, r"class_predictor\.bias \(shape\)"),
])  # fmt: skip
def test_keys_that_do_not_fit_are_refused(converted, clip_folder, tmp_path, change, words):
    from safetensors.torch import load_file, save_file

    tensors = change(load_file(converted / "model.safetensors"))
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((converted / "config.json").read_bytes())
    with pytest.raises(ValueError, match=words):
        create(tmp_path, clip_folder, mode="hf")


def test_classes_in_another_order_are_refused(converted, clip_folder, tmp_path):
    for path in converted.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] |= {"0": "bicycle", "1": "person"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="not COCO's 80 in their order: 0 is 'bicycle'"):
        create(tmp_path, clip_folder, mode="hf")


def test_options_are_checked(converted, clip_folder):
    for options, words in (({"mode": "slow"}, "unknown mode 'slow'.*official, hf, fast"),
                           ({"details": "few"}, "unknown details 'few'"),
                           ({"modes": "hf"}, "unknown key 'modes'.*did you mean 'mode'"),
                           ({"batch": 0}, "batch must be a whole number")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            create(converted, clip_folder, **options)
    with pytest.raises(ValueError, match=r"needs detector=FOLDER.*impasto convert"):
        SCORERS.create("geneval", device="cpu")
    with pytest.raises(ValueError, match=r"is a file, not a folder.*impasto convert"):
        create(converted.parent / "x.pth", clip_folder)


def test_a_hub_id_that_cannot_be_had_is_named(clip_folder, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no network\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(ValueError, match=r"some/thing is neither a folder nor .*: no network$"):
        create("some/thing", clip_folder)


# Precision


def test_official_arithmetic_is_float32_and_leaves_the_process_as_it_was(detector, colors):
    seen = []

    class Watched(Mask2FormerDetector):
        def predict(self, images):
            out = super().predict(images)
            seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32,
                         torch.is_autocast_enabled("cpu"), out[0][0].dtype))  # fmt: skip
            return out

    own = Watched(detector.model, inputs, masks_at, classes=CLASSES)
    before = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    try:
        OfficialScorer(own, colors).score(pictures(1), [spec(Item(cls="dog"))])
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == [(False, False, False, torch.float32)]
    assert torch.backends.cudnn.allow_tf32 == before


def test_fast_mode_computes_in_bfloat16_and_judges(converted, clip_folder, cases):
    images, specs = cases
    fast = create(converted, clip_folder, mode="fast")
    exact = create(converted, clip_folder, mode="hf")
    told = fast.provenance()
    assert (told["precision"], told["official"]) == ("bfloat16 and TF32", False)
    rough, fine = (s.detector.predict(images[:1])[0][0] for s in (fast, exact))
    assert torch.equal(rough, fine)  # outside the scorer's context
    with fast.precision():
        rough = fast.detector.predict(images[:1])[0][0]
    assert rough.dtype == torch.float32
    assert 1e-3 < float((rough - fine).abs().mean()) < 0.1 * float(fine.abs().mean())
    assert len(fast.score(images, specs)) == len(specs)
    assert not torch.is_autocast_enabled("cpu")


# Self-test


class Sure:
    """A detector that is sure of one class to this degree."""

    def __init__(self, p=0.5, value=0.0):
        row = torch.full((10, 81), (1 - p) / 80)
        row[:, 3] = p
        self.logits, self.masks = row.log(), torch.full((10, 4, 4), value)

    def predict(self, images):
        return [(self.logits, self.masks)] * len(images)


class Names:
    """A colour classifier that names these."""

    def __init__(self, *names):
        self.names = names

    def classify(self, crops):
        assert len(crops) == 10 and all(one.mask is not None for _, one in crops)
        return list(self.names)


def test_untrained_detectors_are_found_out_by_their_classes():
    check_detector(Sure(0.06))
    with pytest.raises(ScorerBroken, match=r"p = 0\.04\d, below 0\.05"):
        check_detector(Sure(0.045))
    with pytest.raises(ScorerBroken, match="NaN or infinite"):
        check_detector(Sure(0.5, float("nan")))


def test_a_fresh_detector_fails_and_so_does_its_scorer(colors):
    network = Mask2FormerForUniversalSegmentation(detector_config("tiny"))
    fresh = Mask2FormerDetector(network, inputs, masks_at, classes=CLASSES)
    with pytest.raises(ScorerBroken, match=r"below 0\.05"):
        check_detector(fresh)
    with pytest.raises(ScorerBroken, match=r"the detector: .* normalisation layers"):
        OfficialScorer(fresh, colors).self_test()


def test_norms_that_were_never_trained_are_counted():
    layers = torch.nn.Sequential(*(torch.nn.LayerNorm(4) for _ in range(4)))
    with pytest.raises(ScorerBroken, match="mine: 4 of 4 normalisation layers"):
        check_norms(layers, "mine")
    with torch.no_grad():
        for layer in layers[:2]:
            layer.weight += 0.1
    check_norms(layers, "mine")


def test_color_classifiers_must_name_half_of_the_discs():
    check_colors(Names(*COLORS))
    check_colors(Names(*COLORS[:5], *["red"] * 5))
    with pytest.raises(ScorerBroken, match=r"names 4 of 10 .* blue as red"):
        check_colors(Names(*COLORS[:4], *["red"] * 6))
    assert list(PAINTS) == list(COLORS)


def test_random_clip_fails_the_self_test(model, colors):
    trained = Mask2FormerDetector(model, inputs, masks_at, classes=CLASSES)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (torch.nn.LayerNorm, torch.nn.GroupNorm)):
                module.bias += 0.01
    with pytest.raises(ScorerBroken, match="the colour classifier names"):
        OfficialScorer(trained, colors).self_test()


# Full size


@pytest.mark.slow
def test_a_detector_of_full_size_finds_objects_in_a_small_picture():
    """One forward pass of all 68.7 million parameters, and mmdetection's objects from it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Mask2FormerForUniversalSegmentation(detector_config("official"))
        decoder = network.model.transformer_module
        with torch.no_grad():  # else all queries see the same
            torch.nn.init.normal_(decoder.queries_features.weight)
            torch.nn.init.normal_(network.class_predictor.weight, std=0.2)
            for layer in decoder.decoder.layers:
                for part in (layer.cross_attn.out_proj, layer.self_attn.out_proj, layer.fc2):
                    part.weight *= 0.2
    network.eval()
    image = pictures(1, 20, 60)
    found = Mask2FormerDetector(network, inputs, masks_at, classes=CLASSES).detect(image)[0]
    assert_same(by_class(found, 0.1), kept_slowly(slow(network, image[0]), 0.1))
    assert len(found) > 5 and len({one.cls for one in found}) > 3
