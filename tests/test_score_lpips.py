"""LPIPS against lpips 0.1.4 with torchvision 0.29.1's networks and the weights of
tests/random_weights.py (heads: their absolute values), recorded: `LPIPS(net=…)(2 a - 1, 2 b - 1)`.

    g = torch.Generator().manual_seed(12); a = torch.rand(2, 3, 64, 48, generator=g)
    b = (a + 0.2 * torch.randn(a.shape, generator=g)).clamp(0, 1)
"""

import pytest
import torch

from impasto.files import sha256_file
from impasto.score.lpips import VARIANTS, Lpips
from impasto.zoo.registry import PERCEPTUAL
from tests.random_weights import random_state

RECORDED = {"alex": [0.05377009138464928, 0.05236442759633064],
            "vgg": [0.05267598107457161, 0.05243590101599693]}  # fmt: skip


def files(folder, variant):
    """Backbone and heads as .pth files, the backbone with a classifier that is not looked at."""
    with torch.device("meta"):
        layers = torch.nn.Sequential(*(make() for make in VARIANTS[variant].layers))
    shapes = {f"features.{key}": tuple(v.shape) for key, v in layers.state_dict().items()}
    backbone = random_state(shapes) | {"classifier.1.weight": torch.zeros(4, 4)}
    heads = {key: value.abs() for key, value in random_state(
        {f"lin{i}.model.1.weight": (1, width, 1, 1)
         for i, width in enumerate(VARIANTS[variant].widths)}).items()}  # fmt: skip
    torch.save(backbone, folder / f"{variant}.pth")
    torch.save(heads, folder / f"{variant}-heads.pth", _use_new_zipfile_serialization=False)
    return folder / f"{variant}.pth", folder / f"{variant}-heads.pth"


@pytest.fixture(scope="module")
def alex(tmp_path_factory):
    return files(tmp_path_factory.mktemp("alex"), "alex")


def drawn():
    g = torch.Generator().manual_seed(12)
    a = torch.rand(2, 3, 64, 48, generator=g)
    return a, (a + 0.2 * torch.randn(a.shape, generator=g)).clamp(0, 1)


@pytest.mark.parametrize("variant", RECORDED)
def test_it_is_lpips(tmp_path, variant):
    paths = files(tmp_path, variant)
    made = Lpips(variant, *paths, any_weights=True)
    x, y = drawn()
    assert made(x, y).tolist() == pytest.approx(RECORDED[variant], rel=1e-4)
    assert made(x, x).tolist() == [0, 0]
    assert made.name == f"lpips_{variant}_v0.1_{sha256_file(paths[0])[:8]}"


def test_a_loss_may_be_made_of_it(alex):
    """The gradient is that of central differences, along a direction, and only y has one."""
    made = Lpips("alex", *alex, any_weights=True)
    made.layers.double()
    made.heads = [head.double() for head in made.heads]
    x, y = (images.double() for images in drawn())
    y = (0.9 * y).requires_grad_()
    towards = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).double()
    near = made.distance(x.requires_grad_(), y).sum()
    near.backward()
    with torch.no_grad():
        ends = [float(made.distance(x, y + t * towards).sum()) for t in (1e-6, -1e-6)]
    assert float((y.grad * towards).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4)
    assert x.grad is None and all(p.grad is None for p in made.layers.parameters())


def test_it_is_called_by_its_weights(alex, monkeypatch):
    text = f"lpips-alex:backbone={alex[0]},heads={alex[1]}"
    with pytest.raises(ValueError, match=r"alex\.pth is not the published.*lpips_alex_v0\.1_"):
        PERCEPTUAL.create(text, device="cpu")
    known = VARIANTS["alex"]._replace(backbone=sha256_file(alex[0])[:8])
    monkeypatch.setitem(VARIANTS, "alex", known)
    with pytest.raises(ValueError, match=r"alex-heads\.pth is not the published file"):
        PERCEPTUAL.create(text, device="cpu")
    monkeypatch.setitem(VARIANTS, "alex", known._replace(heads=sha256_file(alex[1])))
    made = PERCEPTUAL.create(text, device="cpu")
    assert made.name == "lpips_alex_v0.1"
    assert made.provenance()["sha256"]["heads"] == sha256_file(alex[1])


def test_another_networks_weights_are_refused(alex):
    with pytest.raises(ValueError, match="not this LPIPS's backbone"):
        Lpips("vgg", *alex, any_weights=True)
    with pytest.raises(ValueError, match="does not hold this LPIPS's heads"):
        Lpips("alex", alex[0], alex[0], any_weights=True)


def test_pictures_must_fit(alex):
    made = Lpips("alex", *alex, any_weights=True)
    x, y = drawn()
    with pytest.raises(ValueError, match="two of"):
        made(x, y[..., 1:])
    with pytest.raises(ValueError, match="at least 32 x 32 pixels, given 48 x 31"):
        made(x[..., :31, :], y[..., :31, :])
