"""`impasto graft`: what a folder becomes, what is told of it, what is refused."""

import json

import pytest
import torch
from typer.testing import CliRunner

from impasto.cli import app
from impasto.models import load_generator
from impasto.models.edited.grafts import tokens_of
from impasto.models.edited.hosts import host_of
from impasto.models.edited.loading import from_pretrained
from impasto.models.edited.record import apply, base_digest
from impasto.models.storage import save_network
from impasto.sample.protocol import Sampling, generate
from impasto.surgery.locality import uniform_locality
from tests import tiny_mmdit
from tests.drawing import requests
from tests.tiny_hosts import output, tiny


def call(*arguments):
    return CliRunner().invoke(app, ["graft", *map(str, arguments)])


def told(*arguments):
    done = call(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Transformers of four blocks in folders by their families."""
    monkeypatch.chdir(tmp_path)
    for family in ("dit", "sd3"):
        save_network(tiny(family, layers=4), tmp_path / family, "float32")
    return tmp_path


def test_a_graft_is_the_edit_with_weights_of_the_seed(here):
    row = told("dit", "--operator", "hyena-x", "--seed", 5, "-o", "out")
    change = {"edit": "graft", "place": "attention", "operator": "hyena-x", "options": {},
              "blocks": [1, 3]}  # fmt: skip
    wanted = tiny("dit", layers=4)
    base = base_digest(wanted)
    torch.manual_seed(5)
    apply(wanted, change)
    found = from_pretrained("out")
    assert found.config["edits"] == [change] and found.config["edits_base"] == base
    assert torch.equal(output(found, "dit"), output(wanted, "dit"))
    assert row == {
        "model": "dit", "out": "out", "family": "DiT", "depth": 4, **change, "copied": False,
        "delta_percent": row["delta_percent"],
        "parameters_before": sum(p.numel() for p in tiny("dit", layers=4).parameters()),
        "parameters_after": sum(p.numel() for p in wanted.parameters()),
    }  # fmt: skip
    assert set(row["delta_percent"]) == {"op", "ft", "parameters", "flops"}
    assert row["delta_percent"]["op"] == pytest.approx(-50 + 100 / (4 * 16), abs=0.5)
    assert call("dit", "--operator", "hyena-x", "--seed", 6, "-o", "other").exit_code == 0
    assert not torch.equal(output(from_pretrained("other"), "dit"), output(found, "dit"))


@pytest.mark.parametrize("family", ["dit", "sd3"])
@pytest.mark.parametrize("operator", ["sliding-window:window=15", "attention", "mlp:ratio=4"])
def test_copies_of_the_hosts_own_operators_change_nothing(here, family, operator):
    told(family, "--operator", operator, "--blocks", "full", "--copy", "-o", "out")
    ours, host = output(from_pretrained("out"), family), output(tiny(family, layers=4), family)
    torch.testing.assert_close(ours, host, rtol=1e-4, atol=1e-4)


def test_grafts_stack_and_pairs_come_last(here):
    row = told("sd3", "--operator", "mlp:ratio=3", "--blocks", "0,2-4", "-o", "a")
    assert row["blocks"] == [0, 2, 3]
    told("a", "--operator", "hyena-y", "--place", "attention2", "--blocks", "1", "-o", "b")
    row = told("b", "--pairs", "-o", "c")
    assert row["pairs"] == [[0, 1], [2, 3]]
    model = from_pretrained("c")
    assert [edit["edit"] for edit in model.config["edits"]] == ["graft", "graft", "pairs"]
    assert output(model, "sd3").isfinite().all()
    done = call("c", "--operator", "hyena-x", "-o", "d")
    assert done.exit_code != 0 and "already" in done.output and not (here / "d").exists()


def test_blocks_by_locality(here):
    (here / "l.json").write_text("[0.1, 0.9, 0.8, 0.2]")
    row = told("dit", "--operator", "hyena-x", "--blocks", "top-local", "--locality", "l.json",
               "-o", "out")  # fmt: skip
    assert row["blocks"] == [1, 2]
    row = told("dit", "--operator", "mlp-hyena-x", "--blocks", "deep", "--ratio", 0.25,
               "-o", "mlp")  # fmt: skip
    assert (row["blocks"], row["place"], row["delta_percent"]["ft"]) == ([3], "mlp", None)


def test_locality_is_measured_into_the_file(here):
    """Attention whose queries are nothing is uniform; of one block they are not."""
    pipe = tiny_mmdit.tiny()
    for parameter in pipe.transformer.transformer_blocks[1].attn.to_q.parameters():
        torch.nn.init.zeros_(parameter)
    pipe.save_pretrained(here / "model", "float32")
    asked = ["measure", "locality", "model", "--pictures", "5", "-o"]
    done = CliRunner().invoke(app, [*asked, "l.json", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads((here / "l.json").read_text())
    row = json.loads(done.stdout)
    tokens = tokens_of(host_of(pipe.transformer))
    assert row == {"model": "model", "out": "l.json", "band": 1, "locality": found}
    uniform = uniform_locality(tokens, 1)
    assert found[1] == pytest.approx(uniform, abs=1e-6)
    assert found[0] != pytest.approx(uniform, abs=1e-6)
    assert CliRunner().invoke(app, [*asked, "again.json"]).exit_code == 0
    assert (here / "again.json").read_text() == (here / "l.json").read_text()
    row = told("model", "--operator", "hyena-x", "--blocks", "low-local", "--locality", "l.json",
               "-o", "out")  # fmt: skip
    assert row["blocks"] == [min((0, 1), key=found.__getitem__)]
    done = CliRunner().invoke(app, [*asked[:2], "out", "-o", "no.json"])
    assert done.exit_code == 2 and f"blocks {row['blocks']} had no attention" in done.output
    done = CliRunner().invoke(app, [*asked[:2], "sticker-infinity", "-o", "no.json"])
    assert done.exit_code == 2 and "no transformer that can be edited" in done.output


def test_pairs_are_named_where_the_number_of_blocks_is_odd(here):
    save_network(tiny("sd3", layers=3), here / "odd", "float32")
    done = call("odd", "--pairs", "-o", "out")
    assert done.exit_code == 2 and "name those of the pairs (0,1,4,5" in done.output
    assert told("odd", "--pairs", "--blocks", "0,1", "-o", "out")["pairs"] == [[0, 1]]


def test_the_table(here):
    done = call("dit", "--operator", "mamba-2:state=8,head=4", "--blocks", "1", "-o", "out")
    assert done.exit_code == 0, done.output
    lines = dict(line.split(maxsplit=1) for line in done.output.splitlines() if line[0] != "Δ")
    assert lines["attention"] == "mamba-2:state=8,head=4" and lines["weights"] == "fresh"
    assert "Δ op" in done.output and " %" in done.output
    done = call("sd3", "--pairs", "--blocks", "1,2", "-o", "pairs")
    assert "1|2" in done.output


def test_a_generators_folder_draws(tmp_path):
    tiny_mmdit.tiny().save_pretrained(tmp_path / "model")
    told(tmp_path / "model", "--operator", "hyena-x", "-o", tmp_path / "out")
    before, after = (generate(load_generator(tmp_path / name), requests("a dog"), [3],
                              Sampling(steps=2))[0] for name in ("model", "out"))  # fmt: skip
    assert before.shape == after.shape and not torch.equal(before, after)


@pytest.mark.parametrize(("arguments", "message"), [
    ((), "nothing says what to graft"), (("--operator", "hyena-z"), "unknown operator"),
    (("--operator", "hyena-x:window=3"), "unknown option 'window'"),
    (("--operator", "hyena-x", "--place", "mlp"), "does not go in the place of mlp"),
    (("--operator", "hyena-x", "--blocks", "9"), "blocks 0 to 3"),
    (("--operator", "hyena-x", "--blocks", "even"), "is a pattern"),
    (("--operator", "hyena-x", "--blocks", "1,2", "--ratio", "0.5"), "--ratio is about a pattern"),
    (("--operator", "hyena-x", "--blocks", "top-local"), "needs the locality"),
    (("--operator", "hyena-x", "--locality", "l.json"), "--locality is about"),
    (("--operator", "hyena-x", "--copy"), "not of the kind and size"),
    (("--operator", "hyena-x", "--ratio", "2"), "ratio must be in"),
    (("--pairs", "--operator", "hyena-x"), "without --operator"),
    (("--pairs", "--copy"), "without --copy"),
    (("--operator", "sliding-window:window=abc"), "window must be a whole number, given 'abc'"),
    (("--pairs", "--blocks", "0,1,2"), "a block and the next one"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_is_written(here, arguments, message):
    done = call("dit", *arguments, "-o", "out")
    assert done.exit_code != 0 and message in done.output.replace("\n", " ")
    assert "Traceback" not in done.output
    assert not [path for path in here.iterdir() if "out" in path.name]
