"""Losses of the dit family against their formulas, and that they teach something."""

import math

import pytest
import torch

from impasto.models.dit import PRESETS, DiTGenerator
from impasto.models.dit.sampler import alpha_bars, noised, output, posterior, predict_x_0
from impasto.models.dit.train import diffusion_loss, training_loss
from impasto.train.dit import cache_classes, train_dit
from tests import tiny_dit
from tests.drawing import start, through
from tests.test_var_train import cache

BARS = alpha_bars()
LABELS = torch.tensor([3, 16, 80])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch():
    return tuple(torch.randn(3, 4, 4, 4, generator=seeded(i)) for i in range(2))


@pytest.mark.parametrize("t", [1, 30, 999])
def test_the_loss_is_its_formula(t):
    """The two Gaussians by torch's own KL divergence, a row at a time."""
    model, (x_0, eps) = tiny_dit.generator().transformer, batch()
    losses = diffusion_loss(model, x_0, LABELS, t=torch.full((3,), t), eps=eps, bars=BARS)
    mse = vlb = 0.0
    for i in range(3):
        a_t, a_s = BARS[t + 1], BARS[t]
        x = a_t.sqrt().float() * x_0[i : i + 1] + (1 - a_t).sqrt().float() * eps[i : i + 1]
        out = output(model, x, torch.tensor([t]), LABELS[i : i + 1])
        mse += (out[:, :4] - eps[i]).square().mean() / 3
        true = posterior(x_0[i : i + 1], x, a_t, a_s)
        own = posterior(predict_x_0(x, out[:, :4], a_t), x, a_t, a_s)
        p = torch.distributions.Normal(true.mean, (true.log_least / 2).exp())
        q = torch.distributions.Normal(own.mean, (own.log_var(out[:, 4:]) / 2).exp())
        vlb += torch.distributions.kl_divergence(p, q).mean() / math.log(2) / 3
    torch.testing.assert_close(losses.mse, mse)
    torch.testing.assert_close(losses.vlb, vlb, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(losses.total, mse + vlb, rtol=1e-3, atol=1e-5)


def test_at_time_0_the_loss_is_the_chance_of_a_bin():
    model, (x_0, eps) = tiny_dit.generator().transformer, batch()
    t = torch.zeros(3, dtype=torch.long)
    x_0[0, 0, 0, :2] = torch.tensor([-1.5, 1.5])  # beyond the ends
    losses = diffusion_loss(model, x_0, LABELS, t=t, eps=eps, bars=BARS)
    x = noised(x_0, eps, BARS[1])
    out = output(model, x, t, LABELS)
    own = posterior(predict_x_0(x, out[:, :4], BARS[1]), x, BARS[1], BARS[0])
    q = torch.distributions.Normal(own.mean, (own.log_var(out[:, 4:]) / 2).exp())
    above = torch.where(x_0 < 0.999, q.cdf(x_0 + 1 / 255), 1.0)
    below = torch.where(x_0 > -0.999, q.cdf(x_0 - 1 / 255), 0.0)
    bits = -(above - below).clamp(min=1e-12).log2().mean()
    torch.testing.assert_close(losses.vlb, bits, rtol=1e-4, atol=1e-4)


def test_the_bound_teaches_the_variance_alone():
    model, (x_0, eps) = tiny_dit.generator().transformer, batch()
    losses = diffusion_loss(model, x_0, LABELS, t=torch.tensor([0, 5, 500]), eps=eps, bars=BARS)
    weight = model.proj_out_2.weight  # rows: eps of 4 channels, then v
    of_vlb, of_mse = (torch.autograd.grad(part, weight, retain_graph=True)[0]
                      for part in (losses.vlb, losses.mse))  # fmt: skip
    assert not of_vlb[:4].any() and of_vlb[4:].any()
    assert of_mse[:4].any() and not of_mse[4:].any()


@pytest.fixture(scope="module")
def learnt():
    """A generator after 150 steps, and their losses."""
    pipe, losses = DiTGenerator.from_config(PRESETS["tiny"]()), []
    x_0 = torch.tensor([-1.0, 1.0] * 8)[:, None, None, None].expand(16, 4, 4, 4)
    optimizer = torch.optim.Adam(pipe.transformer.parameters())
    for i in range(150):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - i / 150)
        loss = training_loss(pipe.transformer, x_0, torch.tensor([3, 16] * 8), 80, BARS,
                             generator=seeded(i))  # fmt: skip
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.mse.item())
    return pipe, losses


def test_classes_are_dropped_once_for_all_blocks():
    """diffusers' embedders would drop labels in training mode, each block its own."""
    model, (x_0, eps) = tiny_dit.generator().transformer, batch()
    at = {"t": torch.tensor([2, 300, 999]), "eps": eps, "bars": BARS}
    learning, still = (diffusion_loss(model.train(mode), x_0, LABELS, **at).total
                       for mode in (True, False))  # fmt: skip
    assert torch.equal(learning, still)
    labels = torch.full((512,), 7)
    seen = []
    model.transformer_blocks[2].norm1.emb.class_embedder.register_forward_pre_hook(
        lambda module, given: seen.append(given[0]))
    training_loss(model, x_0[:1].expand(512, -1, -1, -1), labels, 80, BARS, generator=seeded())
    assert set(seen[0].tolist()) == {7, 80} and 0.05 < (seen[0] == 80).float().mean() < 0.15


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_what_is_learnt_is_drawn(learnt, guidance):
    """Two classes, each one picture. Noise is 2 away from it, the other class's picture 4."""
    pipe, losses = learnt
    assert sum(losses[-10:]) < 0.1 * sum(losses[:10])
    x = through(pipe, start(pipe, ["3", "16"], steps=20, guidance=guidance)).x
    want = torch.tensor([-1.0, 1.0])[:, None, None, None].expand_as(x)
    assert (x - want).square().mean() < 0.3


def test_a_transformer_is_trained_on_pictures_of_one_class():
    pipe, saved = tiny_dit.generator(), []
    latents = cache_classes(pipe, cache())
    assert latents.latents.shape == (3, 4, 4, 4) and latents.labels.tolist() == [3, 16, 79]
    own = pipe.encode(cache().images[[0, 1, 3]].float() / 255)
    torch.testing.assert_close(latents.latents.float(), own, rtol=0.1, atol=0.1)
    moments, before = pipe.defaults, pipe.transformer.proj_out_2.weight.detach().clone()
    assert len(set(moments.latent_std)) > 1
    loop = train_dit(pipe, latents, steps=2, batch=4, on_save=lambda: saved.append(1),
                     save_every=2)  # fmt: skip
    assert loop.steps == 2 and saved == [1] and not pipe.transformer.training
    assert not torch.equal(pipe.transformer.proj_out_2.weight, before)
    cache_classes(pipe, cache(((5, -1),)), keep_moments=True)
    assert pipe.defaults == moments
    plain = {id(p) for p in loop.optimizer.param_groups[1]["params"]}
    block = pipe.transformer.transformer_blocks[0]
    assert id(block.norm1.emb.class_embedder.embedding_table.weight) in plain
    assert id(block.attn1.to_q.weight) not in plain
