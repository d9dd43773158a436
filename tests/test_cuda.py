"""What ships, on a GPU: the same judgements as on the processor. Skipped where there is none."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import Mask2FormerForUniversalSegmentation

from impasto.cli import build
from impasto.sample.protocol import Request, Sampling, generate
from impasto.score.detector import Mask2FormerDetector, detector_config
from impasto.score.lean import lean
from impasto.score.lean_layers import has_kernels
from impasto.score.mmdetection import inputs, masks_at
from impasto.score.official import exact_float32, fast_bfloat16, split_float32
from impasto.spec import CLASSES
from impasto.world import Renderer, Sprites, compose, pack, sample_spec
from impasto.world.tasks import GENEVAL_TASKS
from tests import tiny_mmdit

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def drawn():
    rng, sprites = np.random.default_rng(11), Sprites.load()
    specs = [sample_spec(rng, sprites.classes, None, {task: 1.0})
             for task in GENEVAL_TASKS for _ in range(4)]  # fmt: skip
    packed = pack([compose(spec, rng, sprites) for spec in specs])
    return specs, packed, Renderer(sprites, "cpu")(packed).images


def test_scenes_are_drawn_alike(drawn):
    _, packed, images = drawn
    there = Renderer(Sprites.load(), DEVICE)(packed).images
    torch.testing.assert_close(there.cpu(), images, atol=2 / 255, rtol=0)


def test_verdicts_are_the_processors(drawn):
    specs, _, images = drawn
    here, there = (build.scorer("sticker", device) for device in ("cpu", DEVICE))
    there.self_test()
    a, b = (scorer.inspect(images, specs) for scorer in (here, there))
    assert [one.score.correct for one in a] == [one.score.correct for one in b]
    for one, other in zip(a, b, strict=True):
        for seen, same in zip(one.objects, other.objects, strict=True):
            assert seen.found.cls == same.found.cls
            assert same.found.score == pytest.approx(seen.found.score, abs=0.01)
            assert (same.shares is None) == (seen.shares is None)
            assert same.shares is None or same.shares == pytest.approx(seen.shares, abs=0.02)


def test_second_scores_are_the_processors(drawn):
    specs, _, images = drawn
    a, b = (build.scorer("sticker-clip", device).score(images, specs)
            for device in ("cpu", DEVICE))  # fmt: skip
    assert [one.value for one in b] == pytest.approx([one.value for one in a], abs=0.2)


def test_a_generator_draws_what_its_seed_says():
    pipe = tiny_mmdit.tiny().to(DEVICE)
    draw = lambda: generate(pipe, [Request.of("a red dog"), Request.of("a cat")], [1, 2],  # noqa: E731
                            Sampling(steps=2))[0]
    assert torch.equal(draw(), draw())


# The full-size scorer's network, of a small config


@pytest.fixture(scope="module")
def networks():
    """transformers' network and the lean one, of the same weights."""
    torch.manual_seed(0)
    plain = Mask2FormerForUniversalSegmentation(detector_config("sticker", decoder=7)).eval()
    transformer = plain.model.transformer_module
    torch.nn.init.normal_(transformer.queries_features.weight)
    for weight in transformer.decoder.mask_predictor.mask_embedder.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=2.4 / weight.shape[1] ** 0.5)
    torch.nn.init.normal_(plain.class_predictor.weight, std=1.0)
    return plain.to(DEVICE), lean(deepcopy(plain).to(DEVICE))


@pytest.mark.parametrize("precision", [exact_float32, split_float32])
@torch.inference_mode()
def test_the_lean_network_is_transformers(networks, precision):
    pixels = torch.randn(4, 3, 192, 160, device=DEVICE)
    with exact_float32():
        expected = networks[0](pixel_values=pixels)
    with precision():
        got = networks[1](pixel_values=pixels)
    assert has_kernels(DEVICE)
    for name, room in (("class_queries_logits", 1e-3), ("masks_queries_logits", 1e-2)):
        torch.testing.assert_close(got[name], expected[name], atol=room, rtol=1e-3)


@torch.inference_mode()
def test_the_lean_network_in_halves_is_near(networks):
    pixels = torch.randn(4, 3, 192, 160, device=DEVICE)
    with fast_bfloat16(DEVICE)():
        a, b = (model(pixel_values=pixels).class_queries_logits.float() for model in networks)
    with exact_float32():
        exact = networks[0](pixel_values=pixels).class_queries_logits
    assert float((b - exact).abs().mean()) < 1.5 * float((a - exact).abs().mean()) + 1e-3


@torch.inference_mode()
def test_split_products_are_as_exact_as_float32():
    from impasto.score import products

    x, w, b = (torch.randn(*shape, device=DEVICE) for shape in ((2048, 384), (200, 384), (200,)))
    exact = F.gelu(F.linear(x.double(), w.double(), b.double()))
    with exact_float32():
        torches = (F.gelu(F.linear(x, w, b)) - exact).abs().mean()
    assert (products.linear(x, w, b, "gelu") - exact).abs().mean() < 2 * torches
    picture = torch.randn(2, 64, 9, 13, device=DEVICE)
    kernel = torch.randn(40, 64, 3, 3, device=DEVICE)
    exact = F.conv2d(picture.double(), kernel.double(), padding=1)
    assert (products.convolution(picture, kernel) - exact).abs().max() < 1e-4
    x, w = x.bfloat16(), w.bfloat16()
    half = products.linear(x, w, b, "relu", residual=torch.ones(2048, 200, device=DEVICE))
    rounded = F.relu(F.linear(x.double(), w.double(), b.double())) + 1
    assert half.dtype == torch.float32
    assert (half - rounded).abs().max() < 1e-3


@torch.inference_mode()
def test_pictures_together_are_found_as_on_the_processor(networks):
    images = F.interpolate(torch.rand(5, 3, 6, 6), (64, 80)).mul(255).round().div(255)
    there = Mask2FormerDetector(networks[1], inputs, masks_at, classes=CLASSES, batch=2)
    here = Mask2FormerDetector(deepcopy(networks[0]).cpu(), inputs, masks_at, classes=CLASSES)
    with exact_float32():
        for a, b in zip(here.detect(images), there.detect(images), strict=True):
            sure = [sorted((o.cls, o.box) for o in found if o.score > 0.06) for found in (a, b)]
            assert len(set(sure[0]) ^ set(sure[1])) <= 0.2 * len(sure[0])
            assert all(one.mask.device.type == "cpu" for one in b)
