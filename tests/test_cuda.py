"""What ships, on a GPU: the same judgements as on the processor. Skipped where there is none."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import Mask2FormerForUniversalSegmentation

from impasto.cli import build
from impasto.models.infinity import InfinityGenerator
from impasto.sample.protocol import Request, Sampling, generate
from impasto.score.detector import Mask2FormerDetector, detector_config
from impasto.score.lean import lean
from impasto.score.mmdetection import inputs, masks_at
from impasto.score.official import exact_float32, fast_bfloat16, split_float32
from impasto.score.switches import has_kernels
from impasto.spec import CLASSES
from impasto.world import Renderer, Sprites, compose, pack, sample_spec
from impasto.world.tasks import GENEVAL_TASKS
from tests import tiny_infinity, tiny_layton_gen, tiny_mmdit, tiny_tokenflow_lm, tiny_var

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
    return plain.to(DEVICE), lean(copy.deepcopy(plain).to(DEVICE))


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
    here = Mask2FormerDetector(copy.deepcopy(networks[0]).cpu(), inputs, masks_at, classes=CLASSES)
    with exact_float32():
        for a, b in zip(here.detect(images), there.detect(images), strict=True):
            sure = [sorted((o.cls, o.box) for o in found if o.score > 0.06) for found in (a, b)]
            assert len(set(sure[0]) ^ set(sure[1])) <= 0.2 * len(sure[0])
            assert all(one.mask.device.type == "cpu" for one in b)


# ------------------------------------------------------------------------------ Infinity


def infinity(**defaults):
    """Tiny with four scales, in float32: on a GPU all rows of a batch go together."""
    return tiny_infinity.generator(**defaults).to(DEVICE)


def through(pipe, prompts, seeds, **settings):
    state = pipe.start([Request.of(prompt) for prompt in prompts], seeds, Sampling(**settings))
    while not state.done:
        state = pipe.advance(state)
    return state


def drawn_bits(pipe, prompts, seeds, **settings):
    return through(pipe, prompts, seeds, **settings).f_hat.cpu()


def apart(a, b):
    """Share of places that differ by more than rounding."""
    return ((a - b).abs() > 1e-3).float().mean()


PROMPTS = ["a red dog", "four purple cats", "a red dog"]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_infinity_draws_the_same_bits_alone_and_in_threes(guidance):
    """Texts of different lengths too. Kernels differ by rounding; no number lies that near."""
    pipe = infinity()
    three = drawn_bits(pipe, PROMPTS, [1, 2, 3], guidance=guidance)
    for i, prompt in enumerate(PROMPTS):
        alone = drawn_bits(pipe, [prompt], [i + 1], guidance=guidance)
        assert apart(alone[0], three[i]) < 0.02
    here = tiny_infinity.generator()
    assert apart(drawn_bits(here, PROMPTS, [1, 2, 3], guidance=guidance), three) < 0.02
    assert torch.equal(drawn_bits(pipe, PROMPTS, [1, 2, 3], guidance=guidance), three)


def test_infinity_pictures_on_a_gpu():
    image, cost = generate(infinity(), [Request.of(p) for p in PROMPTS], [1, 2, 3])
    assert image.shape == (3, 3, 48, 48) and image.device.type == DEVICE and cost.images == 3
    assert torch.equal((255 * image).round() / 255, image)
    assert not torch.equal(image[0], image[2])  # one prompt, two seeds


def test_infinity_selects_on_a_gpu():
    """Both go on: the selection with rows twice, and what it was taken from."""
    pipe = infinity()
    state = pipe.start([Request.of(p) for p in PROMPTS], [1, 2, 3], Sampling())
    for _ in range(2):
        state = pipe.advance(state)
    kept = pipe.select(state, [2, 0, 2])
    whole = drawn_bits(pipe, PROMPTS, [1, 2, 3])
    while not kept.done:
        kept, state = pipe.advance(kept), pipe.advance(state)
    assert torch.equal(kept.f_hat[0], kept.f_hat[2])
    assert apart(kept.f_hat.cpu(), whole[[2, 0, 2]]) < 0.02
    assert apart(state.f_hat.cpu(), whole) < 0.02


def test_infinity_by_graphs_draws_the_same():
    """Plainly, recorded, replayed; other seeds and another text of the same length as well."""
    plain, graphs = infinity(), infinity().use_graphs()
    for seeds in ([1, 2], [1, 2], [1, 2], [8, 9]):
        got = drawn_bits(graphs, ["a red dog"] * 2, seeds)
        want = drawn_bits(plain, ["a red dog"] * 2, seeds)
        assert apart(got, want) < 0.02
    other = [drawn_bits(p, ["a dog red"] * 2, [1, 2]) for p in (plain, graphs)]
    assert apart(other[0], other[1]) < 0.02
    # Two drawings in turns: the second finds its buffers taken and is not run by the first's.
    states = [graphs.start([Request.of("a red dog")] * 2, seeds, Sampling())
              for seeds in ([1, 2], [8, 9])]  # fmt: skip
    while not states[0].done:
        states = [graphs.advance(state) for state in states]
    for state, seeds in zip(states, ([1, 2], [8, 9]), strict=True):
        want = drawn_bits(plain, ["a red dog"] * 2, seeds)
        assert apart(state.f_hat.cpu(), want) < 0.02


def test_infinity_compiled_in_half_precision():
    """The same pictures but for a few bits; the same bits again by the same kernels."""
    pipe = infinity()
    for network in pipe.networks.values():
        network.bfloat16()
    half = InfinityGenerator(**copy.deepcopy(pipe.components), defaults=pipe.defaults)
    pipe.compile().use_graphs()
    runs = [drawn_bits(pipe, PROMPTS, [1, 2, 3]) for _ in range(3)]
    assert torch.equal(runs[1], runs[2])
    # Two scales: one flipped bit pulls later ones after it.
    first = [p.advance(p.advance(p.start([Request.of(PROMPTS[0])] * 8, range(8), Sampling())))
             for p in (half, pipe)]  # fmt: skip
    assert apart(*(state.f_hat for state in first)) < 0.1
    pictures = pipe.finish(through(pipe, PROMPTS, [1, 2, 3]))
    assert pictures.shape == (3, 3, 48, 48) and torch.isfinite(pictures).all()


# ------------------------------------------------------------------------------ VAR


LABELS = ["dog", "cat", "dog"]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_var_draws_the_same_tokens_alone_in_threes_and_by_graphs(guidance):
    """Kernels differ by rounding; no number lies that near. Drawn three times by graphs: plainly,
    recorded, replayed."""
    pipe = tiny_var.generator(top_k=20, top_p=0.9).to(DEVICE)
    three = drawn_bits(pipe, LABELS, [1, 2, 3], guidance=guidance)
    for i, name in enumerate(LABELS):
        alone = drawn_bits(pipe, [name], [i + 1], guidance=guidance)
        assert apart(alone[0], three[i]) < 0.02
    here = tiny_var.generator(top_k=20, top_p=0.9)
    assert apart(drawn_bits(here, LABELS, [1, 2, 3], guidance=guidance), three) < 0.02
    graphs = tiny_var.generator(top_k=20, top_p=0.9).to(DEVICE).use_graphs()
    for _ in range(3):
        again = drawn_bits(graphs, LABELS, [1, 2, 3], guidance=guidance)
        assert apart(again, three) < 0.02
    other = drawn_bits(graphs, ["cat"] * 3, [4, 5, 6], guidance=guidance)
    assert apart(other, drawn_bits(pipe, ["cat"] * 3, [4, 5, 6], guidance=guidance)) < 0.02


def test_var_compiled_in_half_precision_draws_pictures():
    pipe = tiny_var.generator().to(DEVICE)
    for network in pipe.networks.values():
        network.bfloat16()
    pipe.compile()
    image, _ = generate(pipe, [Request.of(name) for name in LABELS], [1, 2, 3])
    again, _ = generate(pipe, [Request.of(name) for name in LABELS], [1, 2, 3])
    assert torch.isfinite(image).all() and torch.equal(image, again)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_tokenflow_draws_the_same_tokens_alone_in_threes_and_by_graphs(guidance):
    """Texts of different lengths, three passes a scale: what a graph of a later pass reads is the
    cache of the scales before."""
    texts, others = list(tiny_tokenflow_lm.CAPTIONS[:3]), [tiny_tokenflow_lm.CAPTIONS[3]] * 3
    pipe = tiny_tokenflow_lm.generator().to(DEVICE)
    three = drawn_bits(pipe, texts, [1, 2, 3], guidance=guidance)
    for i, text in enumerate(texts):
        alone = drawn_bits(pipe, [text], [i + 1], guidance=guidance)
        assert apart(alone[0], three[i]) < 0.02
    here = tiny_tokenflow_lm.generator()
    assert apart(drawn_bits(here, texts, [1, 2, 3], guidance=guidance), three) < 0.02
    graphs = tiny_tokenflow_lm.generator().to(DEVICE).use_graphs()
    for _ in range(3):
        again = drawn_bits(graphs, texts, [1, 2, 3], guidance=guidance)
        assert apart(again, three) < 0.02
    other = drawn_bits(graphs, others, [4, 5, 6], guidance=guidance)
    assert apart(other, drawn_bits(pipe, others, [4, 5, 6], guidance=guidance)) < 0.02


def test_tokenflow_compiled_in_half_precision_draws_pictures():
    pipe = tiny_tokenflow_lm.generator().cast_to(torch.bfloat16, DEVICE).compile()
    requests = [Request.of(text) for text in tiny_tokenflow_lm.CAPTIONS[:3]]
    image, _ = generate(pipe, requests, [1, 2, 3])
    again, _ = generate(pipe, requests, [1, 2, 3])
    assert torch.isfinite(image).all() and torch.equal(image, again)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_layton_draws_the_same_ids_alone_in_threes_and_by_graphs(guidance):
    """One graph for all ids of all drawings of so many rows; other rows get one of their own."""
    texts, others = list(tiny_layton_gen.CAPTIONS[:3]), [tiny_layton_gen.CAPTIONS[3]] * 3
    settings = Sampling(guidance=guidance)

    def ids(pipe, prompts, seeds):
        state = pipe.start([Request.of(text) for text in prompts], seeds, settings)
        while not state.done:
            state = pipe.advance(state)
        return state.ids.cpu()

    pipe = tiny_layton_gen.generator().to(DEVICE)
    three = ids(pipe, texts, [1, 2, 3])
    assert apart(ids(tiny_layton_gen.generator(), texts, [1, 2, 3]), three) < 0.02
    for i, text in enumerate(texts):
        assert apart(ids(pipe, [text], [i + 1])[0], three[i]) < 0.02
    graphs = tiny_layton_gen.generator().to(DEVICE).use_graphs()
    for _ in range(3):
        assert apart(ids(graphs, texts, [1, 2, 3]), three) < 0.02
    assert apart(ids(graphs, others, [4, 5, 6]), ids(pipe, others, [4, 5, 6])) < 0.02
    assert apart(ids(graphs, texts[:1], [1])[0], three[0]) < 0.02


def test_layton_compiled_in_half_precision_by_graphs_draws_pictures():
    pipe = tiny_layton_gen.generator().cast_to(torch.bfloat16, DEVICE).compile().use_graphs()
    requests = [Request.of(text) for text in tiny_layton_gen.CAPTIONS[:3]]
    image, _ = generate(pipe, requests, [1, 2, 3])
    again, _ = generate(pipe, requests, [1, 2, 3])
    assert torch.isfinite(image).all() and torch.equal(image, again)


def test_infinity_by_graphs_in_half_precision():
    """What a graph reads of casts must be its own: level embeddings in float32 of bfloat16."""
    plain, graphs = infinity(), infinity()
    for pipe in (plain, graphs):
        for network in pipe.networks.values():
            network.bfloat16()
    graphs.use_graphs()
    for _ in range(3):
        got, want = (drawn_bits(p, ["a red dog"] * 2, [1, 2]) for p in (graphs, plain))
        # What was freed is overwritten: a level embedding is so small that a large tensor would
        # never come to lie there.
        _ = [torch.full((128,), torch.nan, device=DEVICE) for _ in range(2**13)]
        assert apart(got, want) < 0.05
