"""Reconstruction figures against scikit-image 0.26.0 and scipy 1.17.1, recorded.

    rng = np.random.default_rng(0); x = rng.random((20, 24, 3))
    y = np.clip(x + 0.2 * rng.standard_normal(x.shape), 0, 1)
    peak_signal_noise_ratio(x, y, data_range=1); structural_similarity(x, y, channel_axis=-1,
    data_range=1 or 2), and for "gaussian" gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False
    a = rng.standard_normal((50, 6)); b = rng.standard_normal((40, 6)) * 1.5 + 0.3
    |m1 - m2|^2 + tr(S1 + S2 - 2 scipy.linalg.sqrtm(S1 @ S2)), S by np.cov
"""

import math

import numpy as np
import pytest
import torch

from impasto.bench.reconstruction import (
    codebook_use,
    frechet,
    moments,
    named_frechet,
    psnr,
    ssim,
)

RECORDED = {"skimage_dr1": 0.8206406491030794, "skimage_dr2": 0.8232965101522964,
            "gaussian": 0.8090383078964148}  # fmt: skip


def drawn():
    rng = np.random.default_rng(0)
    x = rng.random((20, 24, 3))
    y = np.clip(x + 0.2 * rng.standard_normal(x.shape), 0, 1)
    a, b = rng.standard_normal((50, 6)), rng.standard_normal((40, 6)) * 1.5 + 0.3
    pictures = [torch.from_numpy(p).permute(2, 0, 1)[None] for p in (x, y)]
    return (*pictures, torch.from_numpy(a), torch.from_numpy(b))


def test_psnr_is_scikit_images_and_by_picture():
    x, y, *_ = drawn()
    assert float(psnr(x, y)) == pytest.approx(15.0397025279716, rel=1e-12)
    grey = torch.full((1, 3, 20, 24), 0.5, dtype=torch.float64)
    values = psnr(torch.cat([x, grey]), torch.cat([y, grey + 0.1]))
    assert values.tolist() == pytest.approx([15.0397025279716, 20.0])  # 10 log10(1 / .01)
    assert psnr(x, x).tolist() == [math.inf]


@pytest.mark.parametrize("variant", RECORDED)
def test_ssim_is_scikit_images(variant):
    x, y, *_ = drawn()
    assert float(ssim(x, y, variant)) == pytest.approx(RECORDED[variant], rel=1e-10)
    assert float(ssim(x, x, variant)) == pytest.approx(1)
    both = ssim(torch.cat([x, x]), torch.cat([y, x]), variant)
    assert both.tolist() == pytest.approx([RECORDED[variant], 1])


def test_ssim_must_be_named_and_fit():
    x, y, *_ = drawn()
    with pytest.raises(ValueError, match="name one of skimage_dr1"):
        ssim(x, y, "ssim")
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(x[..., :10], y[..., :10], "gaussian")
    with pytest.raises(ValueError, match="two of"):
        psnr(x, y[..., 1:])


def test_frechet_is_scipys_sqrtm_form():
    *_, a, b = drawn()
    assert frechet(moments(a), moments(b)) == pytest.approx(4.080966885475713, rel=1e-9)
    assert frechet(moments(a), moments(a)) == pytest.approx(0, abs=1e-9)
    assert named_frechet(a, b, "sticker_clip").keys() == {"fd_sticker_clip"}


def test_frechet_by_hand_and_with_fewer_pictures_than_features():
    """One feature: (0 - 3)^2 + (sqrt 2 - sqrt 8)^2 = 9 + 2. Shifted copies: the shift squared."""
    a, b = torch.tensor([[-1.0], [1.0]]), torch.tensor([[1.0], [5.0]])
    assert frechet(moments(a), moments(b)) == pytest.approx(11)
    few = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    assert frechet(moments(few), moments(few + 0.5)) == pytest.approx(30 * 0.25, rel=1e-6)


def test_it_is_never_called_fid():
    *_, a, b = drawn()
    for name in ("fid", "my_fid", "", "CLIP L/14"):
        with pytest.raises(ValueError, match="name the extractor"):
            named_frechet(a, b, name)
    with pytest.raises(ValueError, match="finite"):
        moments(torch.tensor([[1.0], [float("nan")]]))


def test_codebook_use_by_hand():
    """Codes 0 0 1 1 of 8: a quarter of them, two equally often; 0 0 0 1: exp(.5623) = 1.7548."""
    assert codebook_use(torch.tensor([[0, 0], [1, 1]]), 8) == pytest.approx((0.25, 2))
    assert codebook_use(torch.tensor([0, 0, 0, 1]), 4) == pytest.approx((0.5, 1.7547654))
    assert codebook_use(torch.arange(5), 5) == pytest.approx((1, 5))
    for codes in ([5], [-1], []):
        with pytest.raises(ValueError, match="0 to 4"):
            codebook_use(torch.tensor(codes), 5)
