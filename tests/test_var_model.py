"""VAR's transformer: published sizes, and every mechanism against its formula."""

import math
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from impasto.models.next_scale.maps import block_causal_mask
from impasto.models.var.config import PRESETS, TRANSFORMERS
from impasto.models.var.initialise import initialise
from impasto.models.var.model import VARTransformer
from tests.tiny_var import SIZES, inputs, transformer

# Parameters and state keys: measured in the official code, where lvl_1L and attn_bias_for_masking
# are two more.
PUBLISHED = {
    "d16": (310_283_520, 218), "d20": (600_917_136, 270), "d24": (1_033_399_360, 322),
    "d30": (2_010_020_356, 400), "d36-s": (2_353_893_904, 444),
}  # fmt: skip
LABELS = torch.tensor([16, 80])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    config = TRANSFORMERS[name]
    with torch.device("meta"):
        model = VARTransformer(**asdict(config))
    state, c, scales = model.state_dict(), config.width, len(config.patches)
    assert (sum(p.numel() for p in model.parameters()), len(state)) == PUBLISHED[name]
    assert (c, config.heads) == (64 * config.depth, config.depth)
    length, block = 2240 if name == "d36-s" else 680, f"blocks.{config.depth - 1}."
    shapes = {
        "pos_start": (1, 1, c), "pos_1LC": (1, length, c), "word_embed.weight": (c, 32),
        "word_embed.bias": (c,), "class_emb.weight": (1001, c), "lvl_embed.weight": (scales, c),
        "head_nm.ada_lin.1.weight": (2 * c, c), "head.weight": (4096, c), "head.bias": (4096,),
        block + "attn.scale_mul_1H11": (1, config.heads, 1, 1),
        block + "attn.mat_qkv.weight": (3 * c, c), block + "attn.q_bias": (c,),
        block + "attn.zero_k_bias": (c,), block + "attn.v_bias": (c,),
        block + "attn.proj.bias": (c,), block + "ffn.fc1.weight": (4 * c, c),
        block + "ffn.fc2.bias": (c,),
    }  # fmt: skip
    if name == "d36-s":
        shapes |= {"shared_ada_lin.1.weight": (6 * c, c), block + "ada_gss": (1, 1, 6, c)}
    else:
        shapes |= {block + "ada_lin.1.weight": (6 * c, c), block + "ada_lin.1.bias": (6 * c,)}
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_sticker_is_as_large_as_meant():
    with torch.device("meta"):
        model = VARTransformer(**asdict(PRESETS["sticker"]().transformer))
    assert sum(p.numel() for p in model.parameters()) == 10_023_712
    assert model.pos_1LC.shape == (1, 530, 256)


@pytest.mark.parametrize(("change", "message"), [
    ({"width": 33}, "width 33 must be a multiple of the 2 heads"),
    ({"patches": (2, 4)}, r"must start with 1 and grow, given \[2, 4\]"),
    ({"patches": (1, 4, 4)}, r"given \[1, 4, 4\]"),
    ({"patches": ()}, r"given \[\]"),
])  # fmt: skip
def test_sizes_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        transformer(**change)


# ------------------------------------------------------------------------------ a block, plainly


def plain_attention(attn, x, mask):
    """The formula, a head at a time, in float64."""
    c, heads = x.shape[-1], attn.heads
    d = c // heads
    q_w, k_w, v_w = attn.mat_qkv.weight.double().split(c)
    q, k, v = x @ q_w.T + attn.q_bias.double(), x @ k_w.T, x @ v_w.T + attn.v_bias.double()
    out = torch.zeros_like(x)
    for h in range(heads):
        at = slice(h * d, (h + 1) * d)
        s = min(float(attn.scale_mul_1H11.flatten()[h]), math.log(100))
        unit = [part[:, at] / part[:, at].norm(dim=-1, keepdim=True) for part in (q, k)]
        scores = math.exp(s) * unit[0] @ unit[1].T
        out[:, at] = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v[:, at]
    return out @ attn.proj.weight.double().T + attn.proj.bias.double()


def plain_logits(model, label, codes):
    """The whole network in float64, written out again for one class."""
    double = lambda layer: (layer.weight.double(), layer.bias.double())  # noqa: E731
    ln = lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-6)  # noqa: E731
    c = model.class_emb.weight[label].double()
    scales = [c + model.pos_start[0].double()]
    scales += [F.linear(code.double(), *double(model.word_embed)) for code in codes]
    x = torch.cat([tokens + model.lvl_embed.weight[i].double() for i, tokens in enumerate(scales)])
    x = x + model.pos_1LC[0].double()
    level = torch.cat([torch.full((len(s),), i) for i, s in enumerate(scales)])
    for block in model.blocks:
        if model.shared:
            six = F.linear(F.silu(c), *double(model.shared_ada_lin[1])).reshape(6, -1)
            six = block.ada_gss[0, 0].double() + six
        else:
            six = F.linear(F.silu(c), *double(block.ada_lin[1])).reshape(6, -1)
        g1, g2, s1, s2, b1, b2 = six
        mask = level[:, None] >= level[None]
        x = x + g1 * plain_attention(block.attn, ln(x) * (1 + s1) + b1, mask)
        h = F.gelu(F.linear(ln(x) * (1 + s2) + b2, *double(block.ffn.fc1)), approximate="tanh")
        x = x + g2 * F.linear(h, *double(block.ffn.fc2))
    scale, shift = F.linear(F.silu(c), *double(model.head_nm.ada_lin[1])).chunk(2, -1)
    return F.linear(ln(x) * (1 + scale) + shift, *double(model.head))


@torch.no_grad()
@pytest.mark.parametrize("shared", [False, True])
def test_the_network_is_its_formulas(shared):
    """AdaLN order, clamped cosine attention, keys without bias, level and place, head."""
    model = transformer(shared=shared)
    model.blocks[0].attn.scale_mul_1H11[0, 0] = 7.0  # over ln 100: clamped
    codes = inputs()
    got = model.teacher_forced(model.condition(LABELS), codes)
    assert got.shape == (2, 21, 32) and got.dtype == torch.float32
    for row, label in enumerate(LABELS):
        want = plain_logits(model, label, [code[row] for code in codes])
        torch.testing.assert_close(got[row], want.float(), rtol=1e-4, atol=1e-4)


def test_keys_have_no_bias_to_learn():
    model = transformer()
    attn = model.blocks[0].attn
    assert "zero_k_bias" not in dict(attn.named_parameters()) and not attn.zero_k_bias.any()
    assert model.state_dict()["blocks.0.attn.zero_k_bias"].shape == (32,)


# ------------------------------------------------------------------------------ who sees whom


def test_mask_is_by_scale():
    mask = block_causal_mask(SIZES[:2])
    assert mask.tolist() == [[True] + [False] * 4] + [[True] * 5] * 4


@torch.no_grad()
def test_a_scale_sees_itself_and_what_came_before():
    model, codes = transformer(), inputs()
    condition = model.condition(LABELS)
    before = model.teacher_forced(condition, codes)
    codes[0][:, 3] += 1  # the last token of the second scale: places 1 to 4
    change = (model.teacher_forced(condition, codes) - before).abs().amax((0, 2))
    assert not change[:1].any()
    assert (change[1:5] > 1e-5).all()  # all its own, earlier places too
    assert (change[5:] > 1e-5).all()


@torch.no_grad()
@pytest.mark.parametrize("shared", [False, True])
def test_scale_by_scale_equals_all_at_once(shared):
    """Rows of a condition by index, as drawing has them; the null class among them."""
    model, codes = transformer(shared=shared), inputs(3)
    condition, rows = model.condition(LABELS), torch.tensor([1, 0, 1])
    whole = model.teacher_forced(model.condition(LABELS[rows]), codes)
    cache, parts = model.no_past(3), []
    for k in range(3):
        x = model.embed(k, codes[k - 1] if k else condition.start[rows])
        past, cache = cache, cache.extended(x.shape[1], 21)
        # The last scale is not stored: what it sees is the same.
        where = {"into": cache} if k < 2 else {"past": past}
        parts.append(model(x, condition, rows=rows, **where))
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=2e-5)
    assert torch.cat(parts, 1).argmax(-1).equal(whole.argmax(-1))
    assert past[0][0].shape == (3, 2, 5, 16)
    fewer = model.teacher_forced(model.condition(LABELS[rows]), codes[:1])
    torch.testing.assert_close(fewer, whole[:, :5])


def test_other_numbers_of_tokens_are_refused():
    model = transformer()
    with pytest.raises(ValueError, match=r"have \[4, 9\] tokens, scales 2 to 3 \[4, 16\]"):
        model.teacher_forced(model.condition(LABELS), inputs(sizes=((1, 1), (2, 2), (3, 3))))


# ------------------------------------------------------------------------------ training's start


@pytest.mark.parametrize("shared", [False, True])
def test_fresh_weights_have_the_published_deviations(shared):
    torch.manual_seed(0)
    config = asdict(PRESETS["tiny"]().transformer) | {"width": 128, "depth": 4, "shared": shared}
    model = initialise(VARTransformer(**config), gamma=1e-3)
    std = (1 / 384) ** 0.5
    close = lambda value, want: value.std().item() == pytest.approx(want, rel=0.1)  # noqa: E731
    block = model.blocks[1]
    assert close(block.attn.mat_qkv.weight, std) and close(model.pos_1LC, std)
    assert close(model.class_emb.weight, std) and close(block.ffn.fc2.weight, std / 8**0.5)
    assert close(block.attn.proj.weight, std / 8**0.5) and close(model.head.weight, 0.02 * std)
    six = block.ada_gss[0, 0] if shared else block.ada_lin[1].weight.view(6, 128, 128)
    own = 128**-0.5 if shared else std
    assert close(six[:2], 1e-3 * own) and close(six[2:], 0.5 * own)
    assert close(model.head_nm.ada_lin[1].weight, 0.5 * std) and not model.head.bias.any()
    assert block.attn.scale_mul_1H11.exp().flatten().tolist() == pytest.approx([4.0] * 2)


def test_paths_are_dropped_in_training_alone():
    assert TRANSFORMERS["d24"].drop_path == pytest.approx(0.1)
    model = transformer(drop_path=0.5)
    assert [block.drop_path for block in model.blocks] == [0, 0.25, 0.5]
    condition, codes = model.condition(LABELS), inputs()
    torch.manual_seed(0)
    assert torch.equal(model.teacher_forced(condition, codes),
                       model.teacher_forced(condition, codes))
    model.train()
    assert not torch.equal(model.teacher_forced(condition, codes),
                           model.teacher_forced(condition, codes))
