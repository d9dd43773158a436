"""Losses of the var family against their formulas, and that they teach something."""

import math

import pytest
import torch
import torch.nn.functional as F

from impasto.bench.reconstruction import codebook_use
from impasto.models.classes import drop_classes
from impasto.models.var.train import (
    TeacherForcing,
    quantised,
    restart_unused,
    teacher_inputs,
    token_loss,
    training_loss,
)
from impasto.train.data import PictureCache, of_one_class
from impasto.train.loop import CodebookCollapse, Loop
from impasto.train.next_scale import _scales, codebook_report, pictures
from impasto.train.var import (
    cache_tokens,
    train_var,
    train_var_tokenizer,
)
from tests import tiny_var
from tests.tiny_var import SIZES


def features(rows=8, seed=0):
    return torch.randn(rows, 8, 4, 4, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_teacher_forcing_tells_what_drawing_tells():
    """Inputs from tokens are the averaged sums of the scales before."""
    vae, f = tiny_var.tokenizer(), features(2)
    ids, _ = vae.quantize.residual_tokens(f, SIZES)
    told = teacher_inputs(vae, ids, SIZES)
    f_hat = torch.zeros_like(f)
    for k in range(2):
        f_hat = vae.add_codes(f_hat, ids[k], k, SIZES)
        assert torch.equal(told[k], vae.next_input(f_hat, SIZES[k + 1]))
    same = teacher_inputs(vae, ids[:2], SIZES)
    assert len(told) == 2 and all(torch.equal(a, b) for a, b in zip(same, told, strict=True))


def test_loss_by_hand():
    """Every token weighs the same: 1 of the first scale, 4 of the second."""
    logits = torch.zeros(1, 5, 4)
    logits[..., 1] = 1.0
    ids = [torch.tensor([[1]]), torch.tensor([[0, 0, 1, 3]])]
    loss, means, right = token_loss(logits, ids, SIZES[:2])
    total = math.log(3 + math.e)
    assert means.tolist() == pytest.approx([total - 1, total - 0.25])
    assert loss.item() == pytest.approx(total - 2 / 5) and right.tolist() == [1.0, 0.25]


def test_classes_are_dropped_in_their_share():
    labels = torch.arange(4000) % 80
    dropped = drop_classes(labels, 80, 0.1, seeded())
    null = dropped == 80
    assert 0.08 < null.float().mean() < 0.12 and torch.equal(dropped[~null], labels[~null])
    assert torch.equal(drop_classes(labels, 80, 0.0), labels)


def test_training_lowers_the_loss():
    """Four pictures of four classes: the tokens follow the class."""
    model, vae = tiny_var.transformer().train(), tiny_var.tokenizer()
    ids, _ = vae.quantize.residual_tokens(features(4, seed=3), SIZES)
    labels = torch.tensor([3, 16, 40, 79])
    ids, labels = [own.repeat(2, 1) for own in ids], labels.repeat(2)
    optimizer, forced = torch.optim.Adam(model.parameters(), lr=3e-3), TeacherForcing(model)
    losses = []
    for i in range(40):
        loss, means, right = training_loss(forced, vae, ids, labels, generator=seeded(i))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5]) and right[2] > 0.8 and means.shape == (3,)
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is None for p in vae.parameters())


# ------------------------------------------------------------------------------ the tokenizer


def test_the_quantiser_s_loss_is_its_formula():
    quantize, f = tiny_var.tokenizer().quantize, features(2)
    out = quantised(quantize, f, SIZES)
    f_hat, want = torch.zeros_like(f), 0.0
    for k, ids in enumerate(out.ids):
        f_hat = f_hat + quantize.summand(ids, k, SIZES)
        want += 1.25 * F.mse_loss(f_hat, f) / 3
    torch.testing.assert_close(out.loss, want)
    torch.testing.assert_close(out.f_hat, f_hat)
    assert all(torch.equal(a, b) for a, b in
               zip(out.ids, quantize.residual_tokens(f, SIZES)[0], strict=True))
    fewer = quantised(quantize, f, SIZES, scales=2)
    assert len(fewer.ids) == 2
    two = sum(quantize.summand(out.ids[k], k, SIZES) for k in range(2))
    torch.testing.assert_close(fewer.f_hat, two)
    with pytest.raises(ValueError, match="scales must be 1 to 3, given 4"):
        quantised(quantize, f, SIZES, scales=4)


def test_gradients_go_straight_through_the_sum():
    """To the features as if nothing had been quantised; to codes and phis from the loss alone."""
    quantize, f = tiny_var.tokenizer().quantize, features(2).requires_grad_()
    weights = torch.randn(f.shape)
    (quantised(quantize, f, SIZES).f_hat * weights).sum().backward()
    torch.testing.assert_close(f.grad, weights)
    assert quantize.embedding.weight.grad is None
    f.grad = None
    out = quantised(quantize, f, SIZES)
    out.loss.backward()
    used = torch.cat([ids.flatten() for ids in out.ids]).unique()
    moved = quantize.embedding.weight.grad.abs().sum(1).nonzero().flatten()
    assert torch.equal(moved, used)
    phis = [phi.weight.grad is not None for phi in quantize.quant_resi.qresi_ls]
    assert phis == [True, False, True, True]  # three scales use 0, 2 and 3
    f_hat, want = torch.zeros_like(f), torch.zeros_like(f)
    for k, ids in enumerate(out.ids):  # the commitment: 0.25 of the square's gradient
        f_hat = f_hat + quantize.summand(ids, k, SIZES).detach()
        want = want + 0.25 * 2 * (f.detach() - f_hat) / f.numel() / 3
    torch.testing.assert_close(f.grad, want)


def test_training_a_tokenizer_lowers_its_loss():
    torch.manual_seed(0)
    vae = tiny_var.tokenizer().train()
    images = torch.rand(4, 3, 1, 1, generator=seeded()).expand(-1, -1, 32, 32)
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        out = quantised(vae.quantize, vae.features(images), SIZES)
        loss = F.mse_loss(vae.picture(out.f_hat), 2 * images - 1) + out.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3]), losses
    missing = [name for name, p in vae.named_parameters() if p.grad is None]
    # Three scales use phis 0, 2 and 3.
    assert missing == [f"quantize.quant_resi.qresi_ls.1.{part}" for part in ("weight", "bias")]


def distance(a, b):
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def test_unused_codes_are_put_where_residuals_are():
    quantize, f = tiny_var.tokenizer().quantize, 5 + features(4)
    before = quantize.embedding.weight.detach().clone()
    ids, rests = quantize.residual_tokens(f, SIZES)
    hits = torch.bincount(torch.cat([own.flatten() for own in ids]), minlength=32)
    assert (hits == 0).sum() > 8
    moved = restart_unused(quantize, rests, hits, seeded())
    assert torch.equal(moved, hits == 0)
    after = quantize.embedding.weight.detach()
    assert torch.equal(after[~moved], before[~moved])
    there = torch.cat([rest.movedim(1, -1).flatten(0, 2) for rest in rests])
    assert (distance(after[moved], there).amin(1) == 0).all()
    scales = [(distance(after[moved], rest.movedim(1, -1).flatten(0, 2)).amin(1) == 0).any()
              for rest in rests]  # fmt: skip
    assert all(scales)
    again = quantize.residual_tokens(f, SIZES)[0]
    used = [sum(codebook_use(own, 32).share for own in each) for each in (ids, again)]
    assert used[1] > used[0]


# ------------------------------------------------------------------------------ on the world


def cache(classes=((3, -1), (16, 16), (40, 41), (79, -1), (-1, -1))):
    """Pictures of one colour each, with the classes of their objects."""
    images = (255 * torch.rand(len(classes), 3, 1, 1, generator=seeded())).byte()
    zeros = torch.zeros(len(classes), 32, 32, dtype=torch.uint8)
    return PictureCache(images.expand(-1, -1, 32, 32), zeros, torch.tensor(classes),
                        torch.zeros(len(classes), 2, dtype=torch.long))  # fmt: skip


def test_a_picture_s_class_is_that_of_all_its_objects():
    rows, labels = of_one_class(cache())
    assert rows.tolist() == [0, 1, 3] and labels.tolist() == [3, 16, 79]
    with pytest.raises(ValueError, match="no picture shows objects of one class only"):
        of_one_class(cache(((1, 2),)))


def test_a_tokenizer_is_trained_its_codes_restarted_and_its_tokens_frozen(monkeypatch):
    monkeypatch.setattr("impasto.train.var.RESTART_EVERY", 2)
    vae, restarted, kept = tiny_var.tokenizer(), [], []
    start_over = Loop.start_over
    monkeypatch.setattr(Loop, "start_over", lambda loop, *a: restarted.append(
        (loop.step, int(a[1].sum()))) or start_over(loop, *a))  # fmt: skip

    def freeze():
        kept.append({key: value.clone() for key, value in vae.state_dict().items()})

    loop = train_var_tokenizer(vae, cache(), SIZES, steps=8, batch=4, lr=0.01,
                               freeze_encoder=0.75, on_freeze=freeze)  # fmt: skip
    assert loop.steps == 8 and [step for step, _ in restarted] == [1, 3]
    assert all(0 < count < 32 for _, count in restarted)
    after = vae.state_dict()
    frozen = {key for key in after if torch.equal(after[key], kept[0][key])}
    parts = ("encoder.", "quant_conv.", "quantize.")
    assert {key for key in after if key.startswith(parts)} <= frozen
    assert {key for key in after if key not in frozen} >= {"decoder.conv_out.weight"}
    report = codebook_report(vae, pictures(cache(), slice(None), vae, SIZES), SIZES, 32)
    assert [len(report[name]) for name in ("codes_used", "perplexity", "psnr")] == [3, 3, 3]
    assert report["all_scales"]["codes_used"] >= max(report["codes_used"])
    assert all(0.03 < used <= 1 for used in report["codes_used"])


def test_a_codebook_that_collapses_stops_the_training(monkeypatch):
    for name, value in (("LOOK_EVERY", 2), ("FLOOR", 1.01), ("WARM_UP", -1.0)):
        monkeypatch.setattr(f"impasto.train.tokenizers.{name}", value)
    with pytest.raises(CodebookCollapse, match="at step 5; no checkpoint was written before"):
        train_var_tokenizer(tiny_var.tokenizer(), cache(), SIZES, steps=8, batch=4, lr=0.01)


def test_the_numbers_of_scales_are_the_same_in_every_process():
    drawn = [_scales(6, 0.2, generator) for generator in [seeded(1)] * 1000]
    assert drawn == [_scales(6, 0.2, generator) for generator in [seeded(1)] * 1000]
    assert 0.75 < drawn.count(6) / 1000 < 0.85 and set(drawn) == {1, 2, 3, 4, 5, 6}


def test_a_transformer_is_trained_on_tokens_of_one_class():
    pipe = tiny_var.generator()
    tokens = cache_tokens(pipe, cache())
    assert tokens.ids.shape == (3, 21) and tokens.labels.tolist() == [3, 16, 79]
    whole = pipe.vae.encode(cache().images[[0, 1, 3]].float() / 255, SIZES)
    assert torch.equal(tokens.ids.long(), torch.cat(whole, dim=1))
    before = pipe.transformer.head.weight.detach().clone()
    saved = []
    loop = train_var(pipe, tokens, steps=2, batch=4, on_save=lambda: saved.append(1), save_every=2)
    assert loop.steps == 2 and saved == [1] and not pipe.transformer.training
    assert not torch.equal(pipe.transformer.head.weight, before)
    decayed, plain = ({id(p) for p in group["params"]} for group in loop.optimizer.param_groups)
    names = dict(pipe.transformer.named_parameters())
    assert id(names["blocks.0.attn.mat_qkv.weight"]) in decayed
    for name in ("class_emb.weight", "lvl_embed.weight", "pos_1LC", "pos_start", "head.bias",
                 "blocks.0.attn.scale_mul_1H11"):  # fmt: skip
        assert id(names[name]) in plain


def test_a_row_that_was_set_by_hand_is_averaged_from_there():
    model = torch.nn.Embedding(3, 2)
    loop = Loop(model, 2, 1e-3)
    with torch.no_grad():
        model.weight[1] = 9.0
    loop.start_over(model.weight, torch.tensor([False, True, False]))
    assert loop.averaged[0][1].tolist() == [9, 9] and loop.averaged[0][0].max() < 9
