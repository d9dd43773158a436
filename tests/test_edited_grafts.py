"""Grafts and pairs in every kind of host: what is replaced, what stays, what it computes."""

from functools import partial

import pytest
import torch
from diffusers import DiTTransformer2DModel

from impasto.models.edited.grafts import graft, inherit_
from impasto.models.edited.hosts import host_of
from impasto.models.edited.operators import PLACES
from impasto.models.edited.pairs import pair_blocks, pairs_of
from impasto.models.edited.record import apply, rebuild
from tests import tiny_hosts

HOSTS = {"dit": partial(tiny_hosts.dit, 4), "pixart": partial(tiny_hosts.pixart, 2),
         "sana": partial(tiny_hosts.sana, 2), "sd3": partial(tiny_hosts.sd3, dual=(0,)),
         "flux": partial(tiny_hosts.flux, 2, 2)}  # fmt: skip
dit, pixart, sana, sd3 = (HOSTS[name] for name in ("dit", "pixart", "sana", "sd3"))


def drawn(model):
    """One pass on noise."""
    family = next(name for name in HOSTS if type(model).__name__.lower().startswith(name))
    return tiny_hosts.output(model.eval(), family)


def randomised(model, seed=3):
    torch.manual_seed(seed)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def edit(operator, blocks=(1,), place=None, **options):
    place = place or ("mlp" if operator in PLACES["mlp"] else "attention")
    return {"edit": "graft", "place": place, "operator": operator, "blocks": list(blocks),
            "options": {"head": 4} | options if operator == "mamba-2" else options}  # fmt: skip


CASES = [(host, operator) for host in HOSTS for place, operators in PLACES.items()
         for operator in operators if not (host == "flux" and place == "attention")]  # fmt: skip


@pytest.mark.parametrize(("host", "operator"), CASES)
def test_a_graft_draws_saves_and_is_built_again(host, operator):
    if host == "flux" and operator == "mlp-hyena-x":
        with pytest.raises(ValueError, match="needs the number of tokens"):
            graft(HOSTS[host](), edit(operator))
        return
    model = randomised(HOSTS[host]())
    before = drawn(model)
    apply(model, edit(operator))
    after = drawn(model)
    assert after.shape == before.shape and after.isfinite().all()
    assert not torch.equal(after, before)
    again = type(model).from_config({k: v for k, v in model.config.items() if k != "edits"})
    rebuild(again, model.config["edits"], model.config["edits_base"])
    again.load_state_dict(model.state_dict())
    assert torch.equal(drawn(again), after)
    with torch.device("meta"):
        shapes = HOSTS[host]()
    graft(shapes, edit(operator))
    assert {k: t.shape for k, t in shapes.state_dict().items()} == {
        k: t.shape for k, t in model.state_dict().items()}  # fmt: skip
    assert all(t.is_meta for t in shapes.parameters())


def test_only_what_is_named_is_replaced():
    model = pixart()
    old = "transformer_blocks.1.attn1"
    kept = {n: m for n, m in model.named_modules() if not n.startswith(old)}
    graft(model, edit("hyena-x"))
    now = dict(model.named_modules())
    assert all(now[name] is module for name, module in kept.items())
    assert f"{old}.operator.in_proj" in now


def test_a_block_calls_its_operator_between_its_norm_and_its_gate():
    model = randomised(tiny_hosts.dit(1))
    apply(model, edit("hyena-y", [0]))
    block, x = model.transformer_blocks[0].eval(), torch.randn(2, 16, 16)
    t, label = torch.tensor([3, 3]), torch.tensor([0, 1])
    normed, gate, shift, scale, mlp_gate = block.norm1(x, t, label, hidden_dtype=x.dtype)
    y = x + gate[:, None] * block.attn1.operator(normed)
    inner = block.norm3(y) * (1 + scale[:, None]) + shift[:, None]
    y = y + mlp_gate[:, None] * block.ff(inner)
    torch.testing.assert_close(block(x, timestep=t, class_labels=label), y)


@pytest.mark.parametrize("host", ["dit", "pixart", "sd3"])
@pytest.mark.parametrize("operator", ["attention", "sliding-window", "mlp"])
def test_the_hosts_weights_in_its_own_kind_of_operator_are_the_host(host, operator):
    model = randomised(HOSTS[host]())
    before, other = drawn(model), edit(operator, [0, 1])
    if operator == "sliding-window":
        other["options"] = {"window": 15}
    places = [host_of(model).operator(i, other["place"]) for i in (0, 1)]
    old = {path: model.get_submodule(path) for path in places}
    graft(model, other)
    assert not torch.allclose(drawn(model), before, atol=1e-4)
    assert all(inherit_(model.get_submodule(path), old[path]) for path in places)
    torch.testing.assert_close(drawn(model), before, rtol=1e-4, atol=1e-4)


def test_what_is_of_another_kind_inherits_nothing():
    model = pixart()
    for operator in (edit("hyena-x"), edit("mlp", ratio=3)):
        path = host_of(model).operator(1, operator["place"])
        old = model.get_submodule(path)
        graft(model, operator)
        state = {k: t.clone() for k, t in model.state_dict().items()}
        assert not inherit_(model.get_submodule(path), old)
        assert all(torch.equal(t, state[k]) for k, t in model.state_dict().items())


def joint_inputs(model):
    torch.manual_seed(5)
    return torch.randn(2, 16, 16), torch.randn(2, 3, 16), model.transformer_blocks[1].attn


def plain_joint(attn, x, words):
    """Scores (B, H, 16 + 3, 16 + 3) and values of SD3's softmax over [image; text]."""
    def heads(a):
        return a.unflatten(-1, (2, 8)).transpose(1, 2)

    own, added = ([heads(getattr(attn, name.format(n))(a)) for n in "qkv"]
                  for name, a in (("to_{}", x), ("add_{}_proj", words)))  # fmt: skip
    q, k, v = (torch.cat(pair, 2) for pair in zip(own, added, strict=True))
    norms = ((attn.norm_q, attn.norm_added_q), (attn.norm_k, attn.norm_added_k))
    q, k = (torch.cat([image(a[:, :, :16]), text(a[:, :, 16:])], 2)
            for a, (image, text) in zip((q, k), norms, strict=True))  # fmt: skip
    return q @ k.mT / 8**0.5, v


def test_a_window_among_images_sees_all_text():
    model = randomised(sd3())
    graft(model, edit("sliding-window", window=2))
    x, words, attn = joint_inputs(model)
    scores, v = plain_joint(attn, x, words)
    i = torch.arange(19)
    far = ((i[:, None] - i).abs() > 2) & (i[:, None] < 16) & (i < 16)
    heard = (scores.masked_fill(far, -torch.inf).softmax(-1) @ v).transpose(1, 2).flatten(2)
    image, text = attn(x, encoder_hidden_states=words)
    torch.testing.assert_close(image, attn.to_out[0](heard[:, :16]))
    torch.testing.assert_close(text, attn.to_add_out(heard[:, 16:]))


def test_an_operator_among_images_hears_of_text_and_text_as_before():
    model = randomised(sd3())
    x, words, before = joint_inputs(model)
    text_before = before(x, encoder_hidden_states=words)[1]
    graft(model, edit("hyena-x"))
    attn = model.transformer_blocks[1].attn
    torch.testing.assert_close(attn.sink, torch.tensor([16.0, 16.0]).log())
    torch.nn.init.normal_(attn.sink)
    scores, v = plain_joint(attn.joint, x, words)
    of_text = scores[:, :, :16, 16:].exp()
    share = of_text / (of_text.sum(-1, keepdim=True) + attn.sink.exp()[:, None, None])
    heard = (share @ v[:, :, 16:]).transpose(1, 2).flatten(2)
    image, text = attn(x, encoder_hidden_states=words)
    torch.testing.assert_close(image, attn.operator(x) + attn.joint.to_out[0](heard))
    torch.testing.assert_close(text, text_before)


def test_the_last_block_of_sd3_and_second_attentions_can_be_grafted():
    for operator in ("hyena-x", "sliding-window", "attention"):
        model = randomised(sd3())
        apply(model, edit(operator, [3]))
        apply(model, edit(operator, [0], place="attention2"))
        assert drawn(model).isfinite().all()


def test_sana_maps_are_tokens_row_by_row():
    model = randomised(sana())
    graft(model, edit("mlp", ratio=2))
    ff, x = model.transformer_blocks[1].ff, torch.randn(2, 16, 3, 5)
    torch.testing.assert_close(ff(x), ff.operator(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@pytest.mark.parametrize(("host", "wrong", "message"), [
    ("dit", edit("hyena-x", [9]), "blocks 0 to 3"), ("dit", edit("hyena-x", [1, 1]), "different"),
    ("dit", edit("mlp", place="attention"), "does not go in the place of attention"),
    ("dit", edit("hyena-x", place="nowhere"), "unknown place 'nowhere'"),
    ("dit", edit("hyena-x", place="attention2"), "no second attention"),
    ("dit", edit("hyena-x", window=2), "unknown option 'window'"),
    ("dit", {"edit": "graft", "place": "mlp"}, "has place, operator, blocks"),
    ("flux", edit("hyena-x"), "positions are rotations"), ("flux", edit("mlp", [2]), "no MLP"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_changes(host, wrong, message):
    model = HOSTS[host]()
    modules = dict(model.named_modules())
    with pytest.raises(ValueError, match=message):
        apply(model, wrong)
    assert dict(model.named_modules()) == modules and "edits" not in model.config


@pytest.mark.parametrize("operator", ["hyena-x", "attention"])
@pytest.mark.parametrize("host", ["dit", "sd3"])
def test_a_place_is_grafted_once(host, operator):
    model = HOSTS[host]()
    apply(model, edit(operator))
    with pytest.raises(ValueError, match="already"):
        apply(model, edit("hyena-y", [0, 1]))
    assert len(model.config["edits"]) == 1


def test_grafted_attention_refuses_a_mask():
    model = pixart()
    graft(model, edit("hyena-x"))
    with pytest.raises(ValueError, match="cannot use 'attention_mask'"):
        model.transformer_blocks[1].attn1(torch.zeros(1, 4, 16), attention_mask=torch.ones(1, 4))


def pairs(*numbers):
    return {"edit": "pairs", "pairs": [list(pair) for pair in numbers]}


@pytest.mark.parametrize("host", list(HOSTS))
def test_pairs_draw_and_are_built_again(host):
    model = randomised(HOSTS[host]())
    apply(model, pairs(*pairs_of(host_of(model))))
    after = drawn(model)
    again = type(model).from_config({k: v for k, v in model.config.items() if k != "edits"})
    rebuild(again, model.config["edits"])
    again.load_state_dict(model.state_dict())
    assert after.isfinite().all() and torch.equal(drawn(again), after)


def test_a_pair_is_the_merge_of_both_blocks():
    model = randomised(sd3())
    blocks, temb = list(model.transformer_blocks), torch.ones(2, 16)
    x, words, _ = joint_inputs(model)
    apply(model, pairs([1, 2]))
    pair = model.transformer_blocks[1]
    (ta, a), (tb, b) = (block(x, words, temb) for block in blocks[1:3])
    text, image = pair(hidden_states=x, encoder_hidden_states=words, temb=temb)
    torch.testing.assert_close(image, (a + b) / 2)
    torch.testing.assert_close(text, (ta + tb) / 2)
    torch.nn.init.normal_(pair.merge_context.weight)
    text, _ = pair(x, words, temb)
    torch.testing.assert_close(text, pair.merge_context(torch.cat([ta, tb], -1)))
    nothing = model.transformer_blocks[2]
    assert not list(nothing.parameters()) and nothing(x, words, temb)[1] is x


def test_pairs_of_xl_2_add_what_the_paper_reports():
    with torch.device("meta"):
        model = DiTTransformer2DModel(num_embeds_ada_norm=1000, out_channels=8)
    before = sum(p.numel() for p in model.parameters())
    every = pairs_of(host_of(model))
    assert every == [[2 * j, 2 * j + 1] for j in range(14)]
    pair_blocks(model, pairs(*every))
    assert sum(p.numel() for p in model.parameters()) - before == 14 * 2_655_360


@pytest.mark.parametrize(("host", "wrong", "message"), [
    ("dit", pairs([0, 2]), "the next one"), ("dit", pairs([0, 1], [1, 2]), "another pair"),
    ("flux", pairs([1, 2]), "two kinds"), ("dit", pairs(), "nothing else"),
    ("dit", pairs([3, 4]), "blocks 0 to 3"),
])  # fmt: skip
def test_pairs_that_do_not_fit_are_refused(host, wrong, message):
    with pytest.raises(ValueError, match=message):
        apply(HOSTS[host](), wrong)


def test_pairs_keep_grafts_and_take_none():
    model = randomised(dit())
    apply(model, edit("hyena-x", [0, 1]))
    apply(model, pairs([0, 1]))
    assert drawn(model).isfinite().all()
    for again in (pairs([1, 2]), edit("hyena-y", [0])):
        with pytest.raises(ValueError, match="already"):
            apply(model, again)
    with pytest.raises(ValueError, match="cannot be paired"):
        pairs_of(host_of(tiny_hosts.dit(3)))
