"""Perceptual distances on the world's own networks."""

import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPModel

from impasto.cli import build
from impasto.score.clip import clip_config
from impasto.score.perceptual import ClipDistance, DetectorDistance
from impasto.score.voting import build_network
from impasto.world import Renderer, Sprites
from impasto.zoo.registry import PERCEPTUAL

NAMES = ("sticker-detector", "sticker-clip")


@pytest.fixture(scope="module")
def scenes():
    from impasto.train.data import world_scenes

    sprites = Sprites.load()
    return Renderer(sprites)(list(world_scenes(3, 5, None, sprites))).images


@pytest.mark.parametrize("name", NAMES)
def test_the_worse_a_picture_the_further_it_is(name, scenes):
    near = PERCEPTUAL.create(name)
    assert near(scenes, scenes).tolist() == pytest.approx([0] * 3, abs=1e-6)
    torch.manual_seed(0)
    noise = torch.randn_like(scenes)
    blurs = [F.avg_pool2d(scenes, k, 1, k // 2, count_include_pad=False) for k in (3, 7, 15)]
    for worse in ([(scenes + s * noise).clamp(0, 1) for s in (0.02, 0.1, 0.3)], blurs):
        first, second, third = (near(scenes, each) for each in worse)
        assert (first > 0).all() and (first < second).all() and (second < third).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_reconstruction_has_a_gradient(name, scenes):
    near, y = PERCEPTUAL.create(name), (scenes * 0.9).requires_grad_()
    near.distance(scenes, y).sum().backward()
    assert torch.isfinite(y.grad).all() and (y.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(p.grad is None for p in near.model.parameters())


def test_the_detectors_distance_by_hand():
    torch.manual_seed(0)
    model = build_network("tiny")
    x, y = torch.rand(2, 2, 3, 32, 32)
    kept = []

    def keep(module, inputs, output):
        kept.append(output[0] if isinstance(output, tuple) else output)

    for block in (*model.down_blocks, model.mid_block, *model.up_blocks):
        block.register_forward_hook(keep)
    with torch.no_grad():
        for images in (x, y):
            model(F.pixel_unshuffle(images * 2 - 1, 4), 0)
    n = len(kept) // 2
    assert n == 7
    wanted = sum(((a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)) ** 2).sum(1)
                 .mean((1, 2)) for a, b in zip(kept[:n], kept[n:], strict=True)) / n  # fmt: skip
    assert torch.allclose(DetectorDistance(model, "d", "")(x, y), wanted, atol=1e-5)


def test_pictures_of_different_sizes_are_refused():
    model = CLIPModel(clip_config("tiny")).vision_model
    with pytest.raises(ValueError, match="two of"):
        ClipDistance(model, "c", "")(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 48))


def test_they_are_listed_with_lpips():
    assert set(build.filled("perceptual")) == {"lpips-alex", "lpips-vgg", *NAMES}
