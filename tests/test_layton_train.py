"""Layton's tokenizer: what learns from what, in its four steps."""

import pytest
import torch

from impasto.models.layton import DECODINGS, TOKENIZERS, Decoding, LaytonTokenizer
from impasto.models.layton.decoder import noise_of
from impasto.models.layton.sampler import own_noise, scheduler, timesteps
from impasto.models.layton.train import (
    Distillation,
    alignment_loss,
    boundary,
    few_steps,
    ldm_loss,
    learning,
    min_snr_weights,
    pixel_loss,
    sample_times,
    square,
)
from tests import tiny_layton
from tests.tiny_layton import codes, distance, latents


def with_gradients(model):
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def test_alignment_teaches_the_copy_alone():
    model = tiny_layton.tokenizer()
    assert not any(p.requires_grad for p in model.parameters())
    learnt = learning(model, "copy")
    z_0, eps, t = latents(), latents(seed=2), torch.tensor([10, 700])
    loss = alignment_loss(model, z_0, codes(), t, eps)
    loss.backward()
    names = {name for name, p in model.named_parameters() if p.grad is not None}
    copy = {name for name, _ in model.named_parameters() if name.startswith("decoder.controlnet.")}
    assert names <= copy
    assert len(learnt) == len(copy)
    found = with_gradients(model)
    assert {f"decoder.controlnet.controlnet_cond_embedding.conv_{x}.weight"
            for x in ("in", "out")} < found  # fmt: skip
    assert "decoder.controlnet.mid_block.resnets.0.conv1.weight" in found
    # Cross-attention is its last bias: nothing else of it has a say.
    assert not any(".attn2." in name and "to_out.0.bias" not in name for name in found)


def test_alignment_is_the_error_of_the_unaccelerated_noise():
    model = tiny_layton.tokenizer()
    z_0, eps, t = latents(), latents(seed=2), torch.tensor([10, 700])
    abar = scheduler().alphas_cumprod[t].view(-1, 1, 1, 1)
    z = abar.sqrt() * z_0 + (1 - abar).sqrt() * eps
    with torch.no_grad():
        with model.decoder.accelerated(False):
            wanted = (model.decoder(z, t, model.condition(codes()), 1.0) - eps).square().mean()
        assert torch.allclose(alignment_loss(model, z_0, codes(), t, eps), wanted)
        small = alignment_loss(model, latents(side=2), codes(), t, latents(side=2), image=16)
    assert small.isfinite()


def last_step_alone(model, C, noise, decoding, *, cut):
    """x_0 of two steps, written out; cut: whether the first is a constant."""
    given = model.condition(C, decoding)
    t, after, _ = timesteps(2)
    abar = scheduler().alphas_cumprod
    z = noise(0)
    with model.decoder.accelerated(True):
        x_0 = (z - (1 - abar[t]).sqrt() * model.decoder(z, t, given)) / abar[t].sqrt()
        z = abar[after].sqrt() * x_0 + (1 - abar[after]).sqrt() * noise(1)
        z = z.detach() if cut else z
        eps = model.decoder(z, after, given)
        return (z - (1 - abar[after]).sqrt() * eps) / abar[after].sqrt()


def test_pixels_teach_the_copy_through_the_last_step_alone():
    model = tiny_layton.tokenizer(latent_std=(0.01,) * 4)
    learnt = learning(model, "copy")
    x, noise, two = tiny_layton.pictures(), own_noise([3, 4], (4, 4, 4)), Decoding(steps=2)

    def gradients(x_0):
        loss = distance(x, model.pixels(x_0) / 2 + 0.5).mean()
        return torch.autograd.grad(loss, learnt, allow_unused=True)

    cut, whole = (gradients(last_step_alone(model, codes(), noise, two, cut=cut))
                  for cut in (True, False))  # fmt: skip
    loss, y = pixel_loss(model, x, codes(), noise, distance, decoding=two)
    found = torch.autograd.grad(loss, learnt, allow_unused=True)
    assert y.shape == x.shape
    seen = 0
    for a, b, c in zip(found, cut, whole, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-7)
            seen += not torch.allclose(a, c, rtol=1e-2, atol=1e-7)
    assert seen


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("half", [False, True])
def test_pixels_teach_nothing_else(steps, half):
    model = tiny_layton.tokenizer()
    learning(model, "copy")
    noise = own_noise([3, 4], (4, 4, 4))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss, _ = pixel_loss(model, tiny_layton.pictures(), codes(), noise, distance,
                             decoding=Decoding(steps=steps))  # fmt: skip
    loss.backward()
    names = {name for name, p in model.named_parameters() if p.grad is not None}
    assert all(name.startswith("decoder.controlnet.") for name in names)
    found = with_gradients(model)
    assert "decoder.controlnet.controlnet_cond_embedding.conv_in.weight" in found
    assert "decoder.controlnet.down_blocks.1.resnets.0.conv1.weight" in found


def test_pixels_are_those_that_are_drawn():
    model, noise = tiny_layton.tokenizer(), own_noise([3, 4], (4, 4, 4))
    for decoding in (Decoding(steps=1), Decoding(steps=2), DECODINGS["hyper"]):
        with torch.no_grad():
            x_0 = few_steps(model, codes(), noise, decoding)
        assert torch.allclose(x_0, model.sample(codes(), seeds=[3, 4], decoding=decoding),
                              rtol=1e-3, atol=1e-3)  # fmt: skip


def test_pixel_errors_are_added_by_weight():
    model, x, noise = tiny_layton.tokenizer(), tiny_layton.pictures(), own_noise([3, 4], (4, 4, 4))
    with torch.no_grad():
        plain, y = pixel_loss(model, x, codes(), noise, distance)
        more, _ = pixel_loss(model, x, codes(), noise, distance, l1=2.0, l2=3.0)
    added = 2 * (y - x).abs().mean() + 3 * (y - x).square().mean()
    assert torch.allclose(more, plain + added)
    for decoding in (Decoding(steps=3), DECODINGS["ddim"]):
        with pytest.raises(ValueError, match="1 or 2 consistency steps"):
            pixel_loss(model, x, codes(), noise, distance, decoding=decoding)


def test_alignment_weighs_times_as_the_base():
    model, z_0, eps = tiny_layton.tokenizer(), latents(), latents(seed=2)
    t = torch.tensor([10, 900])
    with torch.no_grad():
        each = torch.stack([alignment_loss(model, z_0[i : i + 1], codes()[i : i + 1], t[i : i + 1],
                                           eps[i : i + 1]) for i in range(2)])  # fmt: skip
        plain, weighted = (alignment_loss(model, z_0, codes(), t, eps, min_snr=gamma)
                           for gamma in (None, 1e-3))  # fmt: skip
    assert torch.allclose(plain, each.mean())
    # Below every SNR gamma / SNR is left: the error of x_0, sigma / alpha times that of eps.
    abar = scheduler().alphas_cumprod[t]
    assert torch.allclose(weighted, (1e-3 * (1 - abar) / abar * each).mean())


def test_the_base_learns_without_text():
    unet = tiny_layton.parts()["unet"]
    z_0, eps, t = latents(), latents(seed=2), torch.tensor([10, 900])
    abar = scheduler().alphas_cumprod[t]
    with torch.no_grad():
        z = abar.sqrt()[:, None, None, None] * z_0 + (1 - abar).sqrt()[:, None, None, None] * eps
        each = (noise_of(unet, z, t, square(32)) - eps).square().flatten(1).mean(1)
        assert torch.allclose(ldm_loss(unet, z_0, t, eps, image=32), each.mean())
        snr = abar / (1 - abar)
        weights = torch.minimum(snr, torch.tensor(5.0)) / snr
        assert torch.allclose(min_snr_weights(t, 5.0), weights)
        assert weights[0] < 0.1
        assert weights[1] == 1
        weighted = ldm_loss(unet, z_0, t, eps, image=32, min_snr=5.0)
        assert torch.allclose(weighted, (weights * each).mean())
        assert not torch.equal(ldm_loss(unet, z_0, t, eps, image=16), each.mean())
    times = sample_times(4000, generator=torch.Generator().manual_seed(0))
    assert (int(times.min()), int(times.max())) == (0, 999)


# ------------------------------------------------------------------------------ distillation


def test_the_boundary_is_the_latent_itself():
    c_skip, c_out = boundary(torch.tensor([0, 19, 999]))
    assert c_skip.flatten()[0] == 1
    assert c_out.flatten()[0] == 0
    assert float(c_skip.flatten()[1]) == pytest.approx(0.25 / (190**2 + 0.25))
    assert float(c_out.flatten()[2]) == pytest.approx(9990 / (9990**2 + 0.25) ** 0.5)


def test_distillation_written_out():
    model = tiny_layton.tokenizer()
    distil = Distillation(model.decoder, robust=None)
    with torch.no_grad():
        for p in distil.target:
            p.mul_(0.5)
    z_0, eps, t = latents(), latents(seed=2), torch.tensor([19, 999])
    after = torch.tensor([0, 979])
    abar, unet = scheduler().alphas_cumprod, model.decoder.unet

    def parts(time):
        return (abar[time].sqrt().view(-1, 1, 1, 1), (1 - abar[time]).sqrt().view(-1, 1, 1, 1))

    def f(z, time):
        (a, s), (c_skip, c_out) = parts(time), boundary(time)
        return c_skip * z + c_out * (z - s * noise_of(unet, z, time, square(32))) / a

    with torch.no_grad():
        (a, s), (a_next, s_next) = parts(t), parts(after)
        z = a * z_0 + s * eps
        with model.decoder.accelerated(False):
            e = noise_of(unet, z, t, square(32))
        step = a_next * (z - s * e) / a + s_next * e
        student = f(z, t)
        own = [p.clone() for p in model.decoder.adapters]
        torch._foreach_copy_(model.decoder.adapters, distil.target)
        target = f(step, after)
        torch._foreach_copy_(model.decoder.adapters, own)
        found = distil.loss(z_0, t, eps, image=32)
    assert torch.equal(target[0], step[0])
    assert torch.allclose(found, (student - target).square().mean(), rtol=1e-4)
    wanted = ((student - target).square() + 1e-6).sqrt() - 1e-3
    distil.robust = 1e-3
    with torch.no_grad():
        assert torch.allclose(distil.loss(z_0, t, eps, image=32), wanted.mean(), rtol=1e-4)


def test_distillation_teaches_the_accelerator_alone():
    model = LaytonTokenizer.assemble(TOKENIZERS["tiny"](), **tiny_layton.parts())
    learnt = learning(model, "accelerator")
    distil = Distillation(model.decoder)
    before = [p.clone() for p in distil.target]
    loss = distil.loss(latents(), torch.tensor([499, 999]), latents(seed=2), image=32)
    loss.backward()
    names = {name for name, p in model.named_parameters() if p.grad is not None}
    assert names
    assert all(".lora_" in name for name in names)
    assert all(p.requires_grad for p in learnt)
    torch.optim.SGD(learnt, 1.0).step()
    assert all(torch.equal(a, b) for a, b in zip(distil.target, before, strict=True))
    distil.update()
    for target, old, new in zip(distil.target, before, learnt, strict=True):
        assert torch.allclose(target, old + 0.05 * (new.detach() - old), atol=1e-7)
    other = Distillation(model.decoder)
    other.load_state_dict(distil.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.target, distil.target, strict=True))


def test_distillation_makes_times_agree():
    """After it, two points of the teacher's path give nearly the same x_0."""
    torch.manual_seed(0)
    model = LaytonTokenizer.assemble(TOKENIZERS["tiny"](), **tiny_layton.parts())
    learnt, distil = learning(model, "accelerator"), Distillation(model.decoder, skip=100)
    optimizer = torch.optim.Adam(learnt, 5e-3)
    z_0, eps = latents(16), latents(16, seed=2)
    t = distil.times(16, generator=torch.Generator().manual_seed(0))
    assert set(t.tolist()) <= {99 + 100 * i for i in range(10)}
    losses = []
    for _ in range(30):
        loss = distil.loss(z_0, t, eps, image=32)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        distil.update()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("skip", [0, 7, 2000])
def test_a_skip_that_does_not_divide_the_schedule_is_refused(skip):
    with pytest.raises(ValueError, match="must divide 1000"):
        Distillation(tiny_layton.fresh().decoder, skip=skip)


def test_what_learns_must_be_known():
    with pytest.raises(ValueError, match="one of copy, accelerator, given 'unet'"):
        learning(tiny_layton.fresh(), "unet")
