"""Official DiT checkpoints, grafted in every way: our folder computes what their equations say."""

import argparse
import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel

from impasto.models.edited.convert import grafts_in, official_dit
from impasto.models.edited.loading import from_pretrained
from impasto.models.edited.operators import build_operator
from impasto.models.edited.record import apply, edits_of
from impasto.zoo.convert import convert
from tests.converted import file, known_to_the_command_line, refused

D, DEPTH, SIDE, CLASSES = 64, 3, 4, 5

# Names and shapes of a grafted part as published, with D for 1152.
PARTS = {
    "hyena-se": {"in_proj.weight": (3 * D, D), "in_proj.bias": (3 * D,), "out_proj.weight": (D, D),
                 "out_proj.bias": (D,), "short_filter.weight": (3 * D, 1, 4),
                 "short_filter.bias": (3 * D,), "inner_filter.weight": (D, 1, 4),
                 "inner_filter.bias": (D,)},
    "sliding-window": {"Wqkv.weight": (3 * D, D), "Wqkv.bias": (3 * D,),
                       "out_proj.weight": (D, D), "out_proj.bias": (D,)},
    "mamba-2": {"in_proj.weight": (4 * D + 128 + 8, D), "conv1d.weight": (2 * D + 128, 1, 4),
                "conv1d.bias": (2 * D + 128,), "dt_bias": (8,), "A_log": (8,), "D": (8,),
                "norm.weight": (2 * D,), "out_proj.weight": (D, 2 * D)},
    "mlp": {"fc1.weight": (3 * D, D), "fc1.bias": (3 * D,), "fc2.weight": (D, 3 * D),
            "fc2.bias": (D,)},
    "mlp-hyena-x": {"in_proj.weight": (6 * D, D), "in_proj.bias": (6 * D,),
                    "out_proj.weight": (D, 2 * D), "out_proj.bias": (D,),
                    "short_filter.weight": (SIDE**2, 1, 4), "short_filter.bias": (SIDE**2,)},
}  # fmt: skip
PARTS["hyena-x"] = {k: v for k, v in PARTS["hyena-se"].items() if not k.startswith("inner")}
PARTS["hyena-y"] = {k: v for k, v in PARTS["hyena-se"].items() if not k.startswith("short")}
OPTIONS = {"mlp": {"ratio": 3}, "mlp-hyena-x": {"ratio": 2, "taps": 4},
           "sliding-window": {"window": 4},
           "mamba-2": {"state": 64, "expand": 2, "head": 16, "taps": 4}}  # fmt: skip


def table(d, side):
    """Sines and cosines of the column, then of the row: (side^2, d)."""
    omega = 10000 ** -(torch.arange(d // 4, dtype=torch.float64) / (d / 4))
    row, column = torch.meshgrid(*[torch.arange(side, dtype=torch.float64)] * 2, indexing="ij")
    parts = [f(place.flatten()[:, None] * omega) for place in (column, row)
             for f in (torch.sin, torch.cos)]  # fmt: skip
    return torch.cat(parts, 1).float()


def official(graft=None, seed=0):
    """Random tensors of an official DiT under their names; graft: (block, operator)."""
    g = torch.Generator().manual_seed(seed)
    shapes = {"x_embedder.proj.weight": (D, 4, 2, 2), "x_embedder.proj.bias": (D,),
              "t_embedder.mlp.0.weight": (D, 256), "t_embedder.mlp.0.bias": (D,),
              "t_embedder.mlp.2.weight": (D, D), "t_embedder.mlp.2.bias": (D,),
              "y_embedder.embedding_table.weight": (CLASSES + 1, D),
              "final_layer.linear.weight": (32, D), "final_layer.linear.bias": (32,),
              "final_layer.adaLN_modulation.1.weight": (2 * D, D),
              "final_layer.adaLN_modulation.1.bias": (2 * D,)}  # fmt: skip
    for i in range(DEPTH):
        own = {"attn.qkv.weight": (3 * D, D), "attn.qkv.bias": (3 * D,),
               "attn.proj.weight": (D, D), "attn.proj.bias": (D,),
               "mlp.fc1.weight": (4 * D, D), "mlp.fc1.bias": (4 * D,),
               "mlp.fc2.weight": (D, 4 * D), "mlp.fc2.bias": (D,),
               "adaLN_modulation.1.weight": (6 * D, D),
               "adaLN_modulation.1.bias": (6 * D,)}  # fmt: skip
        if graft is not None and graft[0] == i:
            place = "mlp" if graft[1].startswith("mlp") else "attn"
            own = {k: v for k, v in own.items() if not k.startswith(place)}
            own |= {f"{place}.{k}": v for k, v in PARTS[graft[1]].items()}
        shapes |= {f"blocks.{i}.{k}": v for k, v in own.items()}
    made = {k: 0.2 * torch.randn(v, generator=g) for k, v in shapes.items()}
    return made | {"pos_embed": table(D, SIDE)[None]}


def linear(w, name, x):
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def normed(x, shift, scale):
    mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (var + 1e-6).sqrt() * (1 + scale[:, None]) + shift[:, None]


def mixed(w, at, x, graft):
    """A block's attention: the official softmax, or one of our operators with these weights."""
    if graft is None:
        q, k, v = linear(w, f"{at}.attn.qkv", x)[..., None, :].unflatten(-1, (3, 1, D)).unbind(-3)
        q, k, v = (a.flatten(-3) for a in (q, k, v))
        return linear(w, f"{at}.attn.proj", (q @ k.mT / D**0.5).softmax(-1) @ v)
    return grafted(w, f"{at}.attn.", x, graft)


def grafted(w, start, x, name):
    operator = build_operator(name, width=D, heads=1, tokens=SIDE**2, options=OPTIONS.get(name))
    own = {k.removeprefix(start): v for k, v in w.items() if k.startswith(start)}
    if name == "sliding-window":
        q, k, v = linear(own, "Wqkv", x).chunk(3, -1)
        i = torch.arange(SIDE**2)
        far = (i[:, None] - i).abs() > 4
        a = (q @ k.mT / D**0.5).masked_fill(far, -torch.inf).softmax(-1)
        return linear(own, "out_proj", a @ v)
    operator.load_state_dict(own)
    return operator(x)


@torch.no_grad()
def dit(w, z, t, y, graft=None):
    """DiT's own equations (Peebles & Xie 2023, figure 3) over official tensors."""
    patches = F.conv2d(z, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=2)
    x = patches.flatten(2).mT + w["pos_embed"]
    f = torch.exp(-math.log(10000) * torch.arange(128) / 128) * t[:, None]
    f = linear(w, "t_embedder.mlp.0", torch.cat([f.cos(), f.sin()], 1))
    label = w["y_embedder.embedding_table.weight"][y]
    c = F.silu(linear(w, "t_embedder.mlp.2", F.silu(f)) + label)
    for i in range(DEPTH):
        at, own = f"blocks.{i}", graft[1] if graft and graft[0] == i else None
        modulation = linear(w, f"{at}.adaLN_modulation.1", c).chunk(6, 1)
        shift, scale, gate, mshift, mscale, mgate = modulation
        mixer, mlp = (None, own) if own and own.startswith("mlp") else (own, None)
        x = x + gate[:, None] * mixed(w, at, normed(x, shift, scale), mixer)
        u = normed(x, mshift, mscale)
        if mlp:
            u = grafted(w, f"{at}.mlp.", u, mlp)
        else:
            u = F.gelu(linear(w, f"{at}.mlp.fc1", u), approximate="tanh")
            u = linear(w, f"{at}.mlp.fc2", u)
        x = x + mgate[:, None] * u
    shift, scale = linear(w, "final_layer.adaLN_modulation.1", c).chunk(2, 1)
    out = linear(w, "final_layer.linear", normed(x, shift, scale))
    out = out.view(-1, SIDE, SIDE, 2, 2, 8).permute(0, 5, 1, 3, 2, 4)
    return out.reshape(-1, 8, 2 * SIDE, 2 * SIDE)


def noised(seed=1):
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return z, torch.tensor([3, 901]), torch.tensor([1, CLASSES])


CASES = [None, *((1, name) for name in PARTS)]


@pytest.mark.parametrize("graft", CASES, ids=lambda g: g and g[1])
def test_a_converted_checkpoint_computes_the_official_equations(graft, tmp_path):
    w = official(graft)
    checkpoint = {"ema": w, "model": official(graft, 9), "args": argparse.Namespace(lr=1e-4)}
    report = convert(file(tmp_path, checkpoint), "grafting", tmp_path / "out")
    assert not report.missing and not report.unexpected and report.dropped == ("pos_embed",)
    assert len(report.split["t_embedder.mlp.0.weight"]) == DEPTH
    model = from_pretrained(tmp_path / "out")
    assert type(model) is DiTTransformer2DModel
    found = [edit for edit in edits_of(model) if edit["edit"] == "graft"]
    if graft:
        assert [(edit["operator"], edit["blocks"]) for edit in found] == [(graft[1], [1])]
        assert found[0]["options"] == OPTIONS.get(graft[1], {"taps": 4})
    z, t, y = noised()
    with torch.no_grad():
        ours = model(z, t, y).sample
    torch.testing.assert_close(ours, dit(w, z, t, y, graft), rtol=1e-4, atol=1e-4)
    back = official_dit(model)
    assert set(back) == set(w)
    assert all(torch.equal(back[key], w[key]) for key in w if key != "pos_embed")
    torch.testing.assert_close(back["pos_embed"], w["pos_embed"], rtol=0, atol=1e-6)


def test_the_official_time_is_not_that_of_diffusers(tmp_path):
    w = official()
    convert(file(tmp_path, w), "grafting", tmp_path / "out")
    model = DiTTransformer2DModel.from_pretrained(tmp_path / "out").eval()
    z, t, y = noised()
    with torch.no_grad():
        off = (model(z, t, y).sample - dit(w, z, t, y)).abs().max()
    assert off > 0.1
    with pytest.raises(ValueError, match="diffusers' frequencies"):
        official_dit(model)


def test_different_grafts_in_different_blocks():
    w = official((0, "hyena-x"))
    for i, operator in ((1, "hyena-y"), (2, "hyena-x")):
        other = official((i, operator))
        w = {k: v for k, v in w.items() if not k.startswith(f"blocks.{i}.")} | {
            k: v for k, v in other.items() if k.startswith(f"blocks.{i}.")}  # fmt: skip
    assert [(edit["operator"], edit["blocks"]) for edit in grafts_in(w)] == [
        ("hyena-x", [0, 2]), ("hyena-y", [1])]  # fmt: skip


def test_xl_2_is_found_from_its_shapes():
    with torch.device("meta"):
        model = DiTTransformer2DModel(num_embeds_ada_norm=1000, out_channels=8)
        apply(model, {"edit": "timesteps", "downscale_freq_shift": 0})
        apply(model, {"edit": "graft", "place": "attention", "operator": "mamba-2",
                      "options": {}, "blocks": [1, 3]})  # fmt: skip
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes["transformer_blocks.1.attn1.operator.in_proj.weight"] == (4880, 1152)
    assert shapes["transformer_blocks.1.attn1.operator.conv1d.weight"] == (2432, 1, 4)
    assert shapes["transformer_blocks.1.attn1.operator.norm.weight"] == (2304,)


@pytest.mark.parametrize(("change", "message"), [
    ({"blocks.1.attn.qkv.bias": None}, "1 missing|missing keys"),
    ({"blocks.1.extra": torch.zeros(2)}, "unexpected keys: 'blocks.1.extra'"),
    ({"pos_embed": torch.zeros(1, 16, D)}, "not the sine and cosine table"),
    ({"blocks.1.attn.qkv.weight": None}, "block 1: an attention with"),
    ({"blocks.1.mlp.fc1.bias": torch.zeros(7)}, "has shape"),
    ({"x_embedder.proj.weight": None}, "no tensor 'x_embedder"),
])  # fmt: skip
def test_another_models_tensors_are_refused(change, message, tmp_path):
    w = official() | change
    refused({k: v for k, v in w.items() if v is not None}, "grafting", tmp_path, message)


def test_trained_copies_have_no_official_form(tmp_path):
    convert(file(tmp_path, official()), "grafting", tmp_path / "out")
    model = from_pretrained(tmp_path / "out")
    torch.nn.init.zeros_(model.transformer_blocks[2].norm1.emb.timestep_embedder.linear_1.bias)
    with pytest.raises(ValueError, match=r"different t_embedder\.mlp\.0\.bias"):
        official_dit(model)


def test_other_hosts_have_no_official_time():
    from tests.tiny_hosts import pixart

    with pytest.raises(ValueError, match="for a DiT"):
        apply(pixart(), {"edit": "timesteps", "downscale_freq_shift": 0})
    with pytest.raises(ValueError, match="0 or 1"):
        apply(pixart(), {"edit": "timesteps", "downscale_freq_shift": 2})


def test_the_command_line_knows_it(tmp_path):
    known_to_the_command_line(official((0, "hyena-x")), "grafting", tmp_path)
