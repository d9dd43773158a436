"""Infinity's transformer: published sizes, and every mechanism against its formula."""

import math
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from impasto.models.infinity.attention import positions, rotary_angles, rotate
from impasto.models.infinity.config import PRESETS, TRANSFORMERS
from impasto.models.infinity.initialise import initialise
from impasto.models.infinity.model import InfinityTransformer, block_causal_mask, mixed
from impasto.models.infinity.schedules import schedule
from tests.tiny_infinity import SCHEDULE, inputs, texts, transformer

# Parameters and state keys: measured in the official code.
PUBLISHED = {
    "125M": (125_148_800, 274), "layer16": (361_633_792, 358), "layer24": (940_944_832, 526),
    "2B": (2_204_564_032, 694), "layer32": (2_256_694_912, 694), "layer40": (4_716_421_888, 862),
    "layer48": (8_767_198_528, 1030), "8B": (8_375_791_824, 862), "20B": (19_952_199_784, 1240),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    config = TRANSFORMERS[name]
    with torch.device("meta"):
        model = InfinityTransformer(**asdict(config))
    state, c, d = model.state_dict(), config.width, config.bits
    assert (sum(p.numel() for p in model.parameters()), len(state)) == PUBLISHED[name]
    # No table of 2^d codes: nothing is larger than a feed-forward matrix.
    assert max(p.numel() for p in model.parameters()) <= max(6 * c * c, 512 * 2048)
    pool, block = (32 if c > 4096 else 16), f"blocks.{config.depth - 1}."
    shapes = {
        "cfg_uncond": (512, 2048), "pos_start": (1, 1, c), "text_norm.weight": (2048,),
        "text_proj_for_sos.ca.mat_q": (1, pool, c // pool),
        "text_proj_for_sos.ca.mat_kv.weight": (2 * c, 2048), "lvl_embed.weight": (15, c),
        "text_proj_for_ca.0.weight": (c, 2048), "text_proj_for_ca.2.weight": (c, c),
        "word_embed.weight": (c, d), "shared_ada_lin.1.weight": (6 * c, c),
        "head_nm.ada_lin.1.weight": (2 * c, c), "head.weight": (2 * d, c),
        block + "ada_gss": (1, 1, 6, c), block + "sa.scale_mul_1H11": (1, config.heads, 1, 1),
        block + "sa.mat_qkv.weight": (3 * c, c), block + "sa.zero_k_bias": (c,),
        block + "ca.mat_kv.weight": (2 * c, c), block + "ca.mat_q.bias": (c,),
        block + "ffn.fc1.weight": (round(4 * c / 256) * 256, c), block + "ca_norm.bias": (c,),
    }  # fmt: skip
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_sticker_is_as_large_as_meant():
    with torch.device("meta"):
        model = InfinityTransformer(**asdict(PRESETS["sticker"]().transformer))
    assert sum(p.numel() for p in model.parameters()) == 8_262_840


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="width 36 must be a multiple of 4 heads = 8"):
        transformer(width=36)


# ------------------------------------------------------------------------------ positions


def test_positions_are_the_published_ones():
    assert positions(6, 64).tolist() == [0, 11, 21, 32, 43, 53]
    assert positions(20, 70).tolist() == [0, 4, 7, 10, 14, 18, 21, 24, 28, 32, 35, 38, 42, 46, 49,
                                          52, 56, 60, 63, 66]  # fmt: skip


def test_angles_hold_rows_then_columns():
    angles = rotary_angles([(1, 1), (2, 3)], (64, 64), 16)
    theta = [10000 ** (-2 * i / 8) for i in range(4)]
    assert angles.shape == (7, 8) and not angles[0].any()
    y, x = 32, 43  # cell (1, 2) of (2, 3): round(64 / 2), round(2 * 64 / 3)
    torch.testing.assert_close(angles[6], torch.tensor([y * t for t in theta]
                                                       + [x * t for t in theta]))  # fmt: skip


def test_rotation_turns_neighbouring_pairs():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    angles = torch.tensor([[[math.pi / 2, 0.0]]])
    turned = rotate(x, angles.cos(), angles.sin())
    torch.testing.assert_close(turned.flatten(), torch.tensor([-2.0, 1.0, 3.0, 4.0]))


# ------------------------------------------------------------------------------ a block, plainly


def plain_attention(sa, x, angles, mask):
    """The formula, a head and a pair of tokens at a time, in float64."""
    c, heads = x.shape[-1], sa.heads
    d = c // heads
    q_w, k_w, v_w = sa.mat_qkv.weight.double().split(c)
    q, k, v = x @ q_w.T + sa.q_bias.double(), x @ k_w.T, x @ v_w.T + sa.v_bias.double()
    turn = torch.polar(torch.ones_like(angles).double(), angles.double())
    out = torch.zeros_like(x)
    for h in range(heads):
        at = slice(h * d, (h + 1) * d)
        s = min(float(sa.scale_mul_1H11.flatten()[h]), math.log(100))

        def turned(part, at=at):
            unit = part[:, at] / part[:, at].norm(dim=-1, keepdim=True)
            return torch.view_as_complex(unit.reshape(len(unit), -1, 2).contiguous()) * turn

        scores = math.exp(s) * (turned(q) @ turned(k).conj().T).real
        out[:, at] = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v[:, at]
    return out @ sa.proj.weight.double().T + sa.proj.bias.double()


def plain_block(block, x, shared, context, angles, mask):
    g1, g2, s1, s2, b1, b2 = (block.ada_gss.double() + shared)[0, 0]
    ln = lambda x, *affine: F.layer_norm(x, x.shape[-1:], *affine, eps=1e-6)  # noqa: E731
    x = x + g1 * plain_attention(block.sa, ln(x) * (1 + s1) + b1, angles, mask)
    ca, h = block.ca, ln(x, block.ca_norm.weight.double(), block.ca_norm.bias.double())
    k_w, v_w = ca.mat_kv.weight.double().chunk(2)
    heads = lambda y: y.reshape(len(y), ca.heads, -1).transpose(0, 1)  # noqa: E731
    q = heads(h @ ca.mat_q.weight.double().T + ca.mat_q.bias.double())
    k, v = heads(context @ k_w.T), heads(context @ v_w.T + ca.v_bias.double())
    seen = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v
    seen = seen.transpose(0, 1).reshape(len(x), -1)
    x = x + seen @ ca.proj.weight.double().T + ca.proj.bias.double()
    h = (ln(x) * (1 + s2) + b2) @ block.ffn.fc1.weight.double().T + block.ffn.fc1.bias.double()
    h = F.gelu(h, approximate="tanh") @ block.ffn.fc2.weight.double().T
    return x + g2 * (h + block.ffn.fc2.bias.double())


def plain_logits(model, states, codes, plan):
    """The whole network in float64, written out again for one text without padding."""
    double = lambda layer: (layer.weight.double(), layer.bias.double())  # noqa: E731
    t = states.double()
    t = t / (t.square().mean(-1, keepdim=True) + 1e-6).sqrt() * model.text_norm.weight.double()
    pool = model.text_proj_for_sos.ca
    k_w, v_w = pool.mat_kv.weight.double().chunk(2)
    heads = lambda y: y.reshape(len(y), pool.heads, -1).transpose(0, 1)  # noqa: E731
    k, v, q = heads(t @ k_w.T), heads(t @ v_w.T + pool.v_bias.double()), pool.mat_q[0].double()
    weights = ((q[:, None] @ k.transpose(1, 2)) / q.shape[-1] ** 0.5).softmax(-1)
    c = F.linear((weights @ v).reshape(1, -1), *double(pool.proj))
    context = F.linear(t, *double(model.text_proj_for_ca[0]))
    context = F.linear(F.gelu(context, approximate="tanh"), *double(model.text_proj_for_ca[2]))
    scales = [c + model.pos_start[0].double()]
    scales += [F.linear(code.double(), *double(model.word_embed)) for code in codes]
    x = torch.cat([tokens + model.lvl_embed.weight[i].double() for i, tokens in enumerate(scales)])
    level = torch.cat([torch.full((len(s),), i) for i, s in enumerate(scales)])
    angles = rotary_angles(plan.sizes, plan.grid, model.head_width)
    shared = F.linear(F.silu(c), *double(model.shared_ada_lin[1])).reshape(1, 1, 6, -1)
    for block in model.blocks:
        x = plain_block(block, x, shared, context, angles, level[:, None] >= level[None])
    scale, shift = F.linear(F.silu(c), *double(model.head_nm.ada_lin[1])).chunk(2, -1)
    x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
    return F.linear(x, *double(model.head)).reshape(len(x), -1, 2)


@torch.no_grad()
def test_the_network_is_its_formulas():
    """AdaLN order, clamped cosine attention, rotation, text both ways, head: all written again.

    The second row's text is shorter: padding must not matter either.
    """
    model = transformer()
    model.blocks[0].sa.scale_mul_1H11[0, 0] = 7.0  # over ln 100: clamped
    states, seen = texts((9, 5))
    codes = inputs()
    got = model.teacher_forced(model.condition(states, seen), codes, SCHEDULE)
    assert got.shape == (2, 57, 4, 2) and got.dtype == torch.float32
    for row, length in enumerate((9, 5)):
        want = plain_logits(model, states[row, :length], [code[row] for code in codes], SCHEDULE)
        torch.testing.assert_close(got[row], want.float(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_level_can_be_added_again():
    codes, (states, seen) = inputs(), texts()
    once, again = transformer(), transformer(level_every=1)
    out = [m.teacher_forced(m.condition(states, seen), codes, SCHEDULE) for m in (once, again)]
    assert (out[0] - out[1]).abs().max() > 0.1
    again.lvl_embed.weight.zero_()
    once.lvl_embed.weight.zero_()
    out = [m.teacher_forced(m.condition(states, seen), codes, SCHEDULE) for m in (once, again)]
    assert torch.equal(*out)


# ------------------------------------------------------------------------------ who sees whom


def test_mask_is_by_scale():
    mask = block_causal_mask(schedule(1.0, 2))
    assert mask.tolist() == [[True] + [False] * 4] + [[True] * 5] * 4


@torch.no_grad()
def test_a_scale_sees_itself_and_what_came_before():
    model, (states, seen) = transformer(), texts()
    condition, codes = model.condition(states, seen), inputs()
    before = model.teacher_forced(condition, codes, SCHEDULE)
    codes[1][:, 15] += 1  # the last token of the third scale: places 5 to 20
    change = (model.teacher_forced(condition, codes, SCHEDULE) - before).abs().amax((0, 2, 3))
    assert not change[:5].any()
    assert (change[5:21] > 1e-5).all()  # all its own, earlier places too
    assert (change[21:] > 1e-5).all()


@torch.no_grad()
@pytest.mark.parametrize("level_every", [0, 2])
@pytest.mark.parametrize("ratio", [1.0, 1.25])
def test_scale_by_scale_equals_all_at_once(level_every, ratio):
    """Two texts of different lengths in one batch."""
    plan = schedule(ratio, 5)
    model, (states, seen) = transformer(level_every=level_every), texts()
    condition, codes = model.condition(states, seen), inputs(plan=plan)
    whole, cache, parts = model.teacher_forced(condition, codes, plan), model.no_past(2), []
    for k, (h, w) in enumerate(plan.sizes):
        x = model.embed(k, condition, codes[k - 1] if k else None)
        last = k + 1 == len(plan.sizes)  # whose keys and values are not stored
        into = None if last else cache.extended(h * w, whole.shape[1])
        parts.append(model(x, condition, level=model.level(plan, k), turn=model.turn(plan, k),
                           into=into, past=cache))  # fmt: skip
        cache = into or cache
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=2e-5)
    assert (torch.cat(parts, 1) > 0).equal(whole > 0)
    assert cache[0][0].shape == (2, 2, whole.shape[1] - h * w, 16)


@torch.no_grad()
def test_small_pictures_lie_on_the_large_grid():
    model, (states, seen) = transformer(), texts()
    condition, codes = model.condition(states, seen), inputs()
    large = model.teacher_forced(condition, codes, SCHEDULE)
    small = model.teacher_forced(condition, codes, SCHEDULE._replace(grid=SCHEDULE.sizes[-1]))
    assert SCHEDULE.grid == (64, 64) and (large - small).abs().max() > 0.01


# ------------------------------------------------------------------------------ text


@torch.no_grad()
def test_pooled_text_feeds_start_and_modulation_packed_text_the_attention():
    model, (states, seen) = transformer(), texts()
    before = model.condition(states, seen)
    model.text_proj_for_ca[0].weight.mul_(2)
    packed = model.condition(states, seen)
    for name in ("pooled", "modulation", "head"):
        assert torch.equal(getattr(packed, name), getattr(before, name))
    assert not torch.equal(packed.keys, before.keys)
    model.text_proj_for_sos.ca.mat_q.mul_(-1)
    pooled = model.condition(states, seen)
    assert torch.equal(pooled.keys, packed.keys) and torch.equal(pooled.values, packed.values)
    for name in ("pooled", "modulation", "head"):
        assert not torch.equal(getattr(pooled, name), getattr(before, name))
    start = model.embed(0, pooled, None)
    torch.testing.assert_close(start, pooled.pooled[:, None] + model.pos_start)


@torch.no_grad()
def test_padding_is_never_seen():
    model, (states, seen) = transformer(), texts()
    other = torch.where(seen[..., None], states, states + 7)
    out = [model.teacher_forced(model.condition(s, seen), inputs(), SCHEDULE)
           for s in (states, other)]  # fmt: skip
    assert torch.equal(*out)


def test_unconditional_text_is_learned_and_as_long_as_the_prompt():
    model = transformer()
    assert torch.equal(model.null_text(7)[0], model.cfg_uncond[:7])
    with pytest.raises(ValueError, match="has 16 rows, a prompt 17 tokens"):
        model.null_text(17)


@torch.no_grad()
def test_guidance_inside_the_network():
    """After block 1, pairs become the mixture; the last block then differs by its text alone."""
    model, (states, seen) = transformer(), texts((9, 9, 9, 9))
    condition = model.condition(states, seen)
    x = model.embed(0, condition, None)
    plan = {"level": model.level(SCHEDULE, 0), "turn": model.turn(SCHEDULE, 0)}
    got = model(x, condition, mix=(1, 3.0), **plan)
    h = x + plan["level"]
    for i, block in enumerate(model.blocks):
        text = (condition.keys[:, i], condition.values[:, i])
        h = block(h, modulation=condition.modulation, text=text, seen=None, turn=plan["turn"])
        if i == 1:
            h = torch.stack([3 * h[0] - 2 * h[1], 3 * h[0] - 2 * h[1],
                             3 * h[2] - 2 * h[3], 3 * h[2] - 2 * h[3]])  # fmt: skip
    torch.testing.assert_close(got, model.logits(h, condition))
    assert mixed(torch.tensor([[1.0], [2.0], [5.0], [7.0]]), 3.0).tolist() == [[-1.0], [1.0]]


# ------------------------------------------------------------------------------ training's start


def test_fresh_weights_have_the_published_deviations():
    torch.manual_seed(0)
    model = initialise(InfinityTransformer(depth=4, width=128, heads=4, bits=8, text_width=128))
    std = (1 / 384) ** 0.5
    close = lambda value, want: value.std().item() == pytest.approx(want, rel=0.1)  # noqa: E731
    block = model.blocks[1]
    assert close(block.sa.mat_qkv.weight, std) and close(model.lvl_embed.weight, std)
    assert close(block.ffn.fc2.weight, std / 8**0.5) and close(block.ca.proj.weight, std / 8**0.5)
    assert close(model.head.weight, 0.02 * std) and close(model.cfg_uncond, 1.2 / 128**0.5)
    assert close(block.ada_gss[:, :, :2], 5e-6 / 128**0.5)
    assert close(block.ada_gss[:, :, 2:], 1e-3 / 128**0.5)
    assert close(model.head_nm.ada_lin[1].weight, 1e-3 * std)
    assert not model.head.bias.any() and not block.sa.zero_k_bias.any()
    assert block.sa.scale_mul_1H11.exp().flatten().tolist() == pytest.approx([4.0] * 4)


def test_paths_are_dropped_in_training_alone():
    model, (states, seen) = transformer(drop_path=0.5), texts()
    assert [block.drop_path for block in model.blocks] == [0.0, 0.25, 0.5]
    run = lambda: model.teacher_forced(model.condition(states, seen), inputs(), SCHEDULE)  # noqa: E731
    assert torch.equal(run(), run())
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(run(), run())
    kept = model.blocks[2]._kept(torch.ones(4000, 1, 1))
    assert set(kept.unique().tolist()) == {0.0, 2.0} and abs(kept.mean() - 1) < 0.1


def test_the_number_of_inputs_is_checked():
    model, (states, seen) = transformer(), texts()
    condition = model.condition(states, seen)
    with pytest.raises(ValueError, match="4 scales need 3 inputs, given 2"):
        model.teacher_forced(condition, inputs()[:2], SCHEDULE)
    with pytest.raises(ValueError, match="make 37 tokens, the schedule has 57"):
        model.teacher_forced(condition, [*inputs()[:2], inputs()[1]], SCHEDULE)


@torch.no_grad()
def test_half_precision_keeps_stream_and_head_in_float32():
    model, (states, seen) = transformer(), texts()
    full = model.teacher_forced(model.condition(states, seen), inputs(), SCHEDULE)
    half = transformer().bfloat16()
    condition = half.condition(states, seen)
    assert condition.modulation.dtype == torch.float32
    got = half.teacher_forced(condition, inputs(), SCHEDULE)
    assert got.dtype == torch.float32
    assert (got - full).abs().mean() < 0.1 * full.abs().mean()
