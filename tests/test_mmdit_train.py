"""Losses of the mmdit family against their formulas, and that they teach something."""

import torch

from impasto.models.latents import latent_moments
from impasto.models.mmdit.sampler import interpolate, velocity
from impasto.models.mmdit.text import encode, null_ids, token_ids
from impasto.models.mmdit.train import (
    drop_text,
    flow_matching_loss,
    sample_times,
    training_loss,
)
from tests import tiny_mmdit


def test_times_are_logit_normal():
    t = sample_times(20_000, mean=0.5, std=2.0, generator=torch.Generator().manual_seed(0))
    z = torch.logit(t.double())
    assert t.min() > 0 and t.max() < 1
    assert abs(z.mean() - 0.5) < 0.05 and abs(z.std() - 2.0) < 0.05


def test_text_is_dropped_in_its_share():
    tokenizer = tiny_mmdit.tokenizer()
    ids = token_ids(tokenizer, ["a red dog"]).repeat(5000, 1)
    null = null_ids(tokenizer)
    dropped = drop_text(ids, null, 0.1, torch.Generator().manual_seed(0))
    is_null = (dropped == null).all(1)
    assert 0.08 < is_null.float().mean() < 0.12
    assert torch.equal(dropped[~is_null], ids[~is_null])


def test_loss_is_the_formula():
    pipe = tiny_mmdit.tiny()
    x_0, eps, t = torch.randn(3, 4, 4, 4), torch.randn(3, 4, 4, 4), torch.tensor([0.1, 0.5, 0.9])
    text = encode(pipe.text_encoder, token_ids(pipe.tokenizer, ["a dog", "a cat", "a bus"]))
    loss = flow_matching_loss(pipe.transformer, x_0, text, t, eps)
    by_hand = 0.0
    for i in range(3):
        x_t = (1 - t[i]) * x_0[i] + t[i] * eps[i]
        v = velocity(pipe.transformer, x_t[None], t[i : i + 1], text.rows([i]))[0]
        by_hand += ((v - (eps[i] - x_0[i])) ** 2).mean() / 3
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(interpolate(x_0, eps, 1.0), eps)


def test_training_reaches_both_networks_and_lowers_the_loss():
    pipe = tiny_mmdit.tiny()
    ids, null = token_ids(pipe.tokenizer, ["a dog", "a cat"] * 8), null_ids(pipe.tokenizer)
    x_0 = torch.tensor([-1.0, 1.0] * 8)[:, None, None, None].expand(16, 4, 4, 4)
    parameters = [*pipe.transformer.parameters(), *pipe.text_encoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(40):
        loss = training_loss(pipe.transformer, pipe.text_encoder, x_0, ids, null,
                             generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert pipe.text_encoder.embeddings.token_embedding.weight.grad.abs().sum() > 0
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_moments_make_latents_standard():
    z = torch.randn(50, 4, 4, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None] + 5
    mean, std = latent_moments(z)
    unit = (z - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(unit.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(unit.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
