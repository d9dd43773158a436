"""Janus and Emu3 of transformers as generators, on small random ones."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from impasto.cli import app
from impasto.images import to_pil
from impasto.models import Emu3Generator, JanusGenerator, load_generator
from impasto.models.foreign.row_sampler import RowSampler
from impasto.run.evaluate import evaluate
from impasto.sample.protocol import Request, Sampling, generate
from impasto.sample.seeds import row_uniforms
from impasto.search import BestOfN, NoSearch
from tests import tiny, tiny_tokens
from tests.fakes import FakeSecond

TEXTS = ["a red dog", "two cats above a bus", "a"]
SEEDS = [5, 6, 7]
SIZES = {"janus": Sampling(), "emu3": Sampling(height=16, width=24)}
kinds = pytest.mark.parametrize("kind", list(SIZES))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokens")
    return {kind: getattr(tiny_tokens, kind)(root / kind) for kind in SIZES}


@pytest.fixture(scope="module")
def models(folders):
    return {kind: load_generator(f"transformers:id={path}") for kind, path in folders.items()}


def draw(model, sampling, texts=TEXTS, seeds=SEEDS):
    return generate(model, [Request.of(text) for text in texts], seeds, sampling)


# Sampling


def test_a_token_is_chosen_as_often_as_it_is_likely():
    p = torch.tensor([0.1, 0.0, 0.6, 0.3])
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    left = RowSampler(u[:, None])(None, p.log().expand(1000, -1))
    assert left.argmax(-1).bincount(minlength=4).tolist() == [100, 0, 600, 300]
    assert (left == 0).sum() == 1000 and left.isneginf().sum() == 3000


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_no_number_chooses_a_token_without_a_chance(u):
    scores = torch.tensor([-torch.inf, 0.3, 0.1, 0.7, -torch.inf, -torch.inf]).expand(1, -1)
    left = RowSampler(torch.full((1, 1), u, dtype=torch.float64))(None, scores)
    assert left.argmax().item() == (1 if u == 0 else 3)


def slowly(z, w, u, temperature=1.0, top_k=None):
    """One token by the equations of the module, in Python."""
    prompted, plain = (row.double() for row in z)
    scores = ((plain + w * (prompted - plain)) / temperature).tolist()
    kept = sorted(range(len(scores)), key=lambda v: -scores[v])[:top_k]
    odds = {v: torch.tensor(scores[v]).exp().item() for v in sorted(kept)}
    total, at = sum(odds.values()), 0.0
    for v, odd in odds.items():
        at += odd / total
        if at > u:
            return v
    raise AssertionError(f"{u} is above all of {odds}")


def janus_slowly(own, text, seed, w, **options):
    """The whole sequence anew for every token, without a cache."""
    model, words = own.model, own.processor.tokenizer
    chat = f"user: {text} assistant:"
    ids = torch.tensor([words(chat + "<begin_of_image>").input_ids])
    assert ids[0, 0] == tiny_tokens.BOS and ids[0, -1] == words.boi_token_id
    nothing = torch.full_like(ids, tiny_tokens.PAD)
    nothing[0, 0], nothing[0, -1] = ids[0, 0], ids[0, -1]
    embedded = model.get_input_embeddings()(torch.cat([ids, nothing]))
    found = []
    for u in row_uniforms([seed], 16)[0].tolist():
        hidden = model.model.language_model(inputs_embeds=embedded).last_hidden_state[:, -1]
        found.append(slowly(model.model.generation_head(hidden), w, u, **options))
        token = torch.tensor([[found[-1]]] * 2)
        embedded = torch.cat([embedded, model.prepare_embeddings_for_image_generation(token)], 1)
    return found


def emu3_slowly(own, text, seed, w, **options):
    model, words = own.model, own.processor.tokenizer
    begin = "<|image start|>2*3<|image token|>"
    prompted, plain = (words(f"{words.bos_token}{t}{begin}").input_ids for t in (text, ""))
    visual = words.convert_tokens_to_ids([f"<|visual token {i:06d}|>" for i in range(16)])
    found = []
    for i, u in enumerate(row_uniforms([seed], 8)[0].tolist()):
        if i % 4 == 3:
            found.append(words.convert_tokens_to_ids("<|extra_200|>"))
            continue
        z = [model(torch.tensor([ids + found])).logits[0, -1].log_softmax(-1)[visual]
             for ids in (prompted, plain)]  # fmt: skip
        found.append(visual[slowly(z, w, u, **options)])
    return found


@kinds
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 3}])
@torch.inference_mode()
def test_tokens_are_those_of_a_slow_reference(kind, models, options):
    own = type(models[kind])(models[kind].model, models[kind].processor, **options)
    slow = {"janus": janus_slowly, "emu3": emu3_slowly}[kind]
    for w in (own.guidance, 1.0, 0.0):
        sampling = Sampling(guidance=w, height=SIZES[kind].height, width=SIZES[kind].width)
        fast = own.tokens(TEXTS[:2], SEEDS[:2], sampling).tolist()
        assert fast == [slow(own, TEXTS[i], SEEDS[i], w, **options) for i in range(2)]


@kinds
def test_a_row_depends_on_neither_batch_nor_order(kind, models):
    own, sampling = models[kind], SIZES[kind]
    together, cost = draw(own, sampling)
    backwards, _ = draw(own, sampling, TEXTS[::-1], SEEDS[::-1])
    assert torch.equal(together, backwards.flip(0))
    alone, one = draw(own, sampling, TEXTS[1:2], SEEDS[1:2])
    assert torch.equal(alone[0], together[1]) and cost.flops == 3 * one.flops > 0
    # Elsewhere than on a CPU rows share a batch, padded on the left: the same tokens.
    padded = own.tokens(TEXTS, SEEDS, sampling)
    assert torch.equal(own.tokens(TEXTS[2:], SEEDS[2:], sampling)[0], padded[2])


@kinds
def test_prompt_seed_and_guidance_all_matter(kind, models):
    own, sampling = models[kind], SIZES[kind]
    base = draw(own, sampling, TEXTS[:1], [5])[0]
    other = Sampling(guidance=1.0, height=sampling.height, width=sampling.width)
    for changed in (draw(own, sampling, TEXTS[1:2], [5]), draw(own, sampling, TEXTS[:1], [6]),
                    draw(own, other, TEXTS[:1], [5])):  # fmt: skip
        assert not torch.equal(changed[0], base)


@kinds
def test_pictures_are_those_of_the_processor(kind, models):
    own, sampling = models[kind], SIZES[kind]
    drawn = draw(own, sampling)[0]
    with torch.inference_mode():
        raw = own.decode(own.tokens(TEXTS, SEEDS, sampling), sampling)
    theirs = own.processor.postprocess(list(raw), return_tensors="PIL.Image.Image")
    for image, one in zip(drawn, theirs["pixel_values"], strict=True):
        ours = torch.frombuffer(bytearray(to_pil(image).tobytes()), dtype=torch.uint8).int()
        cut = torch.frombuffer(bytearray(one.tobytes()), dtype=torch.uint8).int()
        assert ((ours - cut).abs() <= 1).all()  # they cut off where we round
        assert ours.float().std() > 5


@kinds
def test_marks_in_a_prompt_are_words(kind, models):
    own = models[kind]
    words = own.processor.tokenizer
    mark = words.boi_token
    assert own._texts([f"a {mark}3*4 dog"]) == [f"a < {mark[1:]}3*4 dog"]
    with torch.inference_mode():
        assert own.tokens([f"a {mark} dog"], [5], SIZES[kind]).shape == (
            own.tokens(["a dog"], [5], SIZES[kind]).shape)  # fmt: skip


def test_suffix_and_negative_prompt(models):
    emu3 = models["emu3"]
    base = draw(emu3, SIZES["emu3"], TEXTS[:1], [5])[0]
    for words in ({"suffix": " red"}, {"negative": "a bus"}):
        other = Emu3Generator(emu3.model, emu3.processor, **words)
        assert not torch.equal(draw(other, SIZES["emu3"], TEXTS[:1], [5])[0], base)
        assert other.provenance() | words == other.provenance()


def test_words_come_from_a_file(models, folders, tmp_path):
    """Commas and all, which no option on the command line can hold."""
    file = tmp_path / "words.yaml"
    file.write_text("suffix: ', fine'\nnegative: blurry, grey\n")
    told = load_generator(f"transformers:id={folders['emu3']},words={file}")
    assert (told.suffix, told.negative) == (", fine", "blurry, grey")
    same = Emu3Generator(models["emu3"].model, models["emu3"].processor, suffix=", fine",
                         negative="blurry, grey")  # fmt: skip
    sampling = SIZES["emu3"]
    assert torch.equal(draw(told, sampling, ["a"], [1])[0], draw(same, sampling, ["a"], [1])[0])
    with pytest.raises(ValueError, match="takes no negative one"):
        load_generator(f"transformers:id={folders['janus']},words={file}")
    for text, message in (("sufix: x", "did you mean 'suffix'"), ("- x", "must hold lines KEY")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_generator(f"transformers:id={folders['emu3']},words={file}")


# Settings


@pytest.mark.parametrize("kind, settings, message", [
    ("janus", {"height": 64, "width": 64}, "draws 32 x 32 pixels and nothing else, given height"),
    ("janus", {"steps": 8}, "has no setting steps"),
    ("emu3", {"height": 30}, "must be multiples of 8, given 30 and 720"),
])  # fmt: skip
def test_settings_that_a_model_has_not_are_refused(kind, settings, message, models):
    with pytest.raises(ValueError, match=message):
        draw(models[kind], Sampling(**settings))


def test_the_size_may_be_said(models):
    assert draw(models["janus"], Sampling(height=32), TEXTS[:1], [1])[0].shape == (1, 3, 32, 32)
    assert draw(models["emu3"], Sampling(height=8, width=16), ["a"], [1])[0].shape[2:] == (8, 16)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": 0}])
def test_sampling_that_is_none_is_refused(models, options):
    with pytest.raises(ValueError, match="temperature must be above 0 and top_k at least 1"):
        JanusGenerator(models["janus"].model, models["janus"].processor, **options)


def test_the_models_own_sampling_is_the_default(folders, tmp_path):
    import shutil

    copy = shutil.copytree(folders["emu3"], tmp_path / "copy")
    path = copy / "generation_config.json"
    own = {"top_k": 5, "temperature": 0.5, "guidance_scale": 2.5, "do_sample": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    model = load_generator(f"transformers:id={copy}")
    assert (model.top_k, model.temperature, model.guidance) == (5, 0.5, 2.5)
    given = load_generator(f"transformers:id={copy},top_k=7,temperature=1.5")
    assert (given.top_k, given.temperature) == (7, 1.5)
    assert given.provenance()["top_k"] == 7
    assert not torch.equal(draw(model, SIZES["emu3"])[0], draw(given, SIZES["emu3"])[0])


def test_there_is_no_preview_and_it_says_so(models):
    state = models["janus"].start([Request.of("a dog")], [1], Sampling())
    with pytest.raises(ValueError, match="has no preview; take a search over finished"):
        models["janus"].preview(state)


def test_broken_weights_are_no_pictures(folders):
    broken = load_generator(f"transformers:id={folders['emu3']}")
    torch.nn.init.constant_(broken.model.lm_head.weight, torch.nan)
    with pytest.raises(ValueError, match="scores of token 0 are NaN"):
        draw(broken, SIZES["emu3"])


@kinds
def test_provenance(kind, models, folders):
    record = models[kind].provenance()
    json.dumps(record, allow_nan=False)
    assert record["id"] == str(folders[kind]) and record["dtype"] == "float32"
    assert record["defaults"]["guidance"] == {"janus": 5.0, "emu3": 3.0}[kind]
    changed = load_generator(f"transformers:id={folders[kind]}")
    with torch.no_grad():
        changed.model.lm_head.weight[3, 3] += 1
    assert changed.provenance()["sha256"] != record["sha256"]


# Loading


@pytest.fixture
def copy(folders, tmp_path):
    import shutil

    return shutil.copytree(folders["janus"], tmp_path / "copy")


def test_a_model_that_does_not_draw_is_named(tmp_path):
    LlamaForCausalLM(LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                 num_attention_heads=1, vocab_size=9)
                     ).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(ValueError, match=r"of type 'llama', which does not draw .*emu3, janus"):
        load_generator(f"transformers:id={tmp_path}")


def test_pickled_weights_are_refused(copy):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match="cannot be loaded as a janus of transformers with safe"):
        load_generator(f"transformers:id={copy}")


def test_weights_that_lack_a_tensor_are_refused_by_its_name(copy):
    tensors = load_file(copy / "model.safetensors")
    key = next(key for key in tensors if "generation_head" in key)
    save_file({k: v for k, v in tensors.items() if k != key}, copy / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(ValueError, match=rf"does not fit its config.*{key} \(missing\)"):
        load_generator(f"transformers:id={copy}")


@pytest.mark.parametrize("kind", ["janus", "unheard-of"])
def test_code_of_a_folder_is_never_run(kind, copy, tmp_path):
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    path = copy / "config.json"
    code = {"model_type": kind, "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | code))
    if kind == "janus":
        load_generator(f"transformers:id={copy}")
    else:
        with pytest.raises(ValueError, match="nor a model of transformers' own classes"):
            load_generator(f"transformers:id={copy}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("options, message", [
    ("id=no/such-thing,local_files_only=true", "'no/such-thing' is neither a folder nor"),
    ("id={janus},dtype=int3", "dtype must be one of"),
    ("id={janus},revision=main", "is a folder: it has no revision"),
    ("id={janus},topk=3", "did you mean 'top_k'"),
    ("", "needs 'id'"),
])  # fmt: skip
def test_bad_options_are_named(folders, options, message):
    with pytest.raises(ValueError, match=message):
        load_generator("transformers:" + options.format(**folders))


# Runs


@kinds
def test_a_run_is_the_same_by_any_batch_and_after_an_interruption(kind, models, tmp_path):
    settings = tiny.settings(bench=tiny.BENCH.stratified(3), samples=1, sampling=SIZES[kind])
    base = evaluate(settings, models[kind], NoSearch(), tmp_path / "base", batch_size=3)
    again = evaluate(settings, models[kind], NoSearch(), tmp_path / "again", batch_size=1)
    again.image(1, 0).unlink()
    again.results.unlink()
    evaluate(settings, models[kind], NoSearch(), tmp_path / "again", batch_size=2)
    assert tiny.tree(tmp_path / "base") == tiny.tree(tmp_path / "again")
    best = evaluate(settings, models[kind], BestOfN(2, FakeSecond()), tmp_path / "best")
    assert best.sample(0, 0)["candidates"][0]["seed"] == base.sample(0, 0)["seed"]


def test_the_command_line_draws_and_goes_on(folders, tmp_path):
    command = ["generate", "a red dog", "two cats", "--model",
               f"transformers:id={folders['janus']}", "--out", str(tmp_path / "out")]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    first = tiny.tree(tmp_path / "out")
    (tmp_path / "out" / "00001-00.png").unlink()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert tiny.tree(tmp_path / "out") == first and len(first) == 4
