"""A row's bytes do not depend on its batch: at the default model's own size, on this CPU."""

import contextlib

import pytest
import torch
import torch.nn.functional as F

from impasto.sample.protocol import Request, Sampling, generate
from impasto.sample.rowwise import in_rows, rowwise_linear, rowwise_products
from tests import tiny_mmdit

PROMPTS = ["a photo of a red apple", "four cats", "a bench above a kite", "four cats"] * 2
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipe():
    return tiny_mmdit.sticker()


@contextlib.contextmanager
def threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


def draw(pipe, rows, **settings):
    requests = [Request.of(PROMPTS[i]) for i in rows]
    return generate(pipe, requests, [100 + i for i in rows], Sampling(**settings))[0]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_images_are_byte_identical_in_any_batch(pipe, n):
    with threads(n):
        eight = draw(pipe, range(8), steps=2, guidance=4.0)
        assert eight.std() > 0.01 and not torch.equal(eight[1], eight[3])
        for rows in ([0], [5], [7, 2, 4], [1, 6]):
            assert torch.equal(draw(pipe, rows, steps=2, guidance=4.0), eight[list(rows)])


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_so_are_they_with_one_branch_and_another_size(pipe, guidance):
    settings = {"steps": 1, "guidance": guidance, "height": 64, "width": 112}
    three = draw(pipe, [0, 1, 2], **settings)
    assert torch.equal(draw(pipe, [1], **settings)[0], three[1])


def test_latents_are_identical_too(pipe):
    """Stricter than the pictures: nothing is rounded away."""
    requests = [Request.of(prompt) for prompt in PROMPTS]
    whole = pipe.start(requests, list(range(8)), Sampling(steps=3))
    alone = pipe.start(requests[5:6], [5], Sampling(steps=3))
    for _ in range(3):
        whole, alone = pipe.advance(whole), pipe.advance(alone)
        assert torch.equal(alone.x, whole.x[5:6]) and torch.equal(alone.x_0, whole.x_0[5:6])


@pytest.mark.parametrize("shape", [(6, 256), (6, 40, 256), (6, 3, 5, 256)])
def test_rowwise_linear_is_linear(shape):
    x, weight, bias = torch.randn(shape), torch.randn(64, 256), torch.randn(64)
    # In double: products are summed in another order, and single precision can show it.
    exact = x.double(), weight.double()
    for b in (bias.double(), None):
        torch.testing.assert_close(rowwise_linear(*exact, b), F.linear(*exact, b))
    for i in range(6):
        assert torch.equal(rowwise_linear(x[i : i + 1], weight, bias)[0],
                           rowwise_linear(x, weight, bias)[i])


@pytest.mark.parametrize("n", [2, 3, 8])
def test_a_row_is_the_same_with_fewer_rows_than_threads(n):
    x, weight = torch.randn(8, 64, 1024), torch.randn(256, 1024)
    with threads(n):
        eight = rowwise_linear(x, weight)
        for b in range(1, 8):
            assert torch.equal(rowwise_linear(x[:b], weight), eight[:b])


@torch.no_grad()
def test_rowwise_products_reach_modules_and_end_with_the_block():
    layer = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 2, stride=2), torch.nn.GELU())
    x = torch.randn(5, 4, 8, 8)
    with rowwise_products(CPU):
        rows = layer(x)
    torch.testing.assert_close(rows, layer(x))
    weight = torch.randn(3, 3)
    with rowwise_products(CPU), pytest.raises(RuntimeError):
        F.linear(torch.randn(5, 2), weight)
    assert F.linear(torch.ones(1, 3), torch.ones(2, 3)).tolist() == [[3.0, 3.0]]


def test_in_rows_covers_every_row_once():
    for n, size in ((5, 2), (5, 1), (4, None), (3, 8)):
        assert in_rows(lambda at: torch.arange(100)[at], n, size).tolist() == list(range(n))
