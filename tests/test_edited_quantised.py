"""The edit "quantise": codes, bytes, what is saved and loaded, here and by diffusers."""

import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.quantizers.bitsandbytes import BnB4BitDiffusersQuantizer
from safetensors.torch import load_file, save_file
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from impasto.models.edited import quantised
from impasto.models.edited.loading import from_pretrained
from impasto.models.edited.quantisation import Quantisation, from_stock, layer_bytes
from impasto.models.edited.quantised import memory, quantise
from impasto.models.edited.record import apply, edits_of
from impasto.models.edited.weight_only import Int4Linear
from impasto.models.storage import network_from, save_network
from impasto.sample.flops import count_flops

NF4 = [-1, -0.69619, -0.52507, -0.39492, -0.28444, -0.18477, -0.09105, 0, 0.07958, 0.16093,
       0.24611, 0.33792, 0.44071, 0.56262, 0.72296, 1]  # fmt: skip
"""The levels, as published (arXiv 2305.14314, appendix E), rounded."""
WAYS = [Quantisation("nf4"), Quantisation("nf4", double=False), Quantisation("int4"),
        Quantisation("int4", group=32), Quantisation("int8"),
        Quantisation("nf4", compute="float32", skip=("norm1", "proj_out"))]  # fmt: skip
FILE = "diffusion_pytorch_model.safetensors"


def transformer(seed=0, **changed):
    """SD3's transformer, 64 wide; weights of seed, zeros of initialisation included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SD3Transformer2DModel(**{
            "sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": 2,
            "attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": 64,
            "caption_projection_dim": 64, "pooled_projection_dim": 64, "pos_embed_max_size": 8,
            "qk_norm": "rms_norm", **changed})  # fmt: skip
    return model.eval()


@torch.no_grad()
def velocity(model, dtype=torch.float32):
    made = torch.Generator().manual_seed(1)
    x, text, pooled = (torch.randn(shape, generator=made).to(dtype)
                       for shape in ((2, 4, 8, 8), (2, 5, 64), (2, 64)))  # fmt: skip
    return model(x, text, pooled, torch.tensor([10.0, 500.0]), return_dict=False)[0]


def made(how, dtype=torch.float32):
    model = nn.Module.to(transformer(), dtype)
    quantise(model, how.to_edit())
    return model


# ------------------------------------------------------------------------------ codes


def test_nf4_is_the_nearest_level_times_the_blocks_largest():
    layer = nn.Linear(96, 64)
    held = nn.Sequential(layer)
    w = layer.weight.detach().clone()
    quantise(held, Quantisation("nf4", "float32", double=False).to_edit())
    found = held(torch.eye(96)) - layer.bias
    blocks = w.flatten().view(-1, 64)
    top = blocks.abs().amax(1, keepdim=True)
    levels = torch.tensor(NF4)
    nearest = (blocks / top)[..., None].sub(levels).abs().argmin(-1)
    wanted = (levels[nearest] * top).view(64, 96)
    assert (found.t() - wanted).abs().max() < 1e-5


def test_int8_computes_what_torchao_computes():
    theirs = nn.Module.to(transformer(), torch.bfloat16)
    quantize_(theirs, Int8WeightOnlyConfig())
    ours = made(Quantisation("int8"), torch.bfloat16)
    assert torch.equal(velocity(ours, torch.bfloat16), velocity(theirs, torch.bfloat16))


def test_int4_is_sixteen_steps_from_the_least_of_a_group_to_its_largest():
    w = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    linear = nn.Linear(64, 6, bias=False)
    linear.weight = nn.Parameter(w)
    layer = Int4Linear(linear, torch.bfloat16, 32)
    groups, found = (t.float().view(6, 2, 32) for t in (w.bfloat16(), layer.weight))
    step = (groups.amax(-1) - groups.amin(-1)) / 15
    assert ((groups - found).abs().amax(-1) < 0.55 * step + 0.02).all()
    assert all(len(group.unique()) <= 16 for group in found.flatten(0, 1))
    assert layer._weight_qdata.shape == (6, 32)  # two to a byte
    first = layer._weight_qdata[0, 0].item()
    s, z = layer._weight_scale[0, 0], layer._weight_zero_point[0, 0]
    low = (first & 15) - 16 * (first & 8 > 0)
    assert found[0, 0, :2].tolist() == [float(low * s + z), float((first >> 4) * s + z)]


def test_more_bits_are_nearer():
    base = velocity(transformer())
    error = {how.format: float((velocity(made(how)) - base).norm() / base.norm())
             for how in (WAYS[1], WAYS[4])}  # fmt: skip
    assert error["int8"] < 0.03 < error["nf4"] < 0.4


# ------------------------------------------------------------------------------ bytes


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_bytes_are_those_of_the_formula_and_of_the_tensors(how, tmp_path):
    model = transformer()
    total = memory(model).total
    assert memory(model) == (0, 0, sum(t.nbytes for t in model.state_dict().values()))
    quantise(model, how.to_edit())
    found = memory(model)
    layers = quantised._packed(model).values()
    group = how.group or 64
    tables = (0 if how.format != "nf4" else 1088 if how.doubled else 64) * len(layers)
    sizes = [(layer.out_features, layer.in_features) for layer in layers]
    assert found.packed == tables + sum(layer_bytes(*size, how, group) for size in sizes)
    assert found.weights == sum(o * i for o, i in sizes)
    assert found.rest == total - 4 * found.weights  # all else is float32, as it was
    save_network(model, tmp_path, "float32")
    settings = sum(t.numel() for key, t in load_file(tmp_path / FILE).items() if "__nf4" in key)
    offsets = 4 * len(layers) * how.doubled  # stands among the settings
    assert sum(t.nbytes for t in load_file(tmp_path / FILE).values()) == (
        found.total + settings - offsets)


@pytest.mark.parametrize("how, bits", [
    (Quantisation("nf4"), 4.127), (Quantisation("nf4", double=False), 4.5),
    (Quantisation("int4", group=128), 4.25), (Quantisation("int8"), 8 + 32 / 2432),
], ids=str)  # fmt: skip
def test_bits_a_weight(how, bits):
    size = (9728, 2432)
    assert 8 * layer_bytes(*size, how, 128) / (size[0] * size[1]) == pytest.approx(bits, abs=1e-3)


def test_sd35_large_less_eight_blocks_is_3_05_gib():
    """The paper's 3.56 GB less activations (HierarchicalPrune, arXiv 2508.04663)."""
    with torch.device("meta"):
        model = SD3Transformer2DModel(
            sample_size=128, num_layers=38, attention_head_dim=64, num_attention_heads=38,
            caption_projection_dim=2432, pooled_projection_dim=2048, out_channels=16,
            pos_embed_max_size=192, qk_norm="rms_norm")  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == 8_056_627_520
    for i in (25, 26, 27, 28, 31, 32, 33, 34):
        model.transformer_blocks[i] = nn.Identity()
    whole = sum(p.numel() for p in model.parameters())
    assert whole == 6_352_630_080
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    rest = whole - sum(m.weight.numel() for m in linears)
    sizes = [(m.out_features, m.in_features) for m in linears]
    packed = sum(layer_bytes(*size, Quantisation("nf4")) + 1088 for size in sizes)
    assert (packed + 2 * rest) / 2**30 == pytest.approx(3.05, abs=0.01)


# ------------------------------------------------------------------------------ saved, loaded


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_what_is_loaded_gives_the_same_bits(how, tmp_path):
    model = made(how)
    y = velocity(model)
    save_network(model, tmp_path / "a", "float32")
    loaded = network_from(SD3Transformer2DModel, tmp_path / "a").eval()
    assert torch.equal(velocity(loaded), y)
    save_network(loaded, tmp_path / "b", "float32")
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()
    again = from_stock(dict(loaded.config["quantization_config"]))[0]
    assert (again.format, again.doubled, again.dtype) == (how.format, how.doubled, how.dtype)


@pytest.mark.parametrize("how", WAYS[1:5], ids=str)
def test_moving_to_another_dtype_leaves_the_weights(how):
    model = made(how)
    y = velocity(model)
    assert nn.Module.to(model, torch.bfloat16).dtype == torch.bfloat16
    assert velocity(model, torch.bfloat16).dtype == torch.bfloat16
    rest = transformer().state_dict()
    nn.Module.to(model, torch.float32).load_state_dict(
        {key: t for key, t in rest.items() if key in model.state_dict() and t.ndim != 2},
        strict=False)  # fmt: skip
    assert torch.equal(velocity(model), y)


def test_a_forward_changes_nothing():
    model = made(WAYS[0])
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    velocity(model)
    for key, tensor in model.state_dict().items():
        assert tensor.dtype == before[key].dtype and torch.equal(tensor, before[key]), key


@pytest.mark.parametrize("how", [WAYS[0], WAYS[2], WAYS[4]], ids=str)
def test_flops_are_those_of_the_layer(how):
    call = (torch.zeros(1, 4, 8, 8), torch.zeros(1, 5, 64), torch.zeros(1, 64), torch.zeros(1))
    assert count_flops(made(how), *call) == count_flops(transformer(), *call) > 0


def test_on_the_meta_device_there_are_no_weights_until_they_are_loaded(tmp_path):
    model = made(WAYS[0])
    quantised.save_quantised(model, tmp_path / "w.safetensors")
    with torch.device("meta"):
        empty = transformer(pos_embed_max_size=8)
    quantise(empty, WAYS[0].to_edit())
    quantised.load_quantised(empty, tmp_path / "w.safetensors")
    assert torch.equal(velocity(empty), velocity(model))


@pytest.mark.parametrize("how", [Quantisation("int8"), Quantisation("int8", skip=("proj_out",)),
                                 *WAYS[:2], Quantisation("nf4", skip=("norm1",))], ids=str)
def test_diffusers_loads_the_folder(how, tmp_path, monkeypatch):
    """NF4: it refuses to without a GPU, where its loader is no other."""
    monkeypatch.setattr(BnB4BitDiffusersQuantizer, "validate_environment", lambda *_, **__: None)
    model = made(how, torch.bfloat16)
    save_network(model, tmp_path / "ours", "bfloat16")
    where = {"device_map": {"": "cpu"}} if how.format == "nf4" else {}
    theirs = SD3Transformer2DModel.from_pretrained(tmp_path / "ours", torch_dtype=torch.bfloat16,
                                                   **where).eval()  # fmt: skip
    for module in theirs.modules():
        module.support_avx512bf16_for_cpu = False  # other products than all other devices have
    bf16 = torch.bfloat16
    assert torch.equal(velocity(theirs, bf16), velocity(model, bf16))
    theirs.save_pretrained(tmp_path / "theirs")
    saved, again = (load_file(tmp_path / name / FILE) for name in ("ours", "theirs"))
    assert set(saved) == set(again)
    assert all(torch.equal(saved[key], again[key]) for key in saved)


def test_changed_weights_are_what_is_quantised(tmp_path):
    """The published evaluation quantised the model as it was before distillation."""
    model = transformer()
    save_network(model, tmp_path / "base", "float32")
    with torch.no_grad():
        for linear in quantised._linears(model).values():
            linear.weight.neg_()
    save_network(model, tmp_path / "distilled", "float32")
    codes = {}
    for name in ("base", "distilled"):
        loaded = network_from(SD3Transformer2DModel, tmp_path / name)
        quantise(loaded, WAYS[4].to_edit())
        save_network(loaded, tmp_path / f"{name}-int8", "float32")
        again = network_from(SD3Transformer2DModel, tmp_path / f"{name}-int8")
        codes[name] = again.transformer_blocks[0].ff.net[2]._weight_qdata
    assert codes["base"].any()
    assert (codes["distilled"].int() + codes["base"]).abs().max() <= 1  # 127 has no -128


def test_edits_stack(tmp_path):
    """Blocks removed, an operator grafted, quantised: one folder, the same bits."""
    model = transformer(num_layers=4)
    for values in ({"edit": "remove", "removed": {"2": ["all"], "1": ["ff", "w_norm1_context"]}},
                   {"edit": "graft", "place": "mlp", "operator": "mlp", "options": {"ratio": 3},
                    "blocks": [3]}, WAYS[0].to_edit()):  # fmt: skip
        apply(model, values)
    save_network(model, tmp_path, "float32")
    loaded = from_pretrained(tmp_path)
    assert [values["edit"] for values in edits_of(loaded)] == ["remove", "graft", "quantise"]
    assert torch.equal(velocity(loaded), velocity(model))
    left = [path for path, m in loaded.named_modules() if type(m) is nn.Linear]
    assert left == [] and memory(loaded) == memory(model)


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("edit, message", [
    ({"format": "nf5"}, "unknown format 'nf5'.*'nf4'"),
    ({"format": "int8", "options": {"double": True}}, "'double' is an option of nf4, not of int8"),
    ({"format": "nf4", "options": {"group": 64}}, "'group' is an option of int4"),
    ({"format": "int4", "options": {"group": 48}}, r"group must be one of \(128, 64, 32\)"),
    ({"format": "int8", "options": {"compute": "float16"}}, "bfloat16 only, given float16"),
    ({"format": "nf4", "options": {"compute": "int8"}}, "dtype must be one of"),
    ({"format": "nf4", "options": {"block": 64}}, "unknown option 'block'"),
    ({"format": "nf4", "options": {"skip": ["norm7"]}}, "no linear layer has 'norm7'.*norm1"),
    ({"format": "int4", "options": {"group": 128}}, "has 64 inputs, which it does not divide"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(edit, message):
    with pytest.raises(ValueError, match=message):
        quantise(transformer(), {"edit": "quantise", **edit})


def test_nothing_is_edited_once_it_is_quantised():
    model = transformer()
    apply(model, WAYS[0].to_edit())
    before = dict(model.config)
    for change in ({"edit": "graft", "place": "attention", "operator": "hyena-x", "blocks": [0]},
                   {"edit": "remove", "removed": {"0": ["all"]}}, WAYS[0].to_edit()):
        with pytest.raises(ValueError, match="quantised already; give what it was made of, and"):
            apply(model, change)
    assert dict(model.config) == before


def test_a_model_is_quantised_once():
    model = made(WAYS[4])
    with pytest.raises(ValueError, match="quantised already"):
        quantise(model, WAYS[0].to_edit())


def test_infinite_weights_are_refused_by_name():
    model = transformer()
    model.proj_out.weight.data[0, 0] = torch.inf
    with pytest.raises(ValueError, match="'proj_out' holds NaN or infinity"):
        quantise(model, WAYS[0].to_edit())


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(quantised, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"nf4 needs bitsandbytes: .*impasto\[quantise\]"):
        quantise(transformer(), WAYS[0].to_edit())


def test_a_library_that_does_not_load_is_named(monkeypatch, tmp_path):
    (tmp_path / "broken_library.py").write_text("raise ImportError('no kernels for this torch')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(quantised.FORMATS, "nf4", "broken_library")
    model = transformer()
    with pytest.raises(ValueError, match=r"not load .no kernels for this torch.: pip install -U"):
        quantise(model, {"edit": "quantise", "format": "nf4"})
    assert not quantised.is_quantised(model)


def broken(key, tensor):
    def change(state):
        state[key] = tensor
    return change


@pytest.mark.parametrize("how, change, message", [
    (WAYS[0], lambda s: s.pop("proj_out.weight.absmax"), "'proj_out'.*quant state"),
    (WAYS[0], lambda s: s.pop("proj_out.weight"), "'proj_out'.*'weight'"),
    (WAYS[0], broken("proj_out.weight", torch.zeros(5, 1, dtype=torch.uint8)), "_out'.*wanted"),
    (WAYS[4], lambda s: s.pop("proj_out._weight_scale"), "there is no _weight_scale"),
    (WAYS[4], broken("proj_out._weight_scale", torch.ones(1, 1)), r"is \(1, 1\)"),
    (WAYS[4], broken("new", torch.ones(1)), "unexpected keys 'new'"),
    (WAYS[4], lambda s: s.pop("proj_out.bias"), "missing keys 'proj_out.bias'"),
])  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(how, change, message, tmp_path):
    save_network(made(how), tmp_path, "float32")
    state = load_file(tmp_path / FILE)
    change(state)
    save_file(state, tmp_path / FILE)
    with pytest.raises(ValueError, match=message):
        network_from(SD3Transformer2DModel, tmp_path)


def test_another_librarys_folder_is_refused():
    with pytest.raises(ValueError, match="quantised by 'quanto' : allowed are nf4, int4, int8"):
        from_stock({"quant_method": "quanto", "weights_dtype": "int8"})
