"""Distances between sets of features, against scipy 1.17.1 and torch-fidelity 0.4.0, recorded,
and by hand.

    rng = np.random.default_rng(0); rng.random((20, 24, 3)); rng.standard_normal((20, 24, 3))
    a = rng.standard_normal((50, 6)); b = rng.standard_normal((40, 6)) * 1.5 + 0.3
    |m1 - m2|^2 + tr(S1 + S2 - 2 scipy.linalg.sqrtm(S1 @ S2)), S by np.cov

    rng = np.random.default_rng(3); a = rng.standard_normal((60, 8))
    b = rng.standard_normal((50, 8)) * 1.2 + 0.3; l = rng.standard_normal((25, 6)) * 2
    kid_features_to_metric, prc_features_to_metric, isc_features_to_metric of a, b and l
"""

import numpy as np
import pytest
import torch

from impasto.bench.distribution import (
    Moments,
    cmmd,
    frechet,
    inception_score,
    kernel_distance,
    moments,
    precision_recall,
    subset_kernel_distance,
)
from impasto.bench.measures import MEASURES, FeatureSet, check_enough, distances


def column(*values):
    return torch.tensor([[float(v)] for v in values])


def gaussians():
    rng = np.random.default_rng(0)
    rng.random((20, 24, 3)), rng.standard_normal((20, 24, 3))
    a, b = rng.standard_normal((50, 6)), rng.standard_normal((40, 6)) * 1.5 + 0.3
    return torch.from_numpy(a), torch.from_numpy(b)


def drawn():
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((60, 8)), rng.standard_normal((50, 8)) * 1.2 + 0.3
    return *map(torch.from_numpy, (a, b)), torch.from_numpy(rng.standard_normal((25, 6)) * 2)


def test_frechet_is_scipys_sqrtm_form():
    a, b = gaussians()
    assert frechet(moments(a), moments(b)) == pytest.approx(4.080966885475713, rel=1e-9)
    assert frechet(moments(a), moments(a)) == pytest.approx(0, abs=1e-9)


def test_frechet_by_hand_and_with_fewer_pictures_than_features():
    """One feature: (0 - 3)^2 + (sqrt 2 - sqrt 8)^2 = 9 + 2. Shifted copies: the shift squared."""
    assert frechet(moments(column(-1, 1)), moments(column(1, 5))) == pytest.approx(11)
    few = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    assert frechet(moments(few), moments(few + 0.5)) == pytest.approx(30 * 0.25, rel=1e-6)


def test_moments_in_parts_are_those_of_the_whole(monkeypatch):
    a, _ = gaussians()
    monkeypatch.setattr("impasto.bench.distribution.ROWS", 7)
    found = moments(a + 1e4)
    np.testing.assert_allclose(found.covariance, np.cov(a.T), rtol=1e-9)
    with pytest.raises(ValueError, match="finite"):
        moments(torch.tensor([[1.0], [float("nan")]]))


def test_kernel_distance_by_hand_and_as_recorded(monkeypatch):
    """x = 0, 1; y = 2, 3; D = 1. k(0, 1) = 1, k(2, 3) = 343, k(x, y) = 1, 1, 27, 64:
    1 + 343 - 2 * 93 / 4 = 297.5."""
    assert kernel_distance(column(0, 1), column(2, 3)) == pytest.approx(297.5)
    a, b, _ = drawn()
    value, std = subset_kernel_distance(a, b, subsets=5, size=20, seed=2020)
    assert value == pytest.approx(0.09737381068541637, rel=1e-9)
    assert std == pytest.approx(0.37149609012247986, rel=1e-9)
    monkeypatch.setattr("impasto.bench.distribution.ROWS", 7)
    again, _ = subset_kernel_distance(a, b, subsets=5, size=20, seed=2020)
    assert again == pytest.approx(value, rel=1e-9)
    with pytest.raises(ValueError, match="60 and 50"):
        subset_kernel_distance(a, b, subsets=1, size=51, seed=0)


def test_cmmd_by_hand_and_as_recorded():
    """One picture each, at right angles: 1000 (1 + 1 - 2 exp(-2 / 200)) = 19.9003. Recorded: the
    formula by scipy's cdist."""
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert cmmd(x, y) == pytest.approx(19.9003, abs=1e-4)
    a, b, _ = drawn()
    unit = [z / z.norm(dim=1, keepdim=True) for z in (a, b)]
    assert cmmd(*unit) == pytest.approx(0.6299658907000794, rel=1e-9)


def test_precision_and_recall_by_hand_and_as_recorded():
    """k = 1. Reference 0, 1, 10: radii 1, 1, 9, so balls reach over -1..2 and 1..19; samples 0.5
    and 30: one of two inside. Samples' radii 29.5 both: all of the reference inside."""
    assert precision_recall(column(0.5, 30), column(0, 1, 10), k=1) == pytest.approx((0.5, 1))
    assert precision_recall(column(0, 1, 10), column(0.5, 30), k=1) == pytest.approx((1, 0.5))
    a, b, _ = drawn()
    assert precision_recall(a, b) == pytest.approx((0.95, 0.62))
    assert precision_recall(a, b, k=1) == pytest.approx((0.8, 0.38))
    with pytest.raises(ValueError, match="at least 4 pictures, given 3 and 50"):
        precision_recall(a[:3], b)


def test_inception_score_by_hand_and_as_recorded():
    """Two sure pictures of two classes: exp(log 2) = 2; the same class twice: 1. Recorded: the
    formula over splits of 10 in numpy, as ADM's evaluator cuts them; torch-fidelity's 10 splits
    of rows shuffled from 2020."""
    sure = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    assert inception_score(sure, 2)[0] == pytest.approx(2)
    assert inception_score(sure[[0, 0]], 2)[0] == pytest.approx(1)
    *_, logits = drawn()
    assert inception_score(logits, 10)[0] == pytest.approx(2.0332376514577586, rel=1e-9)
    found = distances("x", {"is": {"splits": 10, "seed": 2020}},
                      FeatureSet(25, {"logits": logits}), FeatureSet(0))  # fmt: skip
    assert found == {"is_x": {"value": pytest.approx(1.6472665170702616, rel=1e-9),
                              "std": pytest.approx(0.2578682957501961, rel=1e-9)}}  # fmt: skip


def test_distances_bear_the_extractors_name_and_take_published_moments():
    a, b = gaussians()
    both = FeatureSet(50, {"pool": a}), FeatureSet(40, {"pool": b})
    found = distances("sticker_clip", {"fd": {}, "kd": {}, "precision_recall": {"k": 3}}, *both)
    assert list(found) == ["fd_sticker_clip", "kd_sticker_clip", "precision_sticker_clip",
                           "recall_sticker_clip"]  # fmt: skip
    mean, covariance = torch.from_numpy(b.numpy().mean(0)), torch.from_numpy(np.cov(b.T))
    given = FeatureSet(0, given={"pool": Moments(mean, covariance)})
    moment = distances("sticker_clip", {"fd": {}}, both[0], given)
    assert moment["fd_sticker_clip"]["value"] == pytest.approx(4.080966885475713, rel=1e-9)


def enough(measures, samples, reference, given=None):
    widths = {"pool": 128, "logits": 8, "spatial": 9}
    check_enough("x", measures, widths, samples=samples, reference=reference, given=given)


GIVEN = {"pool": Moments(torch.zeros(128), torch.eye(128))}


@pytest.mark.parametrize("measures, counts, message", [
    ({"fd": {}}, (128, 500), "fd_x needs at least 129 pictures, there are 128: a covariance of"),
    ({"fd": {}}, (500, 128), "there are 128"),
    ({"kd": {}, "fd": {}, "cmmd": {}}, (9, 9), r"out: --features NAME:measures=kd\+cmmd$"),
    ({"fd": {}}, (128, 0, GIVEN), "there are 128"),
    ({"fd": {}}, (500, 0), "fd_x needs the reference's pictures"),
    ({"fd": {}}, (500, 0, {"pool": Moments(torch.zeros(64), torch.eye(64))}), "128 features, the"),
    ({"sfd": {}}, (500, 0, GIVEN), "sfd_x needs the reference's pictures"),
    ({"kid": {"subsets": 100, "size": 1000}}, (999, 5000), "at least 1,000 pictures"),
    ({"precision_recall": {"k": 3}}, (3, 9), "at least 4 pictures, there are 3"),
    ({"is": {"splits": 10}}, (9, 500), "is_x needs at least 10 pictures"),
    ({"kd": {}}, (50, 0, GIVEN), "kd_x needs the reference's pictures"),
])  # fmt: skip
def test_too_few_pictures_are_refused_beforehand(measures, counts, message):
    with pytest.raises(ValueError, match=message):
        enough(measures, *counts)


def test_enough_pictures_are_enough():
    enough({"fd": {}}, 129, 129)
    enough({"is": {"splits": 10}}, 10, 1)
    enough({"fd": {}, "is": {"size": 5000}}, 129, 0, GIVEN)
    enough({"fd": {}, "kd": {}}, 129, 2, GIVEN)
    assert {rule.reference for rule in MEASURES.values()} == {"features", "moments", "nothing"}
