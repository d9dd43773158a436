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
from impasto.bench.reconstruction_summary import (
    kept_verdicts,
    mean_interval,
    summarise_reconstruction,
)
from impasto.score.statistics import Outcome, bootstrap

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
    # All pictures say the same.
    assert codebook_use(torch.full((64, 1), 7), 32) == pytest.approx((1 / 32, 1))
    assert use_of_counts(torch.tensor([3, 1, 0, 0])) == pytest.approx((0.5, 1.7547654))
    for codes in ([5], [-1], []):
        with pytest.raises(ValueError, match="0 to 4"):
            codebook_use(torch.tensor(codes), 5)


# what a run sums up to


def test_a_mean_has_an_interval():
    """1,600 values, half 0 and half 2: s = 1.0003, +- 1.96 s / 40. Few: the bootstrap's."""
    many = mean_interval(torch.tensor([0.0, 2.0] * 800))
    assert many["value"] == 1 and many["high"] == pytest.approx(1 + 1.96 / 40, rel=1e-4)
    assert many["low"] == pytest.approx(1 - 1.96 / 40, rel=1e-4)
    values = torch.tensor([1.0, 2.0, 4.0, 8.0] * 5)
    few = mean_interval(values)
    outcomes = [Outcome("pictures", str(i), 0, v) for i, v in enumerate(values.tolist())]
    assert (few["low"], few["high"]) == bootstrap(outcomes).overall[1:]
    assert few["value"] == 3.75
    assert few["low"] < 3.75 < few["high"]
    assert mean_interval(torch.tensor([3.0])) == {"value": 3}
    with pytest.raises(ValueError, match="no pictures"):
        mean_interval(torch.tensor([]))


def test_exact_pictures_have_no_psnr_but_are_counted():
    """MSE .01 and .0001: 20 and 40 dB, mean 30; one picture is exact."""
    def summed(*mse):
        return summarise_reconstruction({"mse": torch.tensor(mse)}, {}, {}, {})["means"]["psnr"]

    found = summed(0.01, 0.0, 0.0001)
    assert found["value"] == pytest.approx(30) and found["exact"] == 1
    assert summed(0.0, 0.0) == {"value": None, "exact": 2}


def test_verdicts_kept_by_hand():
    """Two of three true counting verdicts kept; Wilson of 2 of 3, z = 1.96, by hand:
    (.6667 + .6402 -+ 1.96 sqrt(.07407 + .10671)) / 2.2805 = .2077, .9385 (R: binom.confint)."""
    before = torch.tensor([True, True, True, False, True, False])
    after = torch.tensor([True, False, True, True, True, False])
    tasks = ["counting"] * 4 + ["colors", "position"]
    found = kept_verdicts(before, after, tasks)
    assert found["gained"] == 1 and list(found["tasks"]) == ["counting", "colors"]
    counting = found["tasks"]["counting"]
    assert (counting["kept"], counting["of"]) == (2, 3)
    assert (counting["low"], counting["high"]) == pytest.approx((0.2077, 0.9385), abs=2e-4)
    assert found["overall"]["value"] == 0.75
    assert kept_verdicts(before & ~before, after, tasks)["overall"] is None
