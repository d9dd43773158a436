"""`impasto prune`: folders of every kind, what is told, what is refused; nothing half-written."""

import json

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from typer.testing import CliRunner

from impasto.cli import app
from impasto.models import load_generator
from impasto.models.edited.hosts import parameters
from impasto.models.edited.loading import from_pretrained
from impasto.models.edited.record import apply, base_digest
from impasto.models.storage import save_network
from impasto.sample.protocol import Request, Sampling, generate
from tests import tiny_mmdit, tiny_sd3
from tests.tiny_hosts import output, tiny


def call(*arguments):
    return CliRunner().invoke(app, ["prune", *map(str, arguments)])


def told(*arguments):
    done = call(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A transformer of six blocks in the folder sd3."""
    monkeypatch.chdir(tmp_path)
    save_network(tiny("sd3", layers=6, dual=(1, 4)), tmp_path / "sd3", "float32")
    return tmp_path


def removed(**blocks):
    model = tiny("sd3", layers=6, dual=(1, 4))
    apply(model, {"edit": "remove",
                  "removed": {key[1:]: names for key, names in blocks.items()}})  # fmt: skip
    return model


# ---------------------------------------------------------------- what comes of it


def test_whole_blocks_leave_a_stock_folder(here):
    row = told("sd3", "--blocks", "1-3,5", "-o", "out")
    wanted = removed(b1=["all"], b2=["all"], b5=["all"])
    stock, info = SD3Transformer2DModel.from_pretrained("out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    torch.testing.assert_close(output(stock, "sd3"), output(wanted, "sd3"), atol=1e-5, rtol=1e-5)
    assert (len(stock.transformer_blocks), dict(stock.config)["dual_attention_layers"]) == (3, [2])
    base = tiny("sd3", layers=6, dual=(1, 4))
    assert row == {
        "model": "sd3", "out": "out", "family": "SD3", "blocks": 6,
        "removed": {"1": ["all"], "2": ["all"], "5": ["all"]}, "stock": True,
        "parameters_before": parameters(base), "parameters_after": parameters(stock),
        "not_stock_because": None}  # fmt: skip
    record = json.loads((here / "out/surgery.json").read_text())
    assert record == {"edits": [{"edit": "remove", "removed": row["removed"]}],
                      "edits_base": base_digest(base),
                      "blocks": {"transformer_blocks": [0, 3, 4]}}  # fmt: skip


def test_what_was_done_before_is_kept(here):
    told("sd3", "--blocks", "0", "-o", "one")
    told("one", "--blocks", "0", "-o", "two")
    record = json.loads((here / "two/surgery.json").read_text())
    assert record["earlier"] == json.loads((here / "one/surgery.json").read_text())
    assert record["blocks"] == {"transformer_blocks": [1, 2, 3, 4]}


@pytest.mark.parametrize("arguments", [
    ["--blocks", "2", "--components", "0:ff+attn,3-5:ff_context"], ["--blocks", "2",
                                                                    "--identities"],
])  # fmt: skip
def test_the_rest_loads_with_its_edits(here, arguments):
    row = told("sd3", *arguments, "-o", "out")
    parts = {"b0": ["ff", "attn"], "b3": ["ff_context"], "b4": ["ff_context"]}
    wanted = removed(b2=["all"], **(parts if "--components" in arguments else {}))
    assert torch.equal(output(from_pretrained("out"), "sd3"), output(wanted, "sd3"))
    assert row["parameters_after"] == parameters(wanted) and not row["stock"]
    assert ("parts of blocks" in row["not_stock_because"]) == ("--components" in arguments)


def test_a_model_with_identities_is_renumbered_in_the_end(here):
    told("sd3", "--blocks", "1,5", "--identities", "-o", "kept")
    row = told("kept", "--renumber", "-o", "out")
    told("sd3", "--blocks", "1,5", "-o", "at-once")
    for name in ("config.json", "surgery.json", "diffusion_pytorch_model.safetensors"):
        assert (here / "out" / name).read_bytes() == (here / "at-once" / name).read_bytes()
    assert row["stock"] and not row["removed"]
    assert row["parameters_after"] < row["parameters_before"]  # the new last block gives no text


def test_a_generator_keeps_the_rest(here):
    generator = tiny_mmdit.tiny()
    generator.save_pretrained("model", "bfloat16")
    row = told("model", "--components", "0:ff", "-o", "out")
    again = load_generator("out")
    base = load_generator("model")
    apply(base.transformer, {"edit": "remove", "removed": {"0": ["ff"]}})
    pictures = [generate(model, [Request.of("a dog")], [3], Sampling(steps=2))[0]
                for model in (again, base)]  # fmt: skip
    assert torch.equal(*pictures) and row["family"] == "SD3"
    for name in ("vae/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"):
        assert (here / "out" / name).read_bytes() == (here / "model" / name).read_bytes()
    assert (here / "out/transformer/diffusion_pytorch_model.safetensors").stat().st_size < (
        here / "model/transformer/diffusion_pytorch_model.safetensors").stat().st_size


def test_a_pipeline_of_diffusers_stays_one(here):
    tiny_sd3.pipeline().save_pretrained("pipe")
    told("pipe", "--blocks", "0", "-o", "out")
    pipe = StableDiffusion3Pipeline.from_pretrained("out", text_encoder_3=None, tokenizer_3=None)
    assert len(pipe.transformer.transformer_blocks) == 1
    pipe("ab", num_inference_steps=1, height=32, width=32, output_type="pt")


def test_shipped_weights_are_pruned_by_their_name(here):
    row = told("sticker-mmdit", "--blocks", "4-6", "-o", "out")
    transformer = load_generator("out").transformer
    assert len(transformer.transformer_blocks) == 5 and row["blocks"] == 7
    assert row["parameters_after"] == parameters(transformer)
    assert not (here / "out/README.md").exists()  # the card is the other model's


def test_what_is_printed(here):
    done = call("sd3", "--blocks", "1-3", "--components", "0:ff_context,4:attn+ff", "-o", "out")
    rows = dict((line[:16].strip(), line[16:]) for line in done.stdout.splitlines())
    before, after = (parameters(model) for model in (
        tiny("sd3", layers=6, dual=(1, 4)), from_pretrained("out")))  # fmt: skip
    assert rows == {
        "transformer": "SD3, 6 blocks", "blocks removed": "1, 2", "of block 0": "ff_context",
        "of block 4": "attn, ff", "parameters": f"{before:,} -> {after:,} ({after / before:.2%})",
        "loads": "with impasto (parts of blocks were removed: 0:ff_context, 4:attn+ff)",
        "folder": "out"}  # fmt: skip


# ---------------------------------------------------------------- by scores


SCORES = {"5<tab>ff": 9.9, "0<tab>ff": 10.02, "3<tab>attn": 9.0, "4<tab>ff_context": 10.1,
          "2<tab>w_norm1": 3.0, "3<tab>ff": 9.95, "1<tab>attn": 9.9}  # fmt: skip


@pytest.mark.parametrize("order, first", [
    ([], "0:ff"), (["--order", "hpp"], "0:ff"), (["--order", "printed"], "0:ff"),
    (["--order", "score"], "4:ff_context"),
])  # fmt: skip
def test_scores_are_walked_in_the_order_asked_for(here, order, first):
    (here / "scores.json").write_text(json.dumps(SCORES))
    base = [] if "score" in order else ["--base-score", "10"]
    row = told("sd3", "--scores", "scores.json", "--budget", 0.999, *order, *base, "-o", "out")
    block, _, name = first.partition(":")
    assert row["removed"] == {block: [name]}


def test_scores_come_after_what_is_named(here):
    (here / "scores.json").write_text(json.dumps({"base": 10.0, "scores": SCORES}))
    row = told("sd3", "--scores", "scores.json", "--budget", 0.78, "--blocks", "2", "--eligible",
               "3-6", "--exclude", "attn", "-o", "out")  # fmt: skip
    assert row["removed"]["2"] == ["all"] and set(row["removed"]) <= {"2", "3", "4", "5"}
    assert not any("attn" in names for names in row["removed"].values())
    assert row["parameters_after"] < 0.78 * row["parameters_before"]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("arguments, message", [
    ([], "nothing says what to remove; give --preset, --scores, --blocks or --components"),
    (["--preset", "sd3.5-medium"], "is for a transformer of SD3 with 24 blocks, and this one is "
                                   "of SD3 with 6"),
    (["--preset", "sd3.5-mediun"], "did you mean 'sd3.5-medium'"),
    (["--preset", "sd3.5-medium", "--blocks", "1"], "--preset says all by itself"),
    (["--renumber", "--blocks", "1"], "--renumber says all by itself"),
    (["--renumber", "--identities"], "are opposites; give one of them"),
    (["--renumber"], "nothing was removed here, or blocks were numbered anew"),
    (["--blocks", "4-9"], "there is no block 6: this SD3 transformer has blocks 0 to 5"),
    (["--blocks", "0-6"], "all 6 blocks would be removed; leave at least one"),
    (["--blocks", "3-3"], "holds no block: its end is left out"),
    (["--blocks", ""], "'' in '' is no block number"),
    (["--components", "1:mlp"], "block 1 (joint) has no component 'mlp'; allowed: all, w_norm1"),
    (["--blocks", "1", "--components", "1:ff"], "block 1 is in --blocks and in --components"),
    (["--blocks", "1", "--budget", 0.5], "--budget is about --scores"),
    (["--blocks", "1", "--exclude", "ff"], "--exclude is about --scores"),
    (["--scores", "scores.json"], "--scores needs --budget"),
    (["--scores", "scores.json", "--budget", 0.9], "give it as --base-score"),
    (["--scores", "scores.json", "--budget", 0.9, "--order", "late"], "--order must be one"),
    (["--scores", "scores.json", "--budget", 0.1, "--order", "score"], "the units allowed leave"),
    (["--scores", "scores.json", "--budget", 2, "--order", "score"], "between 0 and 1, given 2"),
    (["--scores", "none.json", "--budget", 0.9], "none.json"),
    (["--scores", "broken.json", "--budget", 0.9], "broken.json"),
    (["--scores", "far.json", "--budget", 0.9, "--base-score", 1], "scores of block 40"),
    (["--scores", "far.json", "--budget", 0.9, "--order", "score"], "there is no block 40"),
])  # fmt: skip
def test_bad_input_is_refused_and_leaves_nothing(here, arguments, message):
    (here / "scores.json").write_text(json.dumps(SCORES))
    (here / "far.json").write_text('{"40<tab>ff": 1.0}')
    (here / "broken.json").write_text("{")
    done = call("sd3", *arguments, "-o", "out")
    assert done.exit_code == 2 and message in done.stderr.replace("\n", " "), done.output
    assert not (here / "out").exists() and not [*here.glob(".out*")]


def test_a_pruned_model_is_pruned_on_by_the_first_numbers(here):
    told("sd3", "--components", "1:ff", "-o", "one")
    done = call("one", "--components", "1:ff", "-o", "two")
    assert done.exit_code == 2 and "transformer_blocks.1.ff is removed already" in done.stderr
    row = told("one", "--blocks", "3", "-o", "two")
    assert not row["stock"] and row["parameters_before"] < parameters(
        tiny("sd3", layers=6, dual=(1, 4)))  # fmt: skip


def test_other_models_are_refused(here):
    tiny_mmdit.tiny().save_pretrained("model", "float32")
    for model, message in [("nothing", "neither a folder nor weights"),
                           ("model/vae", "AutoencoderKL is no transformer that can be edited"),
                           ("model/tokenizer", "has no diffusion_pytorch_model")]:  # fmt: skip
        done = call(model, "--blocks", "1", "-o", "out")
        assert done.exit_code == 2 and message in done.stderr, done.output


def test_a_quantised_model_is_not_pruned(here, monkeypatch):
    pytest.importorskip("bitsandbytes")
    from impasto.models.edited import folder
    from impasto.models.edited.quantised import quantise

    def quantised(*arguments):
        model = tiny("sd3", layers=6)
        quantise(model, {"edit": "quantise", "format": "nf4", "options": {}})
        return model

    monkeypatch.setattr(folder, "transformer_from", quantised)
    done = call("sd3", "--blocks", "1", "-o", "out")
    assert done.exit_code == 2 and "is quantised; prune what it was made of" in done.stderr
