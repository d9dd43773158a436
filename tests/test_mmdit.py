"""The mmdit family: sizes, folder, the protocol's rules, and what it refuses."""

import dataclasses
import inspect
import json
import time
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from PIL import Image
from transformers import PreTrainedTokenizerFast, SiglipTextModel

from impasto.models import load_generator
from impasto.models.mmdit import PRESETS, Defaults, MMDiTGenerator
from impasto.sample.protocol import Part, Request, Sampling, generate
from impasto.zoo.registry import MODELS
from impasto.zoo.weights import shipped_folder
from tests import drawing, tiny_mmdit
from tests.drawing import requests

SHORT = Sampling(steps=2)


@pytest.fixture(scope="module")
def pipe():
    return tiny_mmdit.tiny()


def start(pipe, prompts=("a red dog",), seeds=None, **settings):
    return drawing.start(pipe, prompts, seeds, **settings)


# ------------------------------------------------------------------------------ sizes


def test_tiny_is_built_quickly():
    tiny_mmdit.tokenizer()
    began = time.perf_counter()
    tiny_mmdit.tiny()
    assert time.perf_counter() - began < 1


def test_sticker_fits_its_limits():
    pipe = tiny_mmdit.sticker()
    count = {name: sum(p.numel() for p in pipe.components[name].parameters())
             for name in ("transformer", "vae", "text_encoder")}  # fmt: skip
    assert count["transformer"] == 16_208_832  # 1 byte each: below 16 MiB
    assert count["vae"] == 3_925_699 and 2 * count["vae"] < 8 * 2**20
    # A published width: the first block's query of a 256-wide SD3 model.
    assert pipe.transformer.transformer_blocks[0].attn.to_q.weight.shape == (256, 256)


def test_new_transformer_predicts_zero():
    pipe = MMDiTGenerator.from_config(PRESETS["tiny"](), tiny_mmdit.tokenizer())
    state = start(pipe, steps=1)
    torch.testing.assert_close(pipe.advance(state).x, state.x, rtol=0, atol=0)


def test_same_seed_same_weights():
    a, b, c = tiny_mmdit.tiny(3), tiny_mmdit.tiny(3), tiny_mmdit.tiny(4)
    assert a.provenance()["sha256"] == b.provenance()["sha256"] != c.provenance()["sha256"]


# ------------------------------------------------------------------------------ the folder


def test_folder_in_float_is_read_by_the_libraries_themselves(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, "float32")
    theirs = {
        "transformer": SD3Transformer2DModel.from_pretrained(tmp_path / "transformer"),
        "vae": AutoencoderKL.from_pretrained(tmp_path / "vae"),
        "text_encoder": SiglipTextModel.from_pretrained(tmp_path / "text_encoder"),
    }
    for name, module in theirs.items():
        ours = pipe.components[name].state_dict()
        assert set(module.state_dict()) == set(ours)
        assert all(torch.equal(v, ours[k]) for k, v in module.state_dict().items()), name
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "tokenizer")
    assert tokenizer("a red dog").input_ids == pipe.tokenizer("a red dog").input_ids


def test_a_saved_model_draws_the_same(pipe, tmp_path):
    defaults = dataclasses.replace(pipe.defaults, steps=3, shift=2.0, latent_mean=(0.5,) * 4)
    pipe = MMDiTGenerator(**pipe.components, defaults=defaults)
    pipe.save_pretrained(tmp_path, "float32")
    again = load_generator(tmp_path)
    assert again.defaults == defaults
    before, after = (p(["a red dog"], seeds=[5], output_type="pt").images for p in (pipe, again))
    assert torch.equal(before, after)


def test_int8_folder_saved_again_has_the_same_bytes(pipe, tmp_path):
    formats = {"transformer": "int8", "vae": "bfloat16", "text_encoder": "int8"}
    pipe.save_pretrained(tmp_path / "a", formats)
    load_generator(tmp_path / "a").save_pretrained(tmp_path / "b", formats)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    files.remove(Path("tokenizer/tokenizer_config.json"))  # transformers notes that it was loaded
    assert len(files) == 9
    a, b = ([(tmp_path / side / f).read_bytes() for f in files] for side in "ab")
    assert [f for f, x, y in zip(files, a, b, strict=True) if x != y] == []


def test_bfloat16_network_draws_nearly_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    half = load_generator(tmp_path, torch_dtype="bfloat16")
    assert half.dtype == torch.bfloat16 and half.provenance()["dtype"] == "bfloat16"
    a, b = (p(["a red dog"], seeds=[0], output_type="pt").images for p in (pipe, half))
    assert (a - b).abs().mean() < 0.02


def test_a_run_may_go_on_at_another_gpu_of_the_machine(monkeypatch):
    pipe, places = tiny_mmdit.tiny(), iter([torch.device("cuda", 0), torch.device("cuda", 1)])
    monkeypatch.setattr(type(pipe), "device", property(lambda pipe: next(places)))
    first, second = pipe.provenance(), pipe.provenance()
    assert first == second and first["device"] == "cuda"


@pytest.mark.parametrize("file, change, message", [
    ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "must be .*AutoencoderKL"),
    ("model_index.json", {"_class_name": "os.system"}, "os.system; allowed: .*MMDiTGenerator"),
    ("config.json", {"stepps": 4}, "stepps"),
    ("config.json", {"latent_std": [0.0] * 4}, "latent_std must be positive"),
    ("config.json", {"latent_mean": [0.0], "latent_std": [1.0]}, "4 latent channels"),
    ("transformer/config.json", {"num_layers": 3}, "missing keys .*transformer_blocks.2"),
])  # fmt: skip
def test_folders_that_do_not_fit_are_refused_by_name(pipe, tmp_path, file, change, message):
    drawing.folder_is_refused(pipe, tmp_path, file, change, message)


def test_missing_things_are_named(pipe, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'sticker-mmdit'"):
        load_generator("sticker-mdit")
    pipe.save_pretrained(tmp_path)
    (tmp_path / "vae" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"vae.config\.json is missing"):
        load_generator(tmp_path)
    with pytest.raises(ValueError, match="dtype must be one of"):
        load_generator(tmp_path, torch_dtype="int3")


def needs_options(name):
    """Models that do not ship: "diffusers" and its like want to be told which."""
    parameters = inspect.signature(MODELS.factory(name)).parameters.values()
    return any(p.kind is p.KEYWORD_ONLY and (p.default is p.empty or p.name == "folder")
               for p in parameters)  # fmt: skip


@pytest.mark.parametrize("name", [name for name in MODELS if not needs_options(name)])
def test_registered_models_load_or_say_what_is_missing(name, monkeypatch, tmp_path):
    monkeypatch.setattr("impasto.zoo.weights.__file__", str(tmp_path / "zoo" / "weights.py"))
    with pytest.raises(FileNotFoundError, match=name):
        load_generator(name)


def test_the_index_is_that_of_folders_that_ship():
    shipped = json.loads((shipped_folder("sticker-mmdit") / "model_index.json").read_text())
    layout = MMDiTGenerator.LAYOUT
    assert {"_class_name": layout.family} | layout.index == shipped


def test_defaults_survive_json():
    defaults = PRESETS["sticker"]().defaults()
    assert Defaults.from_dict(json.loads(json.dumps(defaults.to_dict()))) == defaults


# ------------------------------------------------------------------------------ text


def test_prompt_matters_and_null_is_not_a_prompt(pipe):
    a, b, null = (generate(pipe, requests(prompt), [0], Sampling(steps=2, guidance=g))[0]
                  for prompt, g in (("a red dog", 1.0), ("four cats", 1.0), ("a red dog", 0.0)))
    assert not torch.equal(a, b) and not torch.equal(a, null)
    other = generate(pipe, requests("four cats"), [0], Sampling(steps=2, guidance=0.0))[0]
    assert torch.equal(null, other)  # guidance 0 draws without the prompt


def test_strange_prompts_are_spelled(pipe):
    tokenizer = pipe.tokenizer
    decode = lambda text: tokenizer.decode(tokenizer(text).input_ids)  # noqa: E731
    assert decode("a 🍎 naïve Ωmega") == " a 🍎 naïve ωmega<eos>"
    assert decode("two\r\n dogs ") == " two dogs<eos>"
    assert decode("a <null> <pad>") == " a <null> <pad><eos>"
    null = tokenizer.convert_tokens_to_ids("<null>")
    assert null not in tokenizer("a <null> dog").input_ids


def test_long_prompt_is_cut_with_a_warning(pipe):
    with pytest.warns(UserWarning, match=r"a prompt of \d+ tokens is cut to its first 15"):
        long = start(pipe, ["dog " * 10_000])
    assert long.text.states.shape == (2, 16, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start(pipe, ["a red dog"])


def test_each_distinct_prompt_is_encoded_once(pipe, monkeypatch):
    seen = []
    encode = pipe.encode_text
    monkeypatch.setattr(pipe, "encode_text", lambda ids: seen.append(len(ids)) or encode(ids))
    state = start(pipe, ["a dog", "a cat", "a dog", "a dog"])
    assert seen == [3] and state.prompt_of == (1, 2, 1, 1)  # the null prompt is row 0


# ------------------------------------------------------------------------------ the protocol


def test_select_re_indexes_everything(pipe):
    state = pipe.advance(start(pipe, ["a dog", "a cat", "two kites"], [7, 8, 9], steps=3))
    kept = pipe.select(state, [2, 0, 2])
    assert kept.seeds == (9, 7, 9) and kept.prompt_of == (3, 1, 3)
    assert kept.costs == tuple(state.costs[i] for i in (2, 0, 2))
    direct = pipe.advance(start(pipe, ["two kites", "a dog", "two kites"], [9, 7, 9], steps=3))
    for got, want in ((kept, direct), (pipe.advance(kept), pipe.advance(direct))):
        assert torch.equal(got.x, want.x) and torch.equal(got.x_0, want.x_0)
    assert torch.equal(pipe.preview(kept), pipe.preview(direct))


def test_states_are_values(pipe):
    state = start(pipe, steps=3)
    x, x_0 = state.x.clone(), state.x_0.clone()
    pipe.preview(state)
    first, second = pipe.advance(state), pipe.advance(state)
    assert torch.equal(state.x, x) and torch.equal(state.x_0, x_0) and state.step == 0
    assert torch.equal(first.x, second.x)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.step = 1


def test_last_preview_is_the_picture(pipe):
    state = start(pipe, steps=2)
    with pytest.raises(ValueError, match="0 of 2 steps are done; call preview"):
        pipe.finish(state)
    state = pipe.advance(pipe.advance(state))
    image = pipe.finish(state)
    assert (pipe.preview(state) - image).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(image, (image * 255).round() / 255)
    with pytest.raises(ValueError, match="all 2 steps are done"):
        pipe.advance(state)


@pytest.mark.parametrize("settings, message", [
    ({"steps": 0}, "steps must be an integer >= 1, given 0"),
    ({"steps": -4}, "given -4"),
    ({"steps": 2.5}, "given 2.5"),
    ({"steps": True}, "given True"),
    ({"guidance": -1.0}, "guidance must be a finite number >= 0"),
    ({"guidance": float("nan")}, "given nan"),
    ({"guidance": float("inf")}, "given inf"),
    ({"height": 33}, "height must be a multiple of 16 from 16 to 64 pixels, given 33"),
    ({"width": 80}, "width must be"),
    ({"width": 0}, "given 0"),
    ({"height": 32.0}, "given 32.0"),
])  # fmt: skip
def test_bad_settings(pipe, settings, message):
    with pytest.raises(ValueError, match=message):
        start(pipe, **settings)


def test_bad_requests(pipe):
    with pytest.raises(ValueError, match="1 requests and 2 seeds"):
        pipe.start(requests("a dog"), [1, 2], SHORT)
    with pytest.raises(ValueError, match="at least one"):
        pipe.start([], [], SHORT)
    with pytest.raises(ValueError, match="is empty"):
        start(pipe, [" \r\n"])
    picture = Request((Part(text="a dog"), Part(image=torch.zeros(3, 8, 8))))
    with pytest.raises(ValueError, match="exactly one text, given: text, image"):
        pipe.start([picture], [0], SHORT)
    for seed in (-1, 2**63, 0.5, True):
        with pytest.raises(ValueError, match=r"integer from 0 to 2\^63"):
            pipe.start(requests("a dog"), [seed], SHORT)


@pytest.mark.parametrize("height, width", [(16, 48), (64, 32), (48, 48)])
def test_other_sizes(pipe, height, width):
    settings = Sampling(steps=1, height=height, width=width)
    image, _ = generate(pipe, requests("a dog"), [0], settings)
    assert image.shape == (1, 3, height, width)


# ------------------------------------------------------------------------------ the call


def test_call_is_what_the_protocol_draws(pipe):
    out = pipe(["a dog", "a cat"], seeds=[3, 4, 5, 6], num_images_per_prompt=2,
               num_inference_steps=2, guidance_scale=3, output_type="pt", batch_size=3)
    direct, cost = generate(pipe, requests("a dog", "a dog", "a cat", "a cat"), [3, 4, 5, 6],
                            Sampling(steps=2, guidance=3))
    assert torch.equal(out.images, direct) and out.cost == cost and out.seeds == (3, 4, 5, 6)


def test_call_gives_pil_and_takes_generators(pipe):
    draw = lambda: pipe("a dog", generator=torch.Generator().manual_seed(3),  # noqa: E731
                        num_inference_steps=1)
    a, b = draw(), draw()
    assert isinstance(a.images[0], Image.Image) and a.images[0].size == (32, 32)
    assert a.seeds == b.seeds and a.images[0].tobytes() == b.images[0].tobytes()
    torch.manual_seed(0)
    first = pipe("a dog", num_inference_steps=1).seeds
    assert first != pipe("a dog", num_inference_steps=1).seeds


@pytest.mark.parametrize("arguments, message", [
    ({"prompts": []}, "at least one prompt"),
    ({"prompts": ["a dog", ""]}, "none may be empty"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt must be >= 1"),
    ({"output_type": "np"}, "allowed: pil, pt"),
    ({"batch_size": 0}, "batch_size must be >= 1"),
    ({"seeds": [1, 2]}, "1 pictures, 2 seeds"),
    ({"seeds": [1], "generator": torch.Generator()}, "not both"),
    ({"num_inference_steps": 0}, "steps must be"),
])  # fmt: skip
def test_bad_calls(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**({"prompts": ["a dog"]} | arguments))
