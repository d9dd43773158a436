"""Losses of the infinity family against their formulas, and that they teach something."""

import math

import pytest
import torch

from impasto.models.infinity import quantiser
from impasto.models.infinity.schedules import schedule
from impasto.models.infinity.train import (
    TeacherForcing,
    bit_loss,
    drop_text,
    entropy_loss,
    scale_entropies,
    self_corrected,
    token_weights,
    tokenizer_codes,
    training_loss,
)
from tests import tiny_infinity
from tests.test_infinity_tokenizer import tiny

PLAN = schedule(1.0, 3)
SIZES = PLAN.sizes


def features(rows=8, seed=0):
    return torch.randn(rows, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("patch", [1, 2])
def test_without_flips_it_is_plain_teacher_forcing(patch):
    vae = tiny(patch=patch)
    f = torch.randn(2, 4, 4 * patch, 4 * patch)
    told = self_corrected(vae, f, SIZES, strength=0.0)
    plain, _ = quantiser.residual_bits(f, vae.map_sizes(SIZES))
    for got, want in zip(told.targets, plain, strict=True):
        assert torch.equal(got, quantiser.to_tokens(want.float(), patch) > 0.5)
    f_hat = torch.zeros_like(f)
    for k in range(2):
        f_hat = vae.add_codes(f_hat, told.targets[k], SIZES[k])
        assert torch.equal(told.inputs[k], vae.next_input(f_hat, SIZES[k + 1]))
    assert not told.flipped.any()


def test_flips_enter_inputs_and_later_targets():
    """The targets are bits of what the flipped path leaves; only with it do they add up to f."""
    vae, f = tiny(), features()
    plain = self_corrected(vae, f, SIZES, strength=0.0)
    told = self_corrected(vae, f, SIZES, strength=1.0, generator=seeded(3))
    assert torch.equal(told.targets[0], plain.targets[0])
    assert not torch.equal(told.targets[1], plain.targets[1])
    assert not torch.equal(told.inputs[0], plain.inputs[0])
    # The second input is resized to full size here, so it is the sum of the flipped codes.
    f_hat = quantiser.from_tokens(told.inputs[1], (4, 4))
    want = quantiser.area(f - f_hat, (4, 4)) > 0
    assert torch.equal(quantiser.from_tokens(told.targets[2].float(), (4, 4)) > 0.5, want)


def test_shares_of_flips():
    """One share a scale for the batch, a whole percent up to the strength."""
    vae, f = tiny(), torch.randn(400, 4, 4, 4)
    drawn = [self_corrected(vae, f[:1], SIZES, strength=0.3, generator=seeded(i)).flipped.tolist()
             for i in range(300)]  # fmt: skip
    shares = {round(100 * share) for shares in drawn for share in shares}
    assert shares == set(range(31)) and any(len(set(row)) > 1 for row in drawn)
    told = self_corrected(vae, f, SIZES, strength=0.3, generator=seeded(1))
    used = quantiser.from_tokens(told.inputs[0], (2, 2))[..., 0, 0] > 0  # the first scale's codes
    share = (used != told.targets[0][:, 0]).float().mean().item()
    assert told.flipped[0] >= 0.1 and share == pytest.approx(told.flipped[0].item(), abs=0.03)
    first = self_corrected(vae, f, SIZES, strength=0.3, flipped_scales=0, generator=seeded(1))
    assert not first.flipped.any()
    with pytest.raises(ValueError, match="strength must be 0 to 1, given 30"):
        self_corrected(vae, f, SIZES, strength=30)


def test_a_scale_weighs_as_the_root_of_its_tokens():
    w = token_weights(SIZES)
    # 1, 4 and 16 tokens: 1, 2 and 4 of 7.
    parts = [part.sum().item() for part in w.split([1, 4, 16])]
    assert parts == pytest.approx([1 / 7, 2 / 7, 4 / 7])


def test_loss_by_hand():
    """All logits (0, 1): -ln sigmoid(+-1), by whether the bit is set."""
    logits = torch.zeros(1, 5, 2, 2)
    logits[..., 1] = 1.0
    targets = [torch.ones(1, 1, 2) > 0, torch.zeros(1, 4, 2) > 0]
    loss, means, right = bit_loss(logits, targets, SIZES[:2])
    set_, unset = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert means.tolist() == pytest.approx([set_, unset]) and right.tolist() == [1.0, 0.0]
    assert loss.item() == pytest.approx((set_ + 2 * unset) / 3)


def test_text_is_dropped_in_its_share_and_learns():
    model = tiny_infinity.transformer()
    states = torch.randn(4000, 3, 32)
    dropped = drop_text(model, states, 0.1, seeded())
    null = (dropped == model.cfg_uncond[:3]).all(2).all(1)
    assert 0.08 < null.float().mean() < 0.12 and torch.equal(dropped[~null], states[~null])
    dropped.sum().backward()
    assert model.cfg_uncond.grad[:3].abs().min() > 0 and not model.cfg_uncond.grad[3:].any()


def test_training_lowers_the_loss():
    """Two texts, two pictures: the bits follow the text."""
    torch.manual_seed(0)
    model, vae = tiny_infinity.transformer(drop_path=0.0).train(), tiny()
    f = features(2).repeat(4, 1, 1, 1)
    states, seen = tiny_infinity.texts((5, 9))
    states, seen = states.repeat(4, 1, 1), seen.repeat(4, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses, forced = [], TeacherForcing(model, PLAN)
    for _ in range(40):
        loss, _, right = training_loss(forced, vae, f, states, seen, strength=0.1,
                                       generator=seeded(len(losses)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5]) and right[0] > 0.8
    assert all(p.grad is not None for p in model.parameters())


# ------------------------------------------------------------------------------ the tokenizer


def test_gradients_pass_through_the_bits():
    vae, f = tiny(), features(2).requires_grad_()
    f_hat, rests = tokenizer_codes(vae, f, SIZES, scales=2)
    bits, _ = quantiser.residual_bits(f.detach(), SIZES)
    torch.testing.assert_close(f_hat.detach(), quantiser.sum_codes(bits[:2], (4, 4)))
    assert [rest.shape[-1] for rest in rests] == [1, 2]
    weights = torch.randn(f.shape)
    (f_hat * weights).sum().backward()
    torch.testing.assert_close(f.grad, weights)
    with pytest.raises(ValueError, match="scales must be 1 to 3, given 4"):
        tokenizer_codes(vae, f, SIZES, scales=4)


def test_entropy_wants_sure_bits_of_both_values():
    """Sure and balanced: -ln 2. Sure and always the same: 0. Unsure: 0."""
    sign = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1).expand(2, 4, 2, 2)
    assert entropy_loss([sign]).item() == pytest.approx(-math.log(2), abs=1e-3)
    assert entropy_loss([sign.abs()]).item() == pytest.approx(0, abs=1e-3)
    assert entropy_loss([torch.zeros(2, 4, 2, 2)]).item() == pytest.approx(0, abs=1e-6)
    # p of one bit at z = 1: sigmoid(4 * 100 * .001) with inv_temperature .1 gives sigmoid(.4)
    p = 1 / (1 + math.exp(-0.4))
    h = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    one = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
    assert entropy_loss([one], 0.1).item() == pytest.approx(h - math.log(2), abs=1e-5)


def test_entropies_show_a_collapsed_scale():
    torch.manual_seed(0)
    dead = (torch.rand(1, 4, 4) > 0.5).expand(64, 4, 4)  # differs by place, never by picture
    alive = torch.rand(64, 16, 4) > 0.5
    entropies = scale_entropies([dead, alive])
    assert entropies[0] < 1e-4 and entropies[1] > 0.95
    quarter = (torch.arange(64) % 4 == 0).reshape(64, 1, 1)
    # H(1/4) = 2 - 3/4 log2 3
    assert scale_entropies([quarter]).item() == pytest.approx(0.811278, abs=1e-5)
