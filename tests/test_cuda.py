"""What ships, on a GPU: the same judgements as on the processor. Skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from impasto.cli import build
from impasto.sample.protocol import Request, Sampling, generate
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
