"""HierarchicalPrune's distillation and stage 2 of grafting, on networks of four tiny blocks."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from impasto.models.mmdit import PRESETS
from impasto.models.mmdit.text import Encoding
from impasto.surgery.distillation import (
    Losses,
    TeacherAndStudent,
    distil,
    distillation_loss,
    shared_blocks,
)
from impasto.surgery.finetune import finetune
from impasto.surgery.noised import flow_matched, output_of
from impasto.surgery.sensitivity import (
    R_THRES,
    binary_multipliers,
    compression,
    preserve,
    scale_updates,
    sensitivity_multipliers,
)
from impasto.train.loop import Loop, halved, mixed, warmed

IDLE = ("transformer_blocks.3.attn.add_q_proj", "transformer_blocks.3.attn.norm_added_q")
"""The last block's text asks nothing."""
BLOCKS = [f"transformer_blocks.{i}" for i in range(4)]


class Same(nn.Module):
    """In place of a whole block, or of an MLP."""

    def forward(self, hidden_states, encoder_hidden_states=None, **_):
        if encoder_hidden_states is None:
            return hidden_states
        return encoder_hidden_states, hidden_states


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    made = replace(PRESETS["tiny"](), layers=4).build_transformer().eval()
    with torch.no_grad():
        for param in made.parameters():
            if not param.any():
                param.normal_(std=0.1)
    return made


def without(teacher, *paths):
    student = copy.deepcopy(teacher)
    for path in paths:
        student.set_submodule(path, Same())
    return student


def batch(rows=3, generator=None):
    x_0, eps, text, pooled = (torch.randn(rows, *shape, generator=generator) for shape in (
        (4, 4, 4), (4, 4, 4), (16, 32), (32,)))  # fmt: skip
    return flow_matched(x_0, eps, torch.rand(rows, generator=generator), Encoding(text, pooled))


def fixed():
    return batch(generator=torch.Generator().manual_seed(3))


def learning(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def under(model, *prefixes):
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize(
    ("removed", "prefixes"),
    [(["transformer_blocks.2"], ("transformer_blocks.3.", "norm_out", "proj_out")),
     (["transformer_blocks.3", "transformer_blocks.1"],
      ("transformer_blocks.2.", "transformer_blocks.3.", "norm_out", "proj_out")),
     (["transformer_blocks.1.ff"], ("transformer_blocks.1.ff_context.", "transformer_blocks.2.",
                                    "transformer_blocks.3.", "norm_out", "proj_out")),
     (["transformer_blocks.3"], ("norm_out", "proj_out"))],
)  # fmt: skip
def test_what_is_before_the_first_removed_unit_is_frozen(teacher, removed, prefixes):
    student = without(teacher, *removed)
    count = preserve(student, BLOCKS, removed)
    assert learning(student) == under(student, *prefixes)
    assert count == sum(p.numel() for p in student.parameters() if p.requires_grad)


def test_the_eight_blocks_of_the_paper_leave_a_billion_to_learn():
    """SD3.5-Large on the meta device: 1,000,073,792 of the student's parameters (computed by the
    released code), behind block 25."""
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        model = SD3Transformer2DModel(
            num_layers=38, num_attention_heads=38, attention_head_dim=64, patch_size=2,
            joint_attention_dim=4096, pooled_projection_dim=2048, caption_projection_dim=2432,
            qk_norm="rms_norm", pos_embed_max_size=192)  # fmt: skip
    blocks = [f"transformer_blocks.{i}" for i in range(38)]
    count = sum(p.numel() for p in model.parameters())
    removed = [blocks[i] for i in (25, 26, 27, 28, 31, 32, 33, 34)]
    for path in removed:
        model.set_submodule(path, Same())
    assert (count, sum(p.numel() for p in model.parameters())) == (8_056_627_520, 6_352_630_080)
    assert preserve(model, blocks, removed) == 1_000_073_792


def test_multipliers_are_clipped_and_cut():
    drops = {"a": -2.0, "b": 0.5, "c": -20.0, "d": 0.0}
    assert sensitivity_multipliers(drops, 1.0) == {"a": 0.5, "b": 1.0, "c": 0.05, "d": 1.0}
    assert sensitivity_multipliers(drops, 1.0, 0.1)["c"] == 0.0
    assert binary_multipliers(BLOCKS, 1, 3) == dict(zip(BLOCKS, [0, 1, 1, 0], strict=True))
    for bad in ((0, 5), (3, 3), (-1, 2)):
        with pytest.raises(ValueError, match="its end is left out"):
            binary_multipliers(BLOCKS, *bad)
    with pytest.raises(ValueError, match="kappa must be > 0"):
        sensitivity_multipliers(drops, 0.0)


def test_a_units_first_step_is_as_long_as_its_multiplier(teacher):
    student = without(teacher, BLOCKS[1])
    preserve(student, BLOCKS, BLOCKS[1:2])
    factors = scale_updates(student, BLOCKS, {
        f"{BLOCKS[2]}.ff": 0.25, f"{BLOCKS[2]}.attn": 0.0, BLOCKS[3]: 0.5})  # fmt: skip
    assert factors == {f"{BLOCKS[2]}.ff": 0.25, BLOCKS[3]: 0.5, "norm_out": 0.5, "proj_out": 0.5}
    before = copy.deepcopy(student)
    distil(student, teacher, batch, BLOCKS, steps=1, lr=0.01, factors=factors, weight_decay=0.0)
    for path, m in {**factors, f"{BLOCKS[2]}.ff_context": 1.0, f"{BLOCKS[2]}.attn": 0.0}.items():
        moved = [(a - b).detach().abs().max() for a, b in zip(
            student.get_submodule(path).parameters(), before.get_submodule(path).parameters(),
            strict=True)]  # fmt: skip
        assert float(torch.stack(moved).max()) == pytest.approx(0.01 * m, rel=1e-3), path


def test_the_last_blocks_flag_is_the_outputs_too(teacher):
    student = without(teacher, BLOCKS[0])
    preserve(student, BLOCKS, BLOCKS[:1])
    scale_updates(student, BLOCKS, binary_multipliers(BLOCKS, 1, 3))
    assert learning(student) == under(student, "transformer_blocks.1.", "transformer_blocks.2.")


@pytest.mark.parametrize("removed", [[BLOCKS[2]], [f"{BLOCKS[1]}.ff"], [BLOCKS[3]], [BLOCKS[0]]])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_common_beginning_run_once_is_the_same_as_run_twice(
    teacher, monkeypatch, removed, compiled
):
    made = []
    monkeypatch.setattr(torch, "compile", lambda forward: made.append(forward) or forward)
    student, one = without(teacher, *removed), fixed()
    preserve(student, BLOCKS, removed)
    both = TeacherAndStudent(teacher, student, BLOCKS, compiled)
    assert both.shared == int(removed[0].split(".")[1])
    calls = []
    hook = student.transformer_blocks[0].norm1.register_forward_hook(lambda *_: calls.append(1)) \
        if both.shared else None  # fmt: skip
    with both.together(), torch.autocast("cpu", torch.bfloat16):
        v_T, v_S, pairs = both(one.given)
    assert not calls and len(made) == (compiled and 8 - both.shared)
    if hook:
        hook.remove()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(v_T, output_of(teacher, one.given))
        assert torch.equal(v_S, output_of(student, one.given))
    assert not any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks
                   for model in (teacher, student) for m in model.modules())  # fmt: skip
    # Of blocks that learn: two streams, the last block's text ends in None.
    hooked = [i for i, path in enumerate(BLOCKS) if learning(student) & under(student, f"{path}.")]
    assert len(pairs) == sum(1 if i == 3 else 2 for i in hooked)


def test_nothing_is_shared_that_learns_or_differs(teacher):
    student = without(teacher, BLOCKS[2])
    assert shared_blocks(teacher, student, BLOCKS) == 0
    preserve(student, BLOCKS, BLOCKS[2:3])
    assert shared_blocks(teacher, student, BLOCKS) == 2
    own = student.transformer_blocks[1].attn
    own.processor, kept = object(), own.processor
    assert shared_blocks(teacher, student, BLOCKS) == 1
    own.processor = kept
    with torch.no_grad():
        student.transformer_blocks[1].ff.net[2].bias.add_(1)
    assert shared_blocks(teacher, student, BLOCKS) == 1
    with torch.no_grad():
        student.context_embedder.bias.add_(1)
    assert shared_blocks(teacher, student, BLOCKS) == 0


def test_the_loss_is_the_papers(teacher):
    one, v_T, v_S = fixed(), torch.randn(3, 4, 4, 4), torch.randn(3, 4, 4, 4)
    pairs = [(torch.zeros(2, 2), torch.full((2, 2), 3.0)), (torch.zeros(1), torch.full((1,), 2.0))]
    loss, parts = distillation_loss(Losses(task=2.0), one, v_T, v_S, pairs)
    s = one.given["timestep"].view(3, 1, 1, 1) / 1000
    task = float((-s * v_S + one.x_t - one.x_0).square().mean())
    output = float((v_S - v_T).square().mean())
    assert float(loss) == pytest.approx(2 * task + output + 1e-4 * (9 + 4), rel=1e-5)
    assert float(parts["task"]) == pytest.approx(task) and float(parts["features"]) == 13
    # x_0 of a perfect velocity is x_0 itself.
    v = (one.x_t - one.x_0) / s
    assert float(distillation_loss(Losses(task=1.0), one, v_T, v, [])[1]["task"]) < 1e-10
    assert float(one.error(v)) < 1e-8
    with pytest.raises(ValueError, match="weight of features must be a number >= 0, given -1"):
        Losses(features=-1)
    with pytest.raises(ValueError, match="all three losses have weight 0"):
        Losses(output=0, features=0)


def test_frozen_tensors_keep_their_bits_and_the_rest_comes_nearer(teacher):
    student = without(teacher, BLOCKS[1])
    preserve(student, BLOCKS, BLOCKS[1:2])
    before, kept = copy.deepcopy(student), copy.deepcopy(teacher)
    one = fixed()

    def apart():
        with torch.no_grad():
            a, b = (output_of(model, one.given) for model in (student, teacher))
        return float((a - b).square().mean())

    first = apart()
    distil(student, teacher, fixed, BLOCKS, steps=30, lr=2e-3, weight_decay=0.0)
    frozen = {name for name, _ in student.named_parameters()} - learning(student)
    assert len(frozen) > 20
    for name, param in student.named_parameters():
        same = name in frozen or name.startswith(IDLE)
        assert torch.equal(param, before.get_parameter(name)) == same, name
    assert all(torch.equal(p, kept.get_parameter(name)) for name, p in teacher.named_parameters())
    assert apart() < 0.7 * first


def test_features_reach_what_learns(teacher):
    grads = {}
    for features in (0.0, 1.0):
        student = without(teacher, BLOCKS[1])
        preserve(student, BLOCKS, BLOCKS[1:2])
        both = TeacherAndStudent(teacher, student, BLOCKS)
        with both.together():
            loss, _ = distillation_loss(Losses(features=features), fixed(), *both(fixed().given))
        loss.backward()
        grads[features] = student.transformer_blocks[2].ff.net[2].weight.grad
    assert not torch.allclose(grads[0.0], grads[1.0], rtol=0.01)


def test_compression_and_its_threshold(teacher):
    assert compression(teacher, teacher) == 0
    gone = sum(p.numel() for p in teacher.transformer_blocks[1].parameters())
    whole = sum(p.numel() for p in teacher.parameters())
    assert compression(without(teacher, BLOCKS[1]), teacher) == pytest.approx(gone / whole)
    assert R_THRES == 0.25


@pytest.mark.parametrize(
    ("removed", "words"),
    [([], "nothing is removed"), (["context_embedder"], "is in none of the blocks"),
     ([f"{BLOCKS[0]}.attn9"], "has no part 'attn9'; it has norm1, norm1_context")],
)  # fmt: skip
def test_units_that_are_none_are_refused(teacher, removed, words):
    with pytest.raises(ValueError, match=words):
        preserve(copy.deepcopy(teacher), BLOCKS, removed)


def test_nothing_to_learn_is_refused(teacher):
    student = copy.deepcopy(teacher).requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the SD3Transformer2DModel is to learn"):
        distil(student, teacher, batch, BLOCKS, steps=1)


# Stage 2


def test_fine_tuning_is_the_diffusion_loss_on_everything(teacher, monkeypatch):
    model, shown = copy.deepcopy(teacher), []
    update = Loop.update
    monkeypatch.setattr(Loop, "update", lambda loop, loss: (shown.append(float(loss)),
                                                            update(loop, loss)))  # fmt: skip
    one = fixed()
    with torch.no_grad(), mixed(torch.device("cpu")):
        expected = float(one.error(output_of(teacher, one.given)))
    loop = finetune(model, fixed, steps=20, lr=0.01, ema=0.0)
    assert shown[0] == pytest.approx(expected, rel=1e-4) and shown[-1] < 0.9 * shown[0]
    assert (loop.clip, loop.schedule) == (10.0, warmed)
    assert all(torch.equal(p, teacher.get_parameter(name)) == name.startswith(IDLE)
               for name, p in model.named_parameters())  # fmt: skip


def test_low_rank_additions_are_merged_into_what_they_are_added_to(teacher):
    model = copy.deepcopy(teacher)
    finetune(model, fixed, steps=5, lr=0.01, rank=2, targets=("attn",), ema=0.0)
    assert [type(m) for m in model.modules()] == [type(m) for m in teacher.modules()]
    for name, module in teacher.named_modules():
        if isinstance(module, nn.Linear):
            own = model.get_submodule(name)
            same = ".attn." not in name or name.startswith(IDLE)
            assert torch.equal(own.weight, module.weight) == same, name
            added = (own.weight - module.weight).detach()
            assert torch.linalg.matrix_rank(added, atol=1e-4) <= 2
            assert own.bias is None or torch.equal(own.bias, module.bias)
    assert learning(model) == {name for name, _ in model.named_parameters()}
    for rank, targets, words in ((0, ("attn",), "integer >= 1, given 0"),
                                 (2, ("attention",), "no linear layer is at or below attention")):
        with pytest.raises(ValueError, match=words):
            finetune(copy.deepcopy(teacher), fixed, steps=1, rank=rank, targets=targets)


def test_schedules():
    assert [halved(p) for p in (0.0, 0.24, 0.25, 0.5, 0.99, 1.0)] == [
        1, 1, 0.5, 0.25, 0.125, 0.125]  # fmt: skip
    assert (warmed(0.0), warmed(0.01), warmed(0.5)) == (0.0, 0.5, 1.0)
