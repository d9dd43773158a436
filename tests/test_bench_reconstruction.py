"""Reconstruction figures against scikit-image 0.26.0, recorded.

    rng = np.random.default_rng(0); x = rng.random((20, 24, 3))
    y = np.clip(x + 0.2 * rng.standard_normal(x.shape), 0, 1)
    peak_signal_noise_ratio(x, y, data_range=1); structural_similarity(x, y, channel_axis=-1,
    data_range=1 or 2), and for "gaussian" gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False
"""

import math

import numpy as np
import pytest
import torch

from impasto.bench.reconstruction import (
    codebook_use,
    psnr,
    ssim,
    use_of_counts,
)

RECORDED = {"skimage_dr1": 0.8206406491030794, "skimage_dr2": 0.8232965101522964,
            "gaussian": 0.8090383078964148}  # fmt: skip


def drawn():
    rng = np.random.default_rng(0)
    x = rng.random((20, 24, 3))
    y = np.clip(x + 0.2 * rng.standard_normal(x.shape), 0, 1)
    return [torch.from_numpy(p).permute(2, 0, 1)[None] for p in (x, y)]


def test_psnr_is_scikit_images_and_by_picture():
    x, y = drawn()
    assert float(psnr(x, y)) == pytest.approx(15.0397025279716, rel=1e-12)
    grey = torch.full((1, 3, 20, 24), 0.5, dtype=torch.float64)
    values = psnr(torch.cat([x, grey]), torch.cat([y, grey + 0.1]))
    assert values.tolist() == pytest.approx([15.0397025279716, 20.0])  # 10 log10(1 / .01)
    assert psnr(x, x).tolist() == [math.inf]


@pytest.mark.parametrize("variant", RECORDED)
def test_ssim_is_scikit_images(variant):
    x, y = drawn()
    assert float(ssim(x, y, variant)) == pytest.approx(RECORDED[variant], rel=1e-10)
    assert float(ssim(x, x, variant)) == pytest.approx(1)
    both = ssim(torch.cat([x, x]), torch.cat([y, x]), variant)
    assert both.tolist() == pytest.approx([RECORDED[variant], 1])


def test_ssim_must_be_named_and_fit():
    x, y = drawn()
    with pytest.raises(ValueError, match="name one of skimage_dr1"):
        ssim(x, y, "ssim")
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(x[..., :10], y[..., :10], "gaussian")
    with pytest.raises(ValueError, match="two of"):
        psnr(x, y[..., 1:])


def test_codebook_use_by_hand():
    """Codes 0 0 1 1 of 8: a quarter of them, two equally often; 0 0 0 1: exp(.5623) = 1.7548."""
    assert codebook_use(torch.tensor([[0, 0], [1, 1]]), 8) == pytest.approx((0.25, 2))
    assert codebook_use(torch.tensor([0, 0, 0, 1]), 4) == pytest.approx((0.5, 1.7547654))
    assert codebook_use(torch.arange(5), 5) == pytest.approx((1, 5))
    assert use_of_counts(torch.tensor([3, 1, 0, 0])) == pytest.approx((0.5, 1.7547654))
    for codes in ([5], [-1], []):
        with pytest.raises(ValueError, match="0 to 4"):
            codebook_use(torch.tensor(codes), 5)
