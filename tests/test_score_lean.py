"""The lean Mask2Former is transformers' own up to rounding; pictures may be judged together."""

import os
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F
from transformers import Mask2FormerForUniversalSegmentation, SwinConfig
from transformers.models.mask2former import modeling_mask2former as published
from transformers.models.swin.modeling_swin import SwinLayer

from impasto.score import lean as lean_module
from impasto.score.base import Found, Wanted
from impasto.score.crop import color_crop, color_crops
from impasto.score.detector import Mask2FormerDetector, detector_config
from impasto.score.lean import lean
from impasto.score.mmdetection import inputs, masks_at
from impasto.score.switches import has_kernels, split_products, splitting
from impasto.spec import CLASSES


@pytest.fixture(scope="module")
def plain():
    """Four layers of the decoder, so that a level comes twice, and queries that differ."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = Mask2FormerForUniversalSegmentation(detector_config("tiny", decoder=5, queries=12))
        transformer = model.model.transformer_module
        torch.nn.init.normal_(transformer.queries_features.weight)
        torch.nn.init.normal_(transformer.queries_embedder.weight)
        for weight in transformer.decoder.mask_predictor.mask_embedder.parameters():
            if weight.ndim == 2:
                torch.nn.init.normal_(weight, std=2.4 / weight.shape[1] ** 0.5)
        torch.nn.init.normal_(model.class_predictor.weight, std=1.0)
    return model.eval()


@pytest.fixture(scope="module")
def slim(plain):
    return lean(deepcopy(plain))


@torch.inference_mode()
def test_classes_and_masks_are_transformers(plain, slim):
    pixels = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    a, b = plain(pixel_values=pixels), slim(pixel_values=pixels)
    torch.testing.assert_close(b.class_queries_logits, a.class_queries_logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(b.masks_queries_logits, a.masks_queries_logits, atol=1e-3, rtol=0)
    assert float(a.masks_queries_logits.std()) > 1  # masks that could go wrong
    assert {type(m) for m in slim.modules()} == {type(m) for m in plain.modules()}
    assert list(slim.state_dict()) == list(plain.state_dict())


@torch.inference_mode()
def test_masks_between_layers_are_made_at_the_attended_size_only(slim, monkeypatch):
    seen = []
    real = lean_module._masks
    monkeypatch.setattr(lean_module, "_masks",
                        lambda e, f: seen.append(tuple(f.shape[-2:])) or real(e, f))  # fmt: skip
    slim(pixel_values=torch.zeros(1, 3, 96, 128))
    assert seen == [(3, 4), (6, 8), (12, 16), (3, 4), (24, 32)]


def test_a_query_with_an_empty_mask_looks_everywhere():
    logits = torch.tensor([[[[-1.0, 2.0]], [[-1.0, -2.0]]]])
    assert lean_module._elsewhere(logits).tolist() == [[[[True, False], [False, False]]]]


def test_a_model_that_would_give_no_classes_is_refused():
    config = detector_config("tiny")
    config.use_auxiliary_loss = False
    with pytest.raises(ValueError, match="use_auxiliary_loss=False"):
        lean(Mask2FormerForUniversalSegmentation(config))


def test_splitting_needs_a_gpu_and_is_undone(slim):
    assert not has_kernels("cpu")
    pixels = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode():
        with split_products():
            inside = slim(pixel_values=pixels).class_queries_logits
        assert torch.equal(inside, slim(pixel_values=pixels).class_queries_logits)
    assert not splitting()


# Pictures together, as on a GPU


@torch.inference_mode()
def test_pictures_together_are_as_one_by_one(plain, monkeypatch):
    detector = Mask2FormerDetector(plain, inputs, masks_at, classes=CLASSES)
    generator = torch.Generator().manual_seed(1)
    images = F.interpolate(torch.rand(3, 3, 5, 5, generator=generator), (37, 53))
    rows = detector.predict(images)
    every = [detector._found(c, m, (37, 53)) for c, m in rows]
    names = frozenset(one.cls for one in every[1][:2])
    hints = [Wanted(above=0.06), Wanted(above=0.05, classes=names, masks=names),
             Wanted(above=0.05, masks=frozenset())]  # fmt: skip
    expected = [detector._found(c, m, (37, 53), one)
                for (c, m), one in zip(rows, hints, strict=True)]  # fmt: skip
    logits = torch.stack([c for c, _ in rows])
    masks = torch.stack([m for _, m in rows])
    monkeypatch.setattr("impasto.score.detector.PIXELS", 0)  # so, 16 masks at a time
    got = detector._together(logits, masks, (37, 53), hints)
    assert sum(map(len, expected)) > 6
    for found, other in zip(got, expected, strict=True):
        assert [(one.cls, one.box) for one in found] == [(one.cls, one.box) for one in other]
        assert [one.score for one in found] == pytest.approx([one.score for one in other])
        for one, same in zip(found, other, strict=True):
            assert (one.mask is None) == (same.mask is None)
            assert one.mask is None or torch.equal(one.mask, same.mask)


def test_crops_come_in_order_and_as_one_by_one():
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(4, 3, 40, 30, generator=generator)
    masks = torch.rand(4, 40, 30, generator=generator) > 0.4
    boxes = [(0, 0, 30, 40), (3, 5, 20, 12), (-2, 10, 31, 38), (7.4, 2.6, 9.4, 30.0)]
    crops = [(image, Found("dog", box, 0.9, mask))
             for image, box, mask in zip(images, boxes, masks, strict=True)]  # fmt: skip
    together = color_crops(crops, 32)
    for cut, (image, found) in zip(together, crops, strict=True):
        assert torch.equal(cut, color_crop(image, found, 32))
    assert len({cut.sum().item() for cut in together}) == 4
    images[2, 0, masks[2]] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        color_crops(crops, 32)


# The kernels, by Triton's interpreter


def test_the_kernels_are_interpreted():
    """In a process of its own: Triton decides at its import whether it interprets."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-k",
         "is_transformers or is_swins or is_torchs", __file__],
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith(".... "), done.stdout + done.stderr


@pytest.fixture
def kernels():
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("runs in the process of test_the_kernels_are_interpreted")
    from impasto.score import kernels

    return kernels


def test_deformable_attention_is_transformers(kernels):
    generator = torch.Generator().manual_seed(3)
    shapes, queries = [(2, 3), (4, 5)], 35  # more queries than a block, not a multiple of one
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    value, logits = draw(2, 26, 2, 16), draw(2, queries, 2, 2, 3)
    reference, offsets = draw(2, queries, 2, 2).sigmoid(), 2 * draw(2, queries, 2, 2, 3, 2)
    sizes = torch.tensor([[w, h] for h, w in shapes])
    expected = published.multi_scale_deformable_attention(
        value, shapes, reference[:, :, None, :, None] + offsets / sizes[:, None],
        logits.flatten(-2).softmax(-1).view_as(logits))  # fmt: skip
    got = kernels.deformable_attention(value, shapes, reference, offsets, logits)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shift", [0, 1])
@torch.inference_mode()
def test_window_attention_is_swins(kernels, shift, monkeypatch):
    """A map of 5 x 7 in windows of 3: padded, shifted and masked."""
    torch.manual_seed(6)
    config = SwinConfig(embed_dim=32, window_size=3, depths=[1], num_heads=[2])
    config._attn_implementation = "eager"
    layer = SwinLayer(config, 32, (5, 7), 2, shift_size=shift).eval()
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    tokens = torch.randn(2, 35, 32)
    expected, _ = layer(tokens, (5, 7), always_partition=True)
    monkeypatch.setattr(lean_module, "kernels_of", lambda _: kernels)
    got, _ = lean_module._swin_layer(layer, tokens, (5, 7), always_partition=True)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_layer_norm_is_torchs(kernels):
    x, norm = 3 * torch.randn(7, 5, 24) + 1, torch.nn.LayerNorm(24)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    got = kernels.layer_norm(x, norm.weight, norm.bias, norm.eps, torch.float32)
    torch.testing.assert_close(got, norm(x), atol=1e-5, rtol=0)
