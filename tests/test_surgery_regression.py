"""Local regression on a frozen host's activations: every figure against one made by hand."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from impasto.models.mmdit.train import sample_times
from impasto.surgery.listening import NonFiniteActivation
from impasto.surgery.regression import (
    criterion,
    default_loss,
    held_out_losses,
    regress,
)
from impasto.train.loop import mixed
from tests import tiny_mmdit

ATTENTION, MLP = "transformer_blocks.0.attn", "transformer_blocks.1.ff"
PAIR = "transformer_blocks.0>transformer_blocks.1"


class Joint(nn.Module):
    """Two streams in, two out, of its own."""

    def __init__(self, width=32):
        super().__init__()
        self.image, self.text = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden_states, encoder_hidden_states):
        return self.image(hidden_states), self.text(encoder_hidden_states)


class Parallel(nn.Module):
    """In place of a pair of blocks: both see one input."""

    def __init__(self, width=32):
        super().__init__()
        self.merge = nn.Linear(width, width)

    def forward(self, hidden_states, encoder_hidden_states, temb, joint_attention_kwargs=None):
        return encoder_hidden_states, self.merge(hidden_states)


@pytest.fixture(scope="module")
def host():
    return tiny_mmdit.tiny().transformer.eval()


def draw(rows=4, generator=None):
    x = torch.randn(rows, 4, 4, 4, generator=generator)
    return {"hidden_states": x, "timestep": 1000 * sample_times(rows, generator=generator),
            "encoder_hidden_states": torch.randn(rows, 16, 32, generator=generator),
            "pooled_projections": torch.randn(rows, 32, generator=generator)}  # fmt: skip


def fixed(n=2):
    generator = torch.Generator().manual_seed(5)
    return [draw(generator=generator) for _ in range(n)]


def scions(*targets, seed=0):
    torch.manual_seed(seed)
    made = {ATTENTION: Joint, MLP: partial(nn.Linear, 32, 32), PAIR: Parallel}
    return {target: made[target]() for target in targets}


def same(a, b):
    return all(torch.equal(x, b.state_dict()[key]) for key, x in a.state_dict().items())


def test_criteria_are_the_papers():
    a, b = torch.tensor([0.0, 3.0, 0.5]), torch.zeros(3)
    assert float(criterion("l1", a, b)) == pytest.approx(3.5 / 3)
    assert float(criterion("l2", a, b)) == pytest.approx(9.25 / 3)
    assert float(criterion("huber", a, b)) == pytest.approx((3 - 0.5 + 0.125) / 3)
    assert [default_loss(path) for path in (ATTENTION, MLP, "blocks.3.mlp", PAIR)] == [
        "l1", "l2", "l2", "l1"]  # fmt: skip
    with pytest.raises(ValueError, match="unknown loss 'l3'; allowed: l1, l2, huber"):
        criterion("l3", a, b)


def test_held_out_losses_are_those_of_what_the_host_is_given(host):
    """By hand: the block's own modules called one after the other, in bfloat16 as the host's."""
    own, (batch,) = scions(ATTENTION, MLP), fixed(1)
    found = held_out_losses(host, own, [batch])
    seen = {}
    hooks = [host.get_submodule(path).register_forward_hook(
        lambda _, args, kwargs, out, path=path: seen.update({path: (args, kwargs, out)}),
        with_kwargs=True) for path in own]  # fmt: skip
    with torch.no_grad(), mixed(torch.device("cpu")):
        host(**batch)
        (x,), _, y = seen[MLP]
        assert found[MLP]["l2"] == pytest.approx(float((own[MLP](x).float() - y).square().mean()))
        _, kwargs, (image, text) = seen[ATTENTION]
        a, b = own[ATTENTION](**kwargs)
        mean = ((a.float() - image).abs().mean() + (b.float() - text).abs().mean()) / 2
        assert found[ATTENTION]["l1"] == pytest.approx(float(mean))
        block = host.transformer_blocks[0]
        normed = block.norm1(host.pos_embed(batch["hidden_states"]), emb=host.time_text_embed(
            batch["timestep"], batch["pooled_projections"]))[0]  # fmt: skip
        assert torch.equal(kwargs["hidden_states"], normed)
    for hook in hooks:
        hook.remove()


def test_all_scions_learn_and_the_host_stays(host):
    before, own = copy.deepcopy(host), scions(ATTENTION, MLP, PAIR)
    found = regress(host, own, draw, steps=60, lr=0.01, held_out=fixed())
    assert same(before, host) and not host._forward_hooks
    for target, loss in ((ATTENTION, "l1"), (MLP, "l2"), (PAIR, "l1")):
        assert found.after[target][loss] < 0.8 * found.before[target][loss], target
    assert found.loop.steps == 60 and not own[MLP].training


def test_no_scion_hears_of_another(host):
    """Together with others, whose losses are a thousand times larger, or alone: the same bits."""
    alone, together = scions(MLP), scions(MLP)
    together[ATTENTION] = Joint()
    with torch.no_grad():
        together[ATTENTION].image.weight.mul_(1e3)
    for own in (alone, together):
        regress(host, own, draw, steps=3, lr=0.01, seed=7)
    assert same(alone[MLP], together[MLP])


def test_each_has_its_own_rate_and_its_own_clip(host):
    """SGD-like steps cannot be read off Adam's, but the first is lr in every element, whatever
    the gradient's size; a huge gradient clipped with the others would leave theirs at 0."""
    own = scions(ATTENTION, MLP)
    before = copy.deepcopy(own)
    regress(host, own, draw, steps=1, lr=0.01, lrs={MLP: 0.03}, losses={MLP: "huber"})
    for target, lr in ((ATTENTION, 0.01), (MLP, 0.03)):
        moved = [(a - b).abs().max() for a, b in zip(
            own[target].parameters(), before[target].parameters(), strict=True)]  # fmt: skip
        assert float(torch.stack(moved).detach().max()) == pytest.approx(lr, rel=1e-3)


def test_gates_scale_both_sides(host):
    own, (batch,), norm = scions(MLP), fixed(1), "transformer_blocks.1.norm1"
    seen = {}
    hooks = [host.get_submodule(path).register_forward_hook(
        lambda _, x, out, path=path: seen.update({path: (x, out)})) for path in (norm, MLP)
    ]  # fmt: skip
    found = held_out_losses(host, own, [batch], gates={MLP: [(norm, 4)]})[MLP]
    with torch.no_grad(), mixed(torch.device("cpu")):
        ((x,), y), gate = seen[MLP], seen[norm][1][4][:, None]
        assert found["l2"] == pytest.approx(
            float((gate * own[MLP](x)).sub(gate * y).float().square().mean()), rel=0.02)
    for hook in hooks:
        hook.remove()
    assert found["l2"] != pytest.approx(held_out_losses(host, own, [batch])[MLP]["l2"], rel=0.1)
    with pytest.raises(ValueError, match=f"output 0 of {norm} is no gate"):
        held_out_losses(host, own, [batch], gates={MLP: [(norm, 0)]})


@pytest.mark.parametrize("step", [1, 3])
def test_what_is_not_finite_is_named_with_its_step(host, step):
    drawn = []

    def batches():
        drawn.append(draw())
        if len(drawn) == step:
            drawn[-1]["hidden_states"][0, 0, 0, 0] = float("nan")
        return drawn[-1]

    with pytest.raises(NonFiniteActivation, match=rf"step {step}: what reaches {ATTENTION}"):
        regress(host, scions(ATTENTION, MLP), batches, steps=5, lr=0.01)
    broken = scions(MLP)
    broken[MLP].weight.data[0, 0] = float("inf")
    with pytest.raises(NonFiniteActivation, match=f"step 1: the scion of {MLP}"):
        regress(host, broken, draw, steps=5, lr=0.01)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"scions": {}}, "no scion to train"),
     ({"scions": {"transformer_blocks.9.ff": nn.Linear(1, 1)}}, "no module 'transformer_blocks.9"),
     ({"scions": {MLP: nn.Linear(32, 8)}}, r"gives shapes \[\(4, 4, 8\)\], the host's"),
     ({"scions": {ATTENTION: nn.Linear(32, 32)}}, "unexpected keyword"),
     ({"losses": {ATTENTION: "l1"}}, f"no scion is at {ATTENTION}; there are {MLP}"),
     ({"losses": {MLP: "l0"}}, "unknown loss 'l0'"),
     ({"scions": {"transformer_blocks.1.ff_context": nn.Linear(1, 1)}}, "no module"),
     ({"scions": {"transformer_blocks.1.ff.net.0.proj>transformer_blocks.0": nn.Linear(1, 1)}},
      "must come first")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(host, given, words):
    with pytest.raises((ValueError, TypeError), match=words):
        regress(host, **{"scions": scions(MLP), "batches": draw, "steps": 1} | given)
