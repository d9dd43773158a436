"""The losses of tokenizers' trainings: the adversary, objectives, and when training stops."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from impasto.train import tokenizers
from impasto.train.adversary import Adversary, Discriminator, adaptive_weight, hinge
from impasto.train.loop import CodebookCollapse, Loop, NonFiniteLoss
from impasto.train.tokenizers import Attempt, Objective, train_tokenizer

CPU = torch.device("cpu")


class Copy(nn.Module):
    """Gives pictures back through a matrix of the colours; `token` is what tokens depend on."""

    def __init__(self):
        super().__init__()
        self.token = nn.Conv2d(3, 3, 1)
        self.out = nn.Conv2d(3, 3, 1)


def pictures(rows):
    generator = torch.Generator().manual_seed(int(rows.sum()))
    return torch.rand(len(rows), 3, 16, 16, generator=generator)


def train(model=None, ids=None, **numbers):
    model = model or Copy()

    def attempt(loop, x):
        found = None if ids is None else ids(loop)
        return Attempt(model.out(model.token(2 * x - 1)), torch.zeros(()), {}, found)

    settings = {"steps": 4, "batch": 2, "lr": 1e-2, "last_layer": model.out.weight} | numbers
    return train_tokenizer(model, pictures, attempt, token_parts=[model.token], count=8,
                           device=CPU, **settings)  # fmt: skip


# ------------------------------------------------------------------------------ the adversary


def test_the_published_discriminator_sees_patches_of_70_pixels():
    torch.manual_seed(0)
    model = Discriminator().eval()
    assert [tuple(part.weight.shape[:2]) for part in model if isinstance(part, nn.Conv2d)] == [
        (64, 3), (128, 64), (256, 128), (512, 256), (1, 512)]
    assert sum(p.numel() for p in model.parameters()) == 2_765_633
    x = torch.zeros(1, 3, 128, 128, requires_grad=True)
    out = model(x)
    assert out.shape == (1, 1, 14, 14)
    out[0, 0, 7, 7].backward()
    seen = x.grad.abs().sum((0, 1)) > 0
    assert int(seen.any(0).sum()) == int(seen.any(1).sum()) == 70


def test_hinge_is_flat_beyond_its_margin():
    real, made = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert hinge(real, made) == pytest.approx((0.25 + 0.5) / 2)
    assert hinge(torch.ones(3), -torch.ones(3)) == 0


def test_the_adversary_learns_to_tell_and_its_generator_loss_does_not_teach_it():
    torch.manual_seed(0)
    adversary = Adversary(8, 1, 1e-2, (0.5, 0.9), CPU)
    x, y = torch.full((8, 3, 16, 16), 0.5), torch.full((8, 3, 16, 16), -0.5, requires_grad=True)
    losses = [float(adversary.learn(x, y, 1.0)) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert y.grad is None
    adversary.optimizer.zero_grad()
    adversary.generator_loss(y).backward()
    assert y.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.params)


def test_the_adaptive_weight_makes_both_gradients_alike():
    weight = torch.tensor([2.0, 1.0], requires_grad=True)
    w = adaptive_weight((3 * weight).sum(), (0.1 * weight).sum(), weight)
    assert float(w) == pytest.approx(3 / (0.1 + 1e-4 / 2**0.5), rel=1e-4) and not w.requires_grad


def test_the_discriminator_begins_alike_in_every_process_and_changes_no_other_draw(monkeypatch):
    """Their pictures differ, and averaged gradients keep alike only what was."""
    objective = Objective(adversarial_weight=0.1, adversarial_start=1.0, filters=8, layers=1)
    begun = []

    def attempt(loop, x):
        if loop.step == 0 and "adversary" in loop.carried:
            begun.append([p.clone() for p in loop.carried["adversary"].params])
        return Attempt(model.out(model.token(2 * x - 1)), torch.zeros(()), {})

    ends = []  # after several steps, as the rate of the first is 0
    for rank, own in ((0, objective), (1, objective), (0, None)):
        monkeypatch.setattr(tokenizers.processes, "rank", lambda rank=rank: rank)
        torch.manual_seed(0)
        model = Copy()
        train_tokenizer(model, pictures, attempt, token_parts=[], count=8, device=CPU, steps=4,
                        batch=2, objective=own)  # fmt: skip
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    rank_0, rank_1 = begun
    assert all(torch.equal(a, b) for a, b in zip(rank_0, rank_1, strict=True))
    assert torch.equal(ends[0], ends[2]) and not torch.equal(ends[0], ends[1])


def test_an_adaptive_weight_without_a_layer_to_measure_by_is_refused():
    objective = Objective(adversarial_weight=0.1, adaptive=True)
    with pytest.raises(ValueError, match="adaptive needs the decoder's last layer, and tokenizer"):
        train(objective=objective, last_layer=None)


def test_the_adversary_begins_when_it_is_told_to(monkeypatch):
    asked, learnt = [], []
    of_generator, learn = Adversary.generator_loss, Adversary.learn
    monkeypatch.setattr(Adversary, "generator_loss",
                        lambda self, y: asked.append(1) or of_generator(self, y))  # fmt: skip
    monkeypatch.setattr(Adversary, "learn",
                        lambda self, *given: learnt.append(1) or learn(self, *given))  # fmt: skip
    objective = Objective(adversarial_weight=0.1, adversarial_start=0.5, filters=8, layers=1,
                          adaptive=True)  # fmt: skip
    train(steps=8, objective=objective)
    assert (len(asked), len(learnt)) == (4, 4)


# ------------------------------------------------------------------------------ objectives


def test_each_loss_of_an_objective_counts():
    x = torch.rand(1, 3, 32, 32)
    y = (x + 0.3 * torch.rand_like(x)) * 2 - 1
    x = 2 * x - 1
    loop = Loop(nn.Linear(1, 1), 4, 0.1)

    def loss(**values):
        return float(tokenizers._Losses(Objective(**values), 0.1, CPU)(loop, x, y, None)[0])

    plain, near = loss(reconstruction="l2"), F.mse_loss(x, y)
    assert plain == pytest.approx(float(near))
    assert loss() == pytest.approx(float(tokenizers.reconstruction_loss(x, y)))
    one, two = (loss(reconstruction="l2", perceptual="sticker-detector", perceptual_weight=w)
                for w in (1.0, 2.0))  # fmt: skip
    assert one > plain and two - plain == pytest.approx(2 * (one - plain), rel=1e-3)


@pytest.mark.parametrize(
    ("values", "words"),
    [({"perceptal": "a"}, "no 'perceptal': did you mean 'perceptual'"),
     ({"reconstruction": "l3"}, "reconstruction 'l3'"),
     ({"perceptual_weight": -1}, "perceptual_weight must be a number >= 0"),
     ({"adversarial_start": 20000}, "share of the training, 0 to 1")],
)  # fmt: skip
def test_objectives_that_cannot_be_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        Objective.from_dict(values)


# ------------------------------------------------------------------------------ freezing, stopping


def test_after_freezing_only_the_rest_learns():
    model, kept = Copy(), []
    train(model, steps=8, freeze_encoder=0.5,
          on_freeze=lambda: kept.append([p.clone() for p in model.parameters()]))  # fmt: skip
    same = [torch.equal(a, b) for a, b in zip(kept[0], model.parameters(), strict=True)]
    assert same == [True, True, False, False]


def few(loop):
    return torch.zeros(64, dtype=torch.int64)


def test_a_collapsed_codebook_stops_training_and_names_the_last_good_checkpoint(monkeypatch):
    monkeypatch.setattr(tokenizers, "LOOK_EVERY", 5)
    words = r"at step 34; the last good checkpoint is here, of step 30"
    with pytest.raises(CodebookCollapse, match=words):
        train(ids=few, vocabulary=1000, steps=200, on_save=lambda: "here", save_every=10)
    with pytest.raises(CodebookCollapse, match="no checkpoint was written before"):
        train(ids=few, vocabulary=1000, steps=200)


def test_a_codebook_in_use_is_let_be(monkeypatch):
    monkeypatch.setattr(tokenizers, "LOOK_EVERY", 5)
    many = lambda loop: torch.arange(64) + loop.step  # noqa: E731
    assert train(ids=many, vocabulary=1000, steps=40).step == 40


def test_a_loss_that_is_not_finite_stops_training_and_names_the_last_good_checkpoint():
    model, saved = Copy(), []

    def save():
        saved.append([p.clone() for p in model.parameters()])
        with torch.no_grad():
            model.out.weight.fill_(torch.nan)  # undone with the average; so:
        loop_hook.append(True)
        return "here"

    loop_hook = []

    def attempt(loop, x):
        y = model.out(model.token(2 * x - 1))
        return Attempt(y * (torch.nan if loop_hook else 1.0), torch.zeros(()), {})

    with pytest.raises(NonFiniteLoss, match="step 8; the last good checkpoint is here, of step 4"):
        train_tokenizer(model, pictures, attempt, token_parts=[], count=8, device=CPU, steps=8,
                        batch=2, lr=1e-3, on_save=save, save_every=4)  # fmt: skip
    assert len(saved) == 1 and all(torch.isfinite(p).all() for p in saved[0])
