"""`impasto quantize`: folders of pipelines and transformers, and what the copies draw with."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline, SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from impasto.cli import app
from impasto.models import load_generator
from impasto.models.edited.nf4 import NF4Linear
from impasto.models.edited.quantisation import Quantisation
from impasto.models.edited.quantised import quantise
from impasto.models.storage import network_from
from impasto.sample.protocol import Sampling, generate
from impasto.zoo.weights import shipped_folder
from tests import tiny_mmdit, tiny_sd3
from tests.drawing import requests

FILE = "transformer/diffusion_pytorch_model.safetensors"


def quantize(*arguments):
    return CliRunner().invoke(app, ["quantize", *(str(a) for a in arguments)])


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """A pipeline of diffusers', saved by diffusers."""
    folder = tmp_path_factory.mktemp("stock") / "pipeline"
    tiny_sd3.pipeline().save_pretrained(folder)
    (folder / "README.md").write_text("a card")
    (folder / "LICENSE").write_text("a licence")
    return folder


def drawn(pipe):
    """Of a pipeline, or by diffusers' own loading from a folder."""
    if not isinstance(pipe, DiffusionPipeline):
        pipe = DiffusionPipeline.from_pretrained(pipe, torch_dtype=torch.bfloat16,
                                                 text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe("a cat", height=32, width=32, num_inference_steps=2, guidance_scale=2.0,
                output_type="pt", generator=torch.Generator().manual_seed(0)).images  # fmt: skip


def test_a_stock_pipeline_stays_one(stock, tmp_path):
    done = quantize(stock, "--format", "int8", "-o", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["format"] == "int8" and told["bits_a_weight"] > 8
    assert told["bytes_after"] < 0.75 * told["bytes_before"]  # 16 wide: scales are much
    names = {path.name for path in stock.iterdir()} - {"README.md"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert (tmp_path / "out" / "LICENSE").read_text() == "a licence"
    images, base = drawn(tmp_path / "out"), drawn(stock)
    assert 0 < (images - base).abs().mean() < 0.1
    pipe = tiny_sd3.pipeline().to(dtype=torch.bfloat16)
    quantise(pipe.transformer, Quantisation("int8").to_edit())
    assert torch.equal(drawn(pipe), images)  # by our layers, without a file between


def test_a_changed_folder_is_what_is_drawn_with(stock, tmp_path):
    """The published evaluation of a quantised checkpoint drew with the weights before training."""
    distilled = tmp_path / "distilled"
    tiny_sd3.pipeline().save_pretrained(distilled)
    state = load_file(distilled / FILE)
    for key in [key for key in state if key.endswith("proj_out.weight")]:
        state[key] = -state[key]
    save_file(state, distilled / FILE, {"format": "pt"})
    for name, folder in (("a", stock), ("b", distilled)):
        assert quantize(folder, "--format", "int8", "-o", tmp_path / name).exit_code == 0
    a, b = (load_file(tmp_path / name / FILE)["proj_out._weight_qdata"] for name in "ab")
    assert a.any() and (a.int() + b).abs().max() <= 1
    near, far = ((drawn(tmp_path / "b") - drawn(folder)).abs().mean()
                 for folder in (distilled, stock))  # fmt: skip
    assert 2 * near < far


def test_what_ships_draws_in_four_bits(tmp_path):
    done = quantize("sticker-mmdit", "--format", "nf4", "--no-double", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "4.503 bits each" in done.stdout and str(tmp_path / "out") in done.stdout
    assert not (tmp_path / "out" / "README.md").exists()
    generator = load_generator(tmp_path / "out")
    layers = [m for m in generator.transformer.modules() if isinstance(m, NF4Linear)]
    assert len(layers) > 100 and not layers[0].weight.quant_state.nested
    digests = {load_generator(name).provenance()["sha256"]
               for name in (tmp_path / "out", "sticker-mmdit")}  # fmt: skip
    assert len(digests) == 2
    # saved once more: the same tensors, not quantised again
    generator.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_bytes() == (tmp_path / "out" / FILE).read_bytes()


def test_rows_do_not_depend_on_the_batch(tmp_path):
    tiny_mmdit.tiny().save_pretrained(tmp_path / "tiny", "float32")
    done = quantize(tmp_path / "tiny", "--format", "nf4", "--compute", "float32",
                    "--skip", "norm1", "-o", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 0, done.output
    generator = load_generator(tmp_path / "out")
    assert type(generator.transformer.transformer_blocks[0].norm1.linear) is torch.nn.Linear
    asked, seeds = requests("red apple", "two cats", "a bus"), [3, 4, 5]
    together, _ = generate(generator, asked, seeds, Sampling(steps=2))
    alone, _ = generate(generator, asked[1:2], seeds[1:2], Sampling(steps=2))
    assert torch.equal(together[1:2], alone)


def test_a_transformer_alone(tmp_path):
    source = shipped_folder("sticker-mmdit") / "transformer"
    done = quantize(source, "--format", "int8", "--skip", "norm1", "--skip", "proj_out",
                    "-o", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "diffusion_pytorch_model.safetensors"}  # fmt: skip
    kept = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert "proj_out" in kept["modules_to_not_convert"]
    network = network_from(SD3Transformer2DModel, tmp_path / "out")
    assert type(network.proj_out) is torch.nn.Linear


@pytest.mark.parametrize("arguments, message", [
    (["sticker-mmdot", "--format", "nf4"], "neither a folder nor weights of this installation"),
    (["sticker-mmdit", "--format", "nf3"], "unknown format 'nf3'"),
    (["sticker-mmdit", "--format", "int8", "--double"], "'double' is an option of nf4"),
    (["sticker-mmdit", "--format", "int8", "--compute", "float32"], "bfloat16 only"),
    (["sticker-mmdit", "--format", "nf4", "--skip", "nrm1"], "did you mean 'norm1'"),
    (["sticker-mmdit", "--format", "nf4", "--skip", "nrm1"], "to_v, transformer_blocks.\n"),
    (["sticker-infinity", "--format", "nf4"], "holds a InfinityTransformer; edited can be "),
    (["sticker-mmdt", "--format", "nf4"], "did you mean 'sticker-mmdit'"),
    (["/tmp/not-there", "--format", "nf4"], "installation: allowed: sticker-clip, "),
])  # fmt: skip
def test_refusals_write_nothing(arguments, message, tmp_path):
    done = quantize(*arguments, "-o", tmp_path / "out")
    assert done.exit_code == 2 and message in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_is_quantised_once_and_never_over_another(stock, tmp_path):
    assert quantize(stock, "--format", "int8", "-o", tmp_path / "out").exit_code == 0
    done = quantize(tmp_path / "out", "--format", "nf4", "-o", tmp_path / "more")
    assert done.exit_code == 2 and "quantised already" in done.stderr
    done = quantize(stock, "--format", "nf4", "-o", tmp_path / "out")
    assert done.exit_code == 2 and "not an empty folder" in done.stderr
    done = quantize(stock, "--format", "nf4", "-o", stock / "out")
    assert done.exit_code == 2 and "lies within" in done.stderr
