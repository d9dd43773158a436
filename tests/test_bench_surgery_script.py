"""The benchmark of surgery: its low-bit layers, and that it runs to its end on a processor."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from impasto.models.edited.nf4 import NF4Linear

BENCHMARKS = str(Path(__file__).parent.parent / "benchmarks")


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, BENCHMARKS)
    try:
        yield {name: importlib.import_module(name) for name in ("low_bits", "roofline", "surgery")}
    finally:
        sys.path.remove(BENCHMARKS)


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(80, 48).requires_grad_(False)  # blocks run on from row to row


def test_plain_nf4_is_bitsandbytes(scripts, linear):
    plain = scripts["low_bits"].PlainNF4(linear, doubled=False)
    theirs = NF4Linear(linear, torch.float32, False)
    x = torch.randn(3, 80)
    torch.testing.assert_close(plain(x), theirs(x))
    assert plain.codes.nbytes == theirs.weight.numel() and plain.absmax.nbytes == 4 * 60


def test_its_second_quantisation_has_bitsandbytes_bytes_and_is_near(scripts, linear):
    plain = scripts["low_bits"].PlainNF4(linear)
    theirs = NF4Linear(linear, torch.float32, True)
    assert plain.step.nbytes == theirs.weight.quant_state.state2.absmax.nbytes
    x = torch.randn(3, 80)
    assert (plain(x) - theirs(x)).abs().max() < 0.05
    assert plain.absmax.dtype == torch.int8 and plain.absmax.numel() == 256  # one block, padded


@pytest.mark.parametrize("name, error", [("DynamicFP8", 0.06), ("DynamicINT8", 0.02)])
def test_products_of_eight_bits_are_near(scripts, linear, name, error):
    x = torch.randn(2, 20, 80)
    found, wanted = getattr(scripts["low_bits"], name)(linear)(x), linear(x)
    assert found.shape == wanted.shape
    assert 0 < (found - wanted).norm() / wanted.norm() < error


def test_work_is_counted_of_what_is_left(scripts):
    work = scripts["surgery"].work
    blocks = list(range(8, 28, 2))
    edit = {"edit": "graft", "place": "attention", "operator": "hyena-x", "blocks": blocks}
    host, grafted = (work("pixart-sigma", True, json.dumps(edits)) for edits in ([], [edit]))
    assert 0 < grafted.products < host.products and grafted.weights > host.weights


@pytest.fixture
def run(scripts, monkeypatch, tmp_path):
    """A run of parts to its end: the lines of JSON, and the rows of its file."""
    surgery, file = scripts["surgery"], tmp_path / "out.json"
    stage = scripts["roofline"].Stage(products=1.0)
    monkeypatch.setattr(surgery, "work", lambda *_: stage)  # counting takes long

    def to_its_end(capsys, *parts):
        monkeypatch.setattr(sys, "argv", ["surgery.py", "--tiny", "--no-compile", "--repeats",
                                          "1", "--json", str(file), "--part", *parts])  # fmt: skip
        assert surgery.main() == 0
        out = capsys.readouterr().out.splitlines()
        rows = json.loads(file.read_text())["rows"]
        assert sum("| float32 |" in line for line in out) == len(rows)
        return [json.loads(line) for line in out if line.startswith("{")], rows

    return to_its_end


def test_grafts_and_operators_run(run, capsys):
    _, rows = run(capsys, "graft", "operators")
    assert [row["way"] for row in rows] == [
        "host", "29% Hyena-X", "50% Hyena-X", "attention", "sliding-window", "hyena-se",
        "hyena-x", "hyena-y", "mamba-2", "mlp", "mlp-hyena-x"]  # fmt: skip
    assert [row["times faster"] is None for row in rows].count(True) == 3  # the hosts'


def test_quantised_rows_run(run, scripts, monkeypatch, capsys):
    """With no library for NF4 it says so and goes on."""
    monkeypatch.setattr(scripts["surgery"], "find_spec", lambda _: None)
    told, rows = run(capsys, "quantise")
    nf4 = "NF4, plain PyTorch"
    assert [row["way"] for row in rows][:4] == [
        "host", nf4, f"20 % removed, {nf4}", f"30 % removed, {nf4}"]  # fmt: skip
    assert any("bitsandbytes is not installed" in line.get("skipped", "") for line in told)
    off = {line["way"]: line["difference"] for line in told if "lossy" in line}
    assert 0 < off["int8 products, lossy"] < off["float8 products, lossy"]
    assert off["float8 products, lossy"] < off[nf4] < 1
