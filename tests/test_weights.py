"""Weight files: what int8 loses, that nothing else is lost, and what is refused."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import nn

from impasto.zoo.weights import (
    FORMATS,
    dequantise,
    load_state,
    load_weights,
    lossless_format,
    quantise,
    save_weights,
)


def network():
    torch.manual_seed(0)
    layers = nn.Linear(64, 128), nn.LayerNorm(128), nn.Conv2d(16, 32, 3), nn.Linear(4, 4)
    return nn.Sequential(*layers)


def test_error_is_at_most_half_a_step():
    w = torch.randn(300, 40, 3) * torch.logspace(-6, 3, 300)[:, None, None]
    q, scale = quantise(w)
    assert q.dtype == torch.int8 and scale.shape == (300, 1, 1)
    assert ((w - dequantise(q, scale)).abs() <= scale.float() * 0.5 * (1 + 1e-5)).all()
    assert (q.abs().amax((1, 2)) == 127).all()  # the whole range is used


def test_quantising_again_changes_nothing():
    q, scale = quantise(torch.randn(500, 70))
    again, same = quantise(dequantise(q, scale))
    assert torch.equal(q, again) and torch.equal(scale, same)


def test_zero_rows_stay_zero():
    w = torch.zeros(70, 70)
    w[3] = 1e-42  # too small for a scale
    q, scale = quantise(w)
    assert not dequantise(q, scale).any()


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_saved_is_loaded(tmp_path, format):
    source, target = network(), network()
    path = tmp_path / "model.safetensors"
    save_weights(path, source.state_dict(), format)
    load_weights(target, path)
    for key, w in source.state_dict().items():
        got, bfloat = target.state_dict()[key], w.bfloat16().float()
        large = key in ("0.weight", "2.weight")
        want = {"float32": w, "bfloat16": bfloat,
                "int8": dequantise(*quantise(w)) if large else bfloat}[format]  # fmt: skip
        assert torch.equal(got, want), key
    first = path.read_bytes()
    for _ in range(8):  # safetensors itself writes its metadata in random order
        save_weights(path, target.state_dict(), format)
        assert path.read_bytes() == first


@pytest.mark.parametrize("format", FORMATS)
def test_the_lossless_format_is_that_of_what_was_read(tmp_path, format):
    made, path = network(), tmp_path / "model.safetensors"
    save_weights(path, made.state_dict(), format)
    load_weights(made, path)
    assert lossless_format(made.state_dict()) == format
    with torch.no_grad():
        made[3].bias[0] = 1 / 3  # too small to be turned to int8, too fine for bfloat16
    assert lossless_format(made.state_dict()) == "float32"


def test_int8_file_says_so_and_is_small(tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(path, {"w": torch.randn(256, 256), "b": torch.randn(256)}, "int8")
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "quantisation": "int8-per-channel"}
        assert sorted(file.keys()) == ["b", "w", "w.scale"]
        assert file.get_tensor("w").dtype == torch.int8
    assert path.stat().st_size < 256 * 256 + 2 * 512 + 512


def test_layers_that_are_called_scale_are_left_alone(tmp_path):
    state = {"norm.scale": torch.randn(8), "norm": torch.randn(8)}
    save_weights(tmp_path / "w.safetensors", state, "int8")
    assert set(load_state(tmp_path / "w.safetensors")) == set(state)


@pytest.mark.parametrize("change, message", [
    (lambda s: s.pop("1.weight"), r"missing keys \['1.weight'\], unexpected keys \[\]"),
    (lambda s: s.update(extra=torch.zeros(2)), r"unexpected keys \['extra'\]"),
    (lambda s: s.update({"0.bias": torch.zeros(3)}), r"'0.bias' has shape \(3,\), .*\(128,\)"),
    (lambda s: s.update({"0.bias": torch.full((128,), torch.nan)}), "'0.bias' holds NaN"),
])  # fmt: skip
def test_misfits_are_refused_by_name(tmp_path, change, message):
    state = network().state_dict()
    change(state)
    save_file(dict(state), tmp_path / "w.safetensors")
    target = network()
    with pytest.raises(ValueError, match=message):
        load_weights(target, tmp_path / "w.safetensors")
    before = network().state_dict()
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_nan_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="'w' holds NaN or infinity"):
        save_weights(tmp_path / "w.safetensors", {"w": torch.tensor([torch.inf])}, "float32")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="allowed: float32, bfloat16, int8"):
        save_weights(tmp_path / "w.safetensors", {}, "int4")


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"w": torch.randn(100, 100)}, "int8")
    whole = path.read_bytes()
    tensors = load(whole)
    for data in (whole[:-100], whole[:4], b""):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"w\.safetensors is not a whole safetensors file"):
            load_state(path)
    save_file({"w": tensors["w"]}, path, {"quantisation": "int8-per-channel"})
    with pytest.raises(ValueError, match=r"no scale per output channel under 'w\.scale'"):
        load_state(path)
    save_file(tensors, path, {"quantisation": "nf4"})
    with pytest.raises(ValueError, match="unknown quantisation 'nf4'"):
        load_state(path)
