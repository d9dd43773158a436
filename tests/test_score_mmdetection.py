"""mmdetection's way with pictures, against OpenCV itself and against its arithmetic by hand."""

import numpy as np
import pytest
import torch

from impasto.score.mmdetection import MEAN, PAD, STD, inputs, masks_at, padded_size, resize
from impasto.score.mmdetection import resized_size as resized

# Height and width of a file, resized, padded: mmcv 1.7's imrescale and impad.
SIZES = [
    ((512, 512), (800, 800), (800, 800)),
    ((1024, 1024), (800, 800), (800, 800)),
    ((768, 1344), (762, 1333), (768, 1344)),
    ((1024, 512), (1333, 667), (1344, 672)),
    ((300, 1000), (400, 1333), (416, 1344)),
    ((64, 64), (800, 800), (800, 800)),
    ((1600, 1600), (800, 800), (800, 800)),
    ((37, 53), (800, 1146), (800, 1152)),
    ((480, 640), (800, 1067), (800, 1088)),
    ((801, 799), (802, 800), (832, 800)),
]


def levels(height, width, seed=0):
    """Noise (height, width, 3) of 8 bits."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def planes(picture):
    return torch.from_numpy(picture).permute(2, 0, 1)


@pytest.mark.parametrize(("size", "small", "padded"), SIZES)
def test_sizes_are_mmcvs(size, small, padded):
    assert resized(size) == small and padded_size(small) == padded


def test_a_picture_of_which_nothing_would_be_left_is_refused():
    assert resized((1, 1333)) == (1, 1333)
    with pytest.raises(ValueError, match="a picture of 4000 x 1 is too thin"):
        resized((1, 4000))


# Resizing


def weights_by_hand(old, new, clamped):
    """(lower neighbour, weight of it, weight of the next) of each sample, in 1 / 2048."""
    rows = []
    for i in range(new):
        at = np.float32((i + 0.5) * (old / new) - 0.5)
        low = int(np.floor(at))
        part = np.float32(at - np.float32(low))
        if clamped and (low < 0 or low >= old - 1):
            low, part = min(max(low, 0), old - 1), np.float32(0)
        a, b = (int(np.rint(np.float32(v) * 2048)) for v in (np.float32(1) - part, part))
        rows.append((low, a, b))
    return rows


def resize_by_hand(picture, height, width):
    """OpenCV's INTER_LINEAR on 8 bits, pixel by pixel in Python's integers."""
    old_h, old_w = picture.shape[:2]
    source = picture.astype(int)
    across = np.stack([source[:, low] * a + source[:, min(low + 1, old_w - 1)] * b
                       for low, a, b in weights_by_hand(old_w, width, True)], 1)  # fmt: skip
    out = []
    for low, a, b in weights_by_hand(old_h, height, False):
        upper, lower = across[min(max(low, 0), old_h - 1)], across[min(low + 1, old_h - 1)]
        out.append((((a * (upper >> 4)) >> 16) + ((b * (lower >> 4)) >> 16) + 2) >> 2)
    return np.stack(out).astype(np.uint8)


@pytest.mark.parametrize(("old", "new"), [
    ((7, 9), (11, 13)), ((31, 17), (8, 16)), ((1, 5), (3, 9)), ((40, 40), (17, 39)),
    ((10, 20), (5, 20)),
])  # fmt: skip
def test_resizing_is_opencvs_arithmetic(old, new):
    picture = levels(*old)
    expected = resize_by_hand(picture, *new)
    assert np.array_equal(resize(planes(picture), new).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(("size", "small", "_"), SIZES)
def test_resizing_is_opencvs_to_the_last_bit(size, small, _):
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    picture = levels(*size)
    expected = cv2.resize(picture, small[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resize(planes(picture), small).permute(1, 2, 0).numpy(), expected)


def test_an_exact_halving_is_the_mean_of_four():
    picture = levels(20, 12).astype(int)
    four = picture[::2, ::2] + picture[1::2, ::2] + picture[::2, 1::2] + picture[1::2, 1::2]
    got = resize(planes(picture.astype(np.uint8)), (10, 6)).permute(1, 2, 0).numpy()
    assert np.array_equal(got, (four + 2) >> 2)


def test_resizing_is_without_antialiasing():
    """A black line between samples vanishes; antialiasing would leave grey."""
    picture = np.full((4000, 8, 3), 255, np.uint8)
    picture[[4 * i for i in range(1000)]] = 0
    small = resize(planes(picture), (1000, 8))
    assert int(small.min()) == 255


def test_the_same_size_is_the_same_picture():
    picture = planes(levels(5, 6))
    assert torch.equal(resize(picture, (5, 6)), picture)


# Network inputs


def inputs_by_hand(picture):
    """mmdetection's test pipeline on a BGR file: rescale, pad by 128, then normalise as RGB."""
    bgr = picture[..., ::-1]
    small = resized(picture.shape[:2])
    big = resize(planes(np.ascontiguousarray(bgr)), small).permute(1, 2, 0).numpy()
    canvas = np.full((*padded_size(small), 3), 128, np.float64)
    canvas[: small[0], : small[1]] = big
    rgb = canvas[..., ::-1]
    return (rgb - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])


@pytest.mark.parametrize("size", [(512, 512), (300, 1000), (37, 53), (1024, 512)])
def test_inputs_are_mmdetections(size):
    picture = levels(*size)
    got = inputs(planes(picture)[None].float() / 255)
    expected = torch.from_numpy(inputs_by_hand(picture)).permute(2, 0, 1)[None].float()
    assert got.shape == expected.shape and got.dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_padding_is_128_before_normalisation_and_red_comes_first():
    red = torch.zeros(1, 3, 300, 1000)
    red[:, 0] = 1
    got = inputs(red)
    assert got.shape == (1, 3, 416, 1344)
    grey = [(PAD - m) / s for m, s in zip(MEAN, STD, strict=True)]
    for outside in (got[0, :, 400:], got[0, :, :, 1333:]):
        for channel in range(3):
            assert outside[channel].unique().tolist() == pytest.approx([grey[channel]], abs=1e-6)
    inside = got[0, :, :400, :1333]
    assert inside[0].unique().tolist() == pytest.approx([(255 - 123.675) / 58.395], abs=1e-5)
    assert inside[2].unique().tolist() == pytest.approx([(0 - 103.53) / 57.375], abs=1e-5)


def test_pictures_of_a_batch_do_not_touch_each_other():
    images = torch.rand(3, 3, 40, 60)
    assert torch.equal(inputs(images)[1], inputs(images[1:2])[0])


# Masks


def bilinear_by_hand(plane, height, width):
    """Half-pixel centres, edges held, in float64."""
    for axis, size in ((0, height), (1, width)):
        old = plane.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        part = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
        high = plane.take(np.minimum(low + 1, old - 1), axis)
        plane = plane.take(low, axis) * (1 - part) + high * part
    return plane


@pytest.mark.parametrize("size", [(37, 53), (300, 1000), (1024, 512)])
def test_masks_are_padded_cut_and_resized_as_logits(size):
    small = resized(size)
    padded = padded_size(small)
    generator = torch.Generator().manual_seed(1)
    logits = 5 * torch.randn(2, padded[0] // 4, padded[1] // 4, generator=generator)
    got = masks_at(logits, size)
    assert got.shape == (2, *size)
    for plane, one in zip(logits.double().numpy(), got, strict=True):
        cut = bilinear_by_hand(plane, *padded)[: small[0], : small[1]]
        expected = torch.from_numpy(bilinear_by_hand(cut, *size)).float()
        torch.testing.assert_close(one, expected, atol=2e-3, rtol=0)
