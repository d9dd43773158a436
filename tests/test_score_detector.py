"""Mask2Former's objects against a slow restatement of mmdetection's post-processing."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import Mask2FormerForUniversalSegmentation

from impasto.score.detector import (
    MINIMAL_SCORE,
    Mask2FormerDetector,
    detector_config,
    sticker_preprocess,
    tight_boxes,
)
from impasto.spec import CLASSES


@pytest.fixture(scope="module")
def model():
    """A tiny network with random weights, sure enough of its classes to find something."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = Mask2FormerForUniversalSegmentation(detector_config("tiny"))
        torch.nn.init.normal_(network.class_predictor.weight, std=1.0)
        torch.nn.init.normal_(network.class_predictor.bias, std=0.5)
    return network.eval()


@pytest.fixture(scope="module")
def detector(model):
    return Mask2FormerDetector(model)


def pictures(count=2, height=192, width=192, seed=0):
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (height, width), mode="nearest")


# Boxes


def test_tight_boxes_hold_all_pixels_and_no_more():
    masks = torch.rand(20, 9, 13, generator=torch.Generator().manual_seed(0)) > 0.95
    masks[0] = False
    masks[1] = True
    masks[2:4] = False
    masks[2, 0, 0] = masks[3, 8, 12] = True
    boxes = tight_boxes(masks)
    assert boxes[:4].tolist() == [[0, 0, 0, 0], [0, 0, 13, 9], [0, 0, 1, 1], [12, 8, 13, 9]]
    for mask, box in zip(masks.numpy(), boxes.tolist(), strict=True):
        ys, xs = np.nonzero(mask)
        if len(ys):
            assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert tight_boxes(masks[:0]).shape == (0, 4)


# mmdetection's steps, one at a time


def resize(plane, height, width):
    """Bilinear with half-pixel centres, (h, w) to (height, width), pixel by pixel of one axis."""
    for axis, size in ((0, height), (1, width)):
        old = plane.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, old - 1)
        part = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
        plane = plane.take(low, axis) * (1 - part) + plane.take(high, axis) * part
    return plane


def restated(logits, masks, inner, outer):
    """(class, score, box, mask) of the Q best of Q x C scores, best first.

    logits: (Q, C + 1); masks: (Q, h, w); inner, outer: the network's and the picture's sizes.
    """
    logits, masks = logits.double().numpy(), masks.double().numpy()
    e = np.exp(logits - logits.max(1, keepdims=True))
    p = (e / e.sum(1, keepdims=True))[:, :-1]
    ranked = sorted(((p[q, c], q, c) for q in range(p.shape[0]) for c in range(p.shape[1])),
                    reverse=True)  # fmt: skip
    out = []
    for value, q, c in ranked[: len(logits)]:
        plane = resize(resize(masks[q], *inner), *outer)
        inside = plane > 0
        sure = (inside / (1 + np.exp(-plane))).sum() / (inside.sum() + 1e-6)
        ys, xs = np.nonzero(inside)
        box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(ys) else (0,) * 4
        out.append((CLASSES[c], value * sure, tuple(map(float, box)), inside))
    return sorted(out, key=lambda one: -one[1])


def assert_same(found, expected, score=1e-4, pixels=0.0):
    expected = [one for one in expected if one[1] > MINIMAL_SCORE]
    found = sorted(found, key=lambda one: -one.score)
    assert [one.cls for one in found] == [cls for cls, *_ in expected]
    assert [one.score for one in found] == pytest.approx([s for _, s, *_ in expected], abs=score)
    assert [one.box for one in found] == [box for *_, box, _ in expected]
    assert all((one.mask.numpy() != mask).mean() <= pixels
               for one, (*_, mask) in zip(found, expected, strict=True))  # fmt: skip


@pytest.mark.parametrize(("height", "width"), [(192, 192), (192, 256)])
def test_objects_are_mmdetections(model, detector, height, width):
    images = pictures(2, height, width)
    with torch.no_grad():
        out = model(pixel_values=images * 2 - 1)
    size = (height, width)
    for found, logits, masks in zip(detector.detect(images), out.class_queries_logits,
                                    out.masks_queries_logits, strict=True):  # fmt: skip
        assert len(found) > 3
        assert_same(found, restated(logits, masks, size, size))


def test_enlarged_pictures_have_nearly_mmdetections_objects(model, detector):
    """mmdetection resizes mask logits twice, to the network's size and to the picture's; here
    once: classes and boxes are the same, a few pixels at the masks' edges are not."""
    images = pictures(2, 128, 128)
    inputs = F.interpolate(images, (192, 192), mode="bilinear") * 2 - 1
    with torch.no_grad():
        out = model(pixel_values=inputs)
    for found, logits, masks in zip(detector.detect(images), out.class_queries_logits,
                                    out.masks_queries_logits, strict=True):  # fmt: skip
        assert len(found) > 3
        assert_same(found, restated(logits, masks, (192, 192), (128, 128)), score=2e-3,
                    pixels=5e-3)  # fmt: skip


def test_random_maps_give_mmdetections_objects(detector):
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        logits = 6 * torch.randn(8, 81, generator=generator)
        masks = 3 * torch.randn(8, 6, 5, generator=generator)
        found = detector._found(logits, masks, (6, 5))
        assert len(found) > 3
        assert_same(found, restated(logits, masks, (6, 5), (6, 5)))


def sure(*rows, queries=3):
    """Logits (Q, 81) from rows of {class: probability}; the rest is no object."""
    p = torch.full((queries, 81), 1e-9)
    p[:, 80] = 1
    for q, row in enumerate(rows):
        p[q, 80] = 1 - sum(row.values()) + 1e-9
        for cls, value in row.items():
            p[q, CLASSES.index(cls)] = value
    return p.log()


def planes(*boxes, queries=3, size=16, height=20.0):
    """Mask logits (Q, size, size), positive inside the boxes."""
    masks = torch.full((queries, size, size), -height)
    for q, (x1, y1, x2, y2) in enumerate(boxes):
        masks[q, y1:y2, x1:x2] = height
    return masks


def test_one_query_may_be_several_classes_with_one_mask(detector):
    logits = sure({"dog": 0.45, "cat": 0.4, "cow": 0.1}, {"bus": 0.09})
    found = detector._found(logits, planes((2, 3, 9, 8), (0, 0, 4, 4)), (16, 16))
    told = {one.cls: (round(one.score, 4), one.box) for one in found}
    box = (2.0, 3.0, 9.0, 8.0)
    # Three queries: the three best of all scores, so the bus of the second is left out.
    assert told == {"dog": (0.45, box), "cat": (0.4, box), "cow": (0.1, box)}
    assert all(torch.equal(one.mask, found[0].mask) for one in found)


def test_faint_masks_lower_the_score(detector):
    found = detector._found(sure({"dog": 0.8}), planes((2, 3, 9, 8), height=1.0), (16, 16))
    assert found[0].score == pytest.approx(0.8 / (1 + np.exp(-1.0)), abs=1e-4)


def test_empty_masks_and_faint_classes_are_no_objects(detector):
    assert detector._found(sure({"dog": 0.9}), planes(), (16, 16)) == []
    box = planes((2, 3, 9, 8))
    assert detector._found(sure({"dog": MINIMAL_SCORE - 1e-3}), box, (16, 16)) == []
    assert len(detector._found(sure({"dog": MINIMAL_SCORE + 1e-3}), box, (16, 16))) == 1
    (one,) = detector._found(sure({"dog": 0.9}, {"cat": 0.9}), box, (16, 16))
    assert one.cls == "dog"


# Pictures


@pytest.mark.parametrize(("height", "width"), [(128, 128), (128, 256), (384, 192)])
def test_masks_have_the_pictures_size(detector, height, width):
    (found,) = detector.detect(pictures(1, height, width))
    assert found
    assert {one.mask.shape for one in found} == {(height, width)}
    assert {one.mask.dtype for one in found} == {torch.bool}
    assert all(one.box == tuple(tight_boxes(one.mask[None])[0].tolist()) for one in found)


def test_pictures_do_not_depend_on_their_batch(detector):
    images = pictures(3, 128, 128)
    together = detector.detect(images)
    for image, expected in zip(images, together, strict=True):
        (alone,) = detector.detect(image[None])
        assert [one.cls for one in alone] == [one.cls for one in expected]
        assert [one.score for one in alone] == pytest.approx([o.score for o in expected], abs=1e-4)
    assert together[0] != together[1]


def test_the_network_sees_192_pixels_between_minus_one_and_one():
    assert sticker_preprocess(torch.rand(2, 3, 128, 256)).shape == (2, 3, 192, 384)
    images = torch.rand(1, 3, 192, 192)
    torch.testing.assert_close(sticker_preprocess(images), 2 * images - 1)


@pytest.mark.parametrize(("height", "width"), [(128, 100), (100, 128), (128, 130)])
def test_sizes_that_the_network_cannot_see_are_refused(detector, height, width):
    with pytest.raises(ValueError, match=f"no pictures of {width} x {height}"):
        detector.detect(torch.rand(1, 3, height, width))


def test_another_preprocess_is_used(model):
    seen = []

    def preprocess(images):
        seen.append(images.shape)
        return torch.zeros(len(images), 3, 96, 96)

    Mask2FormerDetector(model, preprocess).detect(torch.rand(1, 3, 50, 70))
    assert seen == [(1, 3, 50, 70)]


# Folders


def test_a_saved_network_finds_the_same(model, detector, tmp_path):
    model.save_pretrained(tmp_path)
    again = Mask2FormerDetector.from_pretrained(tmp_path)
    assert again.classes == list(CLASSES)
    assert again.detect(pictures()) == detector.detect(pictures())


def test_half_precision_folders_run_in_float32(tmp_path):
    network = Mask2FormerForUniversalSegmentation(detector_config("tiny"))
    network.bfloat16().save_pretrained(tmp_path)
    again = Mask2FormerDetector.from_pretrained(tmp_path)
    assert {p.dtype for p in again.model.parameters()} == {torch.float32}
    assert not again.model.training


def test_presets_have_genevals_classes_and_unknown_ones_are_named():
    for name in ("sticker", "tiny"):
        config = detector_config(name)
        assert [config.id2label[i] for i in range(config.num_labels)] == list(CLASSES)
    assert detector_config("tiny", queries=5).num_queries == 5
    with pytest.raises(ValueError, match="unknown detector preset 'big'; allowed: sticker, tiny"):
        detector_config("big")
