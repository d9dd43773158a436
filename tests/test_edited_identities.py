"""What stands in for removed parts: block outputs against the formulas, computed here from the
original block's own layers."""

import copy

import pytest
import torch
import torch.nn.functional as F

from impasto.models.edited.hosts import host_of, parameters
from impasto.models.edited.identities import identities, is_removed, remove
from tests.tiny_hosts import WIDTH, inputs, output, tiny


def edited(model, removed):
    new = copy.deepcopy(model)
    remove(new, {"edit": "remove", "removed": removed})
    return new


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, C, TEMB = noise(2, 16, WIDTH), noise(2, 5, WIDTH, seed=1), noise(2, WIDTH, seed=2)


def modulation(norm, x, gone, parts):
    """The modulated x and (gate, shift, scale, gate) of it, from a block's own linear layer."""
    plain = x if gone in ("norm1", "norm1_context") else F.layer_norm(x, (WIDTH,), eps=1e-6)
    if gone:
        one, zero = torch.ones(2, 1, 1), torch.zeros(2, 1, 1)
        return plain, [one, zero, zero, one], plain, one
    chunks = norm.linear(F.silu(TEMB))[:, None].chunk(parts, 2)
    shift, scale, *rest = chunks
    second = plain * (1 + chunks[7]) + chunks[6] if parts == 9 else None
    return plain * (1 + scale) + shift, rest[:4], second, chunks[-1]


def joint(block, removed=(), **rope):
    """An MMDiT block's (text, image) by the equations, of X and C."""
    def named(name):
        return next((r for r in removed if r in (name, f"w_{name}")), None)

    dual = getattr(block, "attn2", None) is not None
    ends = getattr(block, "context_pre_only", False)
    x1, (g1, b, s, g2), x2, g3 = modulation(block.norm1, X, named("norm1"), 9 if dual else 6)
    if ends:
        c1 = F.layer_norm(C, (WIDTH,), eps=1e-6)
        if named("norm1_context") == "norm1_context":
            c1 = C
        elif not named("norm1_context"):
            scale, shift = block.norm1_context.linear(F.silu(TEMB))[:, None].chunk(2, 2)
            c1 = c1 * (1 + scale) + shift
    else:
        c1, (h1, cb, cs, h2), *_ = modulation(block.norm1_context, C, named("norm1_context"), 6)
    a, ca = (x1, c1) if "attn" in removed else block.attn(x1, c1, **rope)
    x = X + g1 * a
    if dual:
        x = x + g3 * (x2 if "attn" in removed else block.attn2(x2))
    y = F.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + s) + b
    x = x + g2 * (y if "ff" in removed else block.ff(y))
    if ends:
        return None, x
    c = C + h1 * ca
    z = F.layer_norm(c, (WIDTH,), eps=1e-6) * (1 + cs) + cb
    return c + h2 * (z if "ff_context" in removed else block.ff_context(z)), x


def close(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


SETS = [(), ("attn",), ("ff",), ("ff_context",), ("w_norm1",), ("w_norm1_context",), ("norm1",),
        ("norm1_context",), ("attn", "ff"), ("w_norm1", "attn"),
        ("w_norm1", "w_norm1_context", "attn", "ff", "ff_context")]  # fmt: skip
JOINT = [("sd3", 0), ("sd3", 1), ("sd3", 3), ("flux", 0)]  # plain, dual attention, the last


@torch.no_grad()
@pytest.mark.parametrize("removed", SETS, ids="+".join)
@pytest.mark.parametrize("family, i", JOINT)
def test_joint_blocks(family, i, removed):
    model = tiny(family)
    rope = {"image_rotary_emb": (torch.rand(21, 8), torch.rand(21, 8))} if family == "flux" else {}
    block = host_of(model).block(i)
    new = host_of(edited(model, {i: list(removed)}) if removed else model).block(i)
    wanted = joint(block, removed, **rope)
    close(new(hidden_states=X, encoder_hidden_states=C, temb=TEMB, **rope), wanted)
    if i == 3 and removed == ("ff_context",):
        close(wanted, joint(block))  # there is none: nothing changes
    elif removed:
        assert not torch.allclose(wanted[1], joint(block, **rope)[1], atol=1e-3) or (
            not torch.allclose(wanted[0], joint(block, **rope)[0], atol=1e-3))


@torch.no_grad()
@pytest.mark.parametrize("removed", [
    (), ("w_norm",), ("attn",), ("proj_mlp_out",), ("attn", "proj_mlp_out"),
    ("w_norm", "proj_mlp_out"), ("w_norm", "attn"),
], ids="+".join)  # fmt: skip
def test_single_blocks(removed):
    model = tiny("flux")
    block = host_of(model).block(2)
    new = host_of(edited(model, {2: list(removed)}) if removed else model).block(2)
    joined = torch.cat([C, X], 1)
    shift, scale, gate = block.norm.linear(F.silu(TEMB))[:, None].chunk(3, 2)
    normed = F.layer_norm(joined, (WIDTH,), eps=1e-6)
    normed = normed if "w_norm" in removed else normed * (1 + scale) + shift
    a = normed if "attn" in removed else block.attn(normed)
    if "proj_mlp_out" in removed:
        # As released: both layers pass on what they get, and the first D features are kept.
        out = torch.cat([a, F.gelu(normed, approximate="tanh")], 2)[..., :WIDTH]
    else:
        out = block.proj_out(torch.cat([a, F.gelu(block.proj_mlp(normed), approximate="tanh")], 2))
    wanted = joined + (1 if "w_norm" in removed else gate) * out
    close(new(hidden_states=X, encoder_hidden_states=C, temb=TEMB), (wanted[:, :5], wanted[:, 5:]))


@torch.no_grad()
@pytest.mark.parametrize("family", ["pixart", "sana"])
@pytest.mark.parametrize("removed", [("attn",), ("ff",)], ids="+".join)
def test_image_blocks_with_tables(family, removed):
    """PixArt's and SANA's block: x += gate a; x += cross(x); x += gate ff; one table of six."""
    model, t = tiny(family), noise(2, 6 * WIDTH, seed=3)
    block = host_of(model).block(1)
    new = host_of(edited(model, {1: list(removed)})).block(1)
    b1, s1, g1, b2, s2, g2 = (block.scale_shift_table[None] + t.reshape(2, 6, -1)).chunk(6, 1)
    y = F.layer_norm(X, (WIDTH,), eps=1e-6) * (1 + s1) + b1
    x = X + g1 * (y if "attn" in removed else block.attn1(y))
    x = x + block.attn2(x, encoder_hidden_states=C)
    y = F.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + s2) + b2
    size = {"height": 4, "width": 4} if family == "sana" else {}
    if "ff" in removed:
        x = x + g2 * y
    elif size:
        grid = block.ff(y.unflatten(1, (4, 4)).permute(0, 3, 1, 2))
        x = x + g2 * grid.flatten(2).transpose(1, 2)
    else:
        x = x + g2 * block.ff(y)
    close([new(X, encoder_hidden_states=C, timestep=t, **size)], [x])


@torch.no_grad()
@pytest.mark.parametrize("removed", [("attn",), ("ff",), ("w_norm1",)], ids="+".join)
def test_dit_blocks(removed):
    model, t = tiny("dit"), torch.tensor([3, 7])
    block = host_of(model).block(0)
    new = host_of(edited(model, {0: list(removed)})).block(0)
    emb = block.norm1.linear(F.silu(block.norm1.emb(t, t, hidden_dtype=torch.float32)))[:, None]
    b1, s1, g1, b2, s2, g2 = [v * ("w_norm1" not in removed) for v in emb.chunk(6, 2)]
    if "w_norm1" in removed:
        g1, g2 = torch.ones(2, 1, 1), torch.ones(2, 1, 1)
    y = F.layer_norm(X, (WIDTH,), eps=1e-6) * (1 + s1) + b1
    x = X + g1 * (y if "attn" in removed else block.attn1(y))
    y = F.layer_norm(x, (WIDTH,), eps=1e-5) * (1 + s2) + b2
    close([new(X, timestep=t, class_labels=t)], [x + g2 * (y if "ff" in removed else block.ff(y))])


@torch.no_grad()
@pytest.mark.parametrize("family, i", [
    ("sd3", 0), ("sd3", 1), ("sd3", 3), ("flux", 1), ("flux", 3), ("pixart", 0), ("dit", 2),
    ("sana", 1),
])  # fmt: skip
def test_a_whole_block_passes_on_what_it_gets(family, i):
    """The model's output is that of the model whose loop never calls the block."""
    model = tiny(family)
    new = edited(model, {i: ["all"]})
    host = host_of(model)
    assert parameters(new) == parameters(model) - host.count(i, "all")
    name, _, at = host.path(i).partition(".")
    skipped = copy.deepcopy(model)
    del getattr(skipped, name)[int(at)]
    assert torch.equal(output(new, family), output(skipped, family))
    assert not torch.allclose(output(new, family), output(model, family), atol=1e-3)


def test_the_first_block_of_a_dit_leaves_its_embedding():
    model = tiny("dit")
    for component in ("all", "w_norm1"):
        new = edited(model, {0: [component]})
        assert parameters(new) == parameters(model) - host_of(model).count(0, component)
        assert torch.isfinite(output(new, "dit")).all()
        kept = {key for key in new.state_dict() if key.startswith("transformer_blocks.0.norm1")}
        assert kept == {key for key in model.state_dict()
                        if key.startswith("transformer_blocks.0.norm1.emb.")}  # fmt: skip


@pytest.mark.parametrize("family", ["sd3", "flux", "pixart", "dit", "sana"])
def test_counts_are_what_removal_takes(family):
    model = tiny(family)
    host = host_of(model)
    for i in range(host.depth):
        for component in host.components(i):
            new = edited(model, {i: [component]})
            assert parameters(model) - parameters(new) == host.count(i, component) > 0
            assert host_of(new).family is host.family and not set(
                new.state_dict()) - set(model.state_dict())  # fmt: skip


def test_gradients_pass_with_checkpointing():
    model = edited(tiny("sd3"), {0: ["all"], 1: ["attn", "w_norm1"]}).train()
    model.enable_gradient_checkpointing()
    model(**inputs("sd3")).sample.square().mean().backward()
    assert all(p.grad is not None for p in model.transformer_blocks[1].ff.parameters())


@pytest.mark.parametrize("removed, message", [
    ({9: ["all"]}, "no block 9: this SD3 transformer has blocks 0 to 3"),
    ({"-1": ["all"]}, "a block is a number, given '-1'"),
    ({0: ["mlp"]}, r"no component 'mlp'; allowed: all, w_norm1, w_norm1_context, attn, ff, ff_c"),
    ({0: ["all", "ff"]}, "'all' leaves no other component"),
    ({0: ["ff", "ff"]}, r"transformer_blocks.0.ff is to be removed twice"),
    ({0: ["norm1", "w_norm1"]}, r"transformer_blocks.0.norm1 is to be removed twice"),
    ({0: "ff"}, "must be a list of components"), ({}, "'removed': "),
    ({i: ["all"] for i in range(4)}, "all 4 blocks would be removed; leave at least one"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_and_changes_nothing(removed, message):
    model = tiny("sd3")
    before = str(model)
    with pytest.raises(ValueError, match=message):
        remove(model, {"removed": removed | ({1: ["ff"]} if 0 in removed and 1 not in removed
                                             else {})})  # fmt: skip
    assert str(model) == before


def test_nothing_is_removed_twice():
    model = edited(tiny("sd3"), {0: ["all"], 1: ["ff"]})
    assert is_removed(model.transformer_blocks[0])
    for i, component in ((0, "ff"), (0, "all"), (1, "ff")):
        with pytest.raises(ValueError, match="is removed already"):
            identities(host_of(model), i, component)
    with pytest.raises(ValueError, match="all 4 blocks would be removed"):
        remove(model, {"removed": {i: ["all"] for i in (1, 2, 3)}})
