"""The sampling equations, seeds and FLOPs."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from impasto.models.mmdit import sampler
from impasto.models.mmdit.sampler import euler, guided_velocity, predict_x_0, shifted_times
from impasto.models.mmdit.text import Encoding
from impasto.sample.flops import count_flops, flops_by_operation
from impasto.sample.protocol import Request, Sampling, generate, row_seed
from impasto.sample.seeds import row_noise
from tests import tiny_mmdit


def test_euler_follows_a_straight_path_exactly():
    x_0, eps = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    times = shifted_times(7, 3.0)
    x = eps
    for t, t_next in pairwise(times):
        torch.testing.assert_close(predict_x_0(x, eps - x_0, t), x_0)
        x = euler(x, eps - x_0, t, t_next)
    torch.testing.assert_close(x, x_0)


def test_times():
    assert shifted_times(4, 1.0) == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert shifted_times(2, 3.0) == (1.0, 3 * 0.5 / (1 + 2 * 0.5), 0.0)
    assert shifted_times(1, 5.0) == (1.0, 0.0)


@pytest.mark.parametrize("guidance, rows", [(0.0, 2), (1.0, 2), (4.0, 4), (0.5, 4)])
def test_guidance_by_its_formula_and_its_batch(monkeypatch, guidance, rows):
    """v_c = 3, v_u = 1; a branch that has no say is not computed."""
    calls = []

    def velocity(transformer, x, t, text):
        calls.append(len(x))
        assert len(x) == len(t) == len(text.states) == len(text.pooled)
        return text.pooled[:, :, None, None].expand(-1, 4, 2, 2)

    monkeypatch.setattr(sampler, "velocity", velocity)
    text = Encoding(torch.zeros(2, 5, 1), torch.full((2, 1), 3.0))
    null = Encoding(torch.zeros(1, 5, 1), torch.full((1, 1), 1.0))
    v = guided_velocity(None, torch.zeros(2, 4, 2, 2), 0.5, text=text, null=null,
                        guidance=guidance)
    assert calls == [rows]
    torch.testing.assert_close(v, torch.full_like(v, 1 + guidance * 2))


def test_noise_belongs_to_its_seed():
    noise = row_noise([3, 4, 3], (2, 5, 5))
    assert torch.equal(noise[0], noise[2]) and not torch.equal(noise[0], noise[1])
    assert torch.equal(row_noise([4], (2, 5, 5))[0], noise[1])
    before = torch.get_rng_state()
    row_noise([1], (3,))
    assert torch.equal(before, torch.get_rng_state())


def test_row_seed_is_fixed_for_ever():
    assert row_seed(0, "a photo of a red apple", 0) == 6270346905214352912
    keys = [(s, p, k, c) for s in (0, 1) for p in ("a", "b") for k in (0, 1) for c in (0, 1)]
    assert len({row_seed(*key) for key in keys}) == len(keys)


# ------------------------------------------------------------------------------ FLOPs


class Attention(nn.Module):
    def forward(self, q):
        return nn.functional.scaled_dot_product_attention(q, q, q)


def test_flops_by_hand():
    assert count_flops(nn.Linear(7, 11), torch.zeros(5, 7)) == 2 * 5 * 7 * 11
    conv = nn.Conv2d(3, 8, 3, padding=1)
    assert count_flops(conv, torch.zeros(2, 3, 6, 6)) == 2 * (2 * 8 * 6 * 6) * (3 * 3 * 3)
    # q k^T and the product with v: 2 heads, 10 tokens, 16 wide, both 2 L L d.
    assert count_flops(Attention(), torch.zeros(1, 2, 10, 16)) == 2 * (2 * 2 * 10 * 10 * 16)


def test_flops_by_operation():
    both = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Linear(6, 5))
    x = torch.zeros(2, 3, 6, 6)
    want = {"aten.convolution": 2 * (2 * 8 * 6 * 6) * 27, "aten.addmm": 2 * (2 * 8 * 6) * 6 * 5}
    assert flops_by_operation(both, x) == want and count_flops(both, x) == sum(want.values())
    assert flops_by_operation(nn.ReLU(), x) == {}


def test_counting_leaves_the_module_alone():
    layer = nn.Linear(7, 11)
    weight = layer.weight
    count_flops(layer, torch.zeros(5, 7))
    assert layer.weight is weight and weight.device.type == "cpu"


def test_cost_of_a_row_does_not_depend_on_its_batch():
    pipe = tiny_mmdit.tiny()
    request = Request.of("a red dog")
    one = generate(pipe, [request], [0], Sampling(steps=3))[1]
    four = generate(pipe, [request, Request.of("a cat")] * 2, [0, 1, 2, 3], Sampling(steps=3))[1]
    assert (four.flops, four.images, four.row_steps) == (4 * one.flops, 4, 12)
    decoder = generate(pipe, [request], [0], Sampling(steps=1, guidance=1.0))[1].flops
    network = (one.flops - decoder) / 5  # 3 guided steps are 6 network rows
    assert decoder > network > 0
    unguided = generate(pipe, [request], [0], Sampling(steps=3, guidance=0.0))[1].flops
    assert unguided == decoder + 2 * network
