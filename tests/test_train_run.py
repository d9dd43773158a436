"""Recipes, the training loop, and every kind of training from recipe to folder, very small."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from diffusers.models import AutoencoderKL
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPConfig, CLIPModel

from impasto import files
from impasto.models import load_generator, tokenflow, vq
from impasto.models.mmdit import MMDiTGenerator
from impasto.models.storage import network_from
from impasto.sample.protocol import Request, Sampling, generate
from impasto.score.clip import ClipScorer
from impasto.score.detector import Mask2FormerDetector
from impasto.score.judges import base as judging
from impasto.score.voting import VotingDetector
from impasto.spec import CLASSES, Item, Spec
from impasto.train import data
from impasto.train import tokenflow as reading
from impasto.train.kinds import common, generators, scorers, tokenizers
from impasto.train.loop import Loop, NonFiniteLoss, learning_rate
from impasto.train.run import KINDS, Recipe, load_recipe, run_recipe
from impasto.zoo.registry import JUDGES
from tests.breaking import broken_off

RECIPES = sorted((Path(__file__).parent.parent / "recipes/sticker").glob("*.yaml"))
"""The others are stacks."""
GENERATORS = [name for name, kind in KINDS.items() if "autoencoder" in kind.keys]
TOKENIZERS = [name for name in KINDS if name.endswith("-tokenizer")]
SURGERY = [name for name, kind in KINDS.items() if kind.train.__module__.endswith("surgery")]
LAYTON = [name for name in KINDS if name.startswith("layton-")]
BASE = {"kind": "clip", "scenes": 1000, "steps": 2, "batch": 4, "lr": 1e-3}


def write(path, **values):
    path.write_text(yaml.safe_dump(BASE | values))
    return path


@pytest.fixture
def recipe(tmp_path):
    return write(tmp_path / "recipe.yaml")


# Recipes


@pytest.mark.parametrize(
    "key, value",
    [("time_mean", 1.0), ("freeze_encoder", 0.5), ("autoencoder", "a"), ("initial", "b"),
     ("drop_scales", 0.5)],
)
def test_a_key_that_the_kind_does_not_read_is_refused(key, value):
    with pytest.raises(ValueError, match=rf"{key} is of .* only, .* kind is clip"):
        Recipe(**BASE | {key: value})


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_every_recipe_loads(path):
    recipe = load_recipe(path)
    assert recipe.scenes % data.CHUNK == 0
    assert recipe.preset in ("sticker", "patches")
    assert (recipe.autoencoder is not None) == (recipe.kind in GENERATORS)


def test_recipes_hold_every_kind():
    assert {load_recipe(path).kind for path in RECIPES} == set(KINDS)


def test_recipes_have_their_own_data():
    seeds = {}
    for path in RECIPES:
        seeds.setdefault(load_recipe(path).data_seed, set()).add(load_recipe(path).kind)
    assert [kinds for kinds in seeds.values() if len(kinds) > 1] == [{"mask2former", "detector"}]


def test_only_what_draws_leaves_the_evaluation_out():
    for recipe in map(load_recipe, RECIPES):
        drawing = recipe.kind in ("autoencoder", *TOKENIZERS, *GENERATORS, *LAYTON, *SURGERY)
        drawing &= recipe.kind != "reader"
        drawing |= recipe.preset == "patches"  # what a tokenizer learns from
        assert recipe.split == ("train" if drawing else "all")


def test_a_recipe_is_read_and_overridden(recipe):
    assert load_recipe(recipe) == Recipe(**BASE)
    changed = load_recipe(recipe, {"steps": 7, "minutes": 0.5, "compiled": True})
    assert changed == Recipe(**BASE | {"steps": 7, "minutes": 0.5, "compiled": True})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"step": 3}, r"recipe\.yaml.*: unknown key 'step': did you mean 'steps'"),
        ({"kind": "detektor"}, "unknown kind 'detektor': did you mean 'detector'"),
        ({"split": "test"}, "unknown split 'test'; allowed: "),
        ({"scenes": 0}, "scenes must be a positive number, given 0"),
        ({"steps": -1}, "steps must be a positive number, given -1"),
        ({"batch": 0}, "batch must be a positive number, given 0"),
        ({"lr": 0.0}, "lr must be a positive number, given 0.0"),
        ({"lr": math.nan}, "lr must be a positive number, given nan"),
        ({"lr": "6e-4"}, "lr must be a positive number, given '6e-4'"),
        ({"minutes": 0}, "minutes must be a positive number, given 0"),
        ({"preset": "stiker"}, "did you mean 'sticker'"),
        ({"kind": "infinity-tokenizer", "drop_scales": 50}, "is a share, 0 to 1, given 50"),
    ],
)
def test_wrong_recipes_are_refused(tmp_path, recipe, values, words):
    with pytest.raises(ValueError, match=words):
        load_recipe(write(tmp_path / "recipe.yaml", **values))
    with pytest.raises(ValueError, match=words):
        load_recipe(write(recipe), values)


def test_an_unknown_key_is_named_with_its_line(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("# what it is\nkind: clip\n\nscnes: 3\n")
    with pytest.raises(ValueError, match=r"recipe\.yaml, line 4: unknown key 'scnes': did you"):
        load_recipe(path)
    path.write_text("kind: clip\n")
    with pytest.raises(ValueError, match=r"recipe\.yaml: unknown key 'stps'"):
        load_recipe(path, {"stps": 3})


@pytest.mark.parametrize("text", ["", "- kind\n", "clip"])
def test_files_that_are_no_recipe_are_refused(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.yaml must hold key: value lines"):
        load_recipe(path)


def test_scenes_come_in_thousands():
    with pytest.raises(ValueError, match="positive multiple of 1000, not 1500"):
        next(data.chunks(1500, 0))


# Every kind, from recipe to folder


@pytest.fixture(scope="module")
def small():
    """The pictures of sixteen scenes, drawn as a recipe's are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "CHUNK", 8)
        recipe = Recipe(**BASE | {"scenes": 16, "weights": {"single_object": 1.0}, "workers": 1})
        return common.pictures(recipe, torch.device("cpu"))


@pytest.fixture
def train(small, monkeypatch, tmp_path):
    """Trains a tiny network of a kind; gives its folder."""
    for module in (generators, scorers, tokenizers):
        monkeypatch.setattr(module, "pictures", lambda recipe, device: small)
    monkeypatch.setattr(tokenizers, "unseen", lambda device: small[0])

    def go(kind, name="out", **values):
        path = write(tmp_path / f"{kind}.yaml", kind=kind, preset="tiny", compiled=False, **values)
        return run_recipe(path, tmp_path / name)

    return go


def test_pictures_come_with_their_truth_and_captions(small):
    cache, captions, wrong = small
    assert len(cache) == len(captions) == len(wrong) == 16
    assert cache.images.dtype == cache.owner.dtype == torch.uint8
    masks = cache.masks(torch.arange(16))
    present = cache.classes >= 0
    assert torch.equal(masks.flatten(2).any(2), present)
    assert present[:, 0].all() and not (present.int().diff(dim=1) > 0).any()
    assert all(len(texts) == 3 and other not in texts
               for texts, other in zip(captions, wrong, strict=True))  # fmt: skip


def test_use_is_measured_on_scenes_that_no_recipe_draws(small, monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 8)
    monkeypatch.setattr(common, "CHUNK", 8)
    found = common.unseen(torch.device("cpu"))
    assert len(found) == 8
    assert common.UNSEEN_SEED not in {load_recipe(path).data_seed for path in RECIPES}
    assert not torch.equal(found.images, small[0].images[:8])


def checked(folder, kind, steps=2):
    """The folder's record, compared with the recipe."""
    record = json.loads((folder / "training.json").read_text())
    expected = asdict(Recipe(**BASE | {"kind": kind, "preset": "tiny"}))
    told = record["recipe"]
    assert {key: told[key] for key in expected if key != "autoencoder"} == {
        key: value for key, value in expected.items() if key != "autoencoder"
    }
    assert (record["steps"], record["images"]) == (steps, 4 * steps)
    assert (record["device"], record["torch"]) == ("cpu", torch.__version__)
    if kind not in GENERATORS:
        (file,) = folder.glob("*.safetensors")
        assert {t.dtype for t in load_file(file).values() if t.is_floating_point()} == {
            torch.bfloat16
        }
    return record


UNDER = {"generator": "autoencoder", "dit": "autoencoder", "infinity": "infinity-tokenizer",
         "var": "var-tokenizer"}  # fmt: skip


@pytest.mark.filterwarnings("ignore:a prompt of .* tokens is cut")
@pytest.mark.parametrize("kind", ["clip", "detector", "mask2former", "autoencoder", *UNDER])
def test_the_same_command_goes_on_with_what_was_broken_off(train, monkeypatch, kind):
    monkeypatch.setattr("impasto.train.loop.EXACT", set())  # bfloat16, as on a GPU
    values = {"steps": 4, "checkpoint_every": 2}
    if kind in UNDER:
        values["autoencoder"] = str(train(UNDER[kind], "under"))
    whole = train(kind, "whole", **values)
    with broken_off():
        train(kind, "broken", **values)
    left = whole.parent / "broken" / "checkpoint"
    assert [path.name for path in left.iterdir()] == ["00000002"]
    with pytest.raises(ValueError, match="seed is 0 there and 1 here"):
        train(kind, "broken", **values, seed=1)
    resumed = train(kind, "broken", **values)
    assert not left.exists()
    names = [path.relative_to(whole) for path in whole.rglob("*.safetensors")]
    assert names
    card = (whole / "README.md").read_text()
    assert "checkpoint/" not in card  # it is gone when the card is read
    assert all(f"| `{name.as_posix()}` |" in card for name in names)
    for name in names:
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name


def test_a_second_training_in_the_same_folder_is_refused(train, tmp_path):
    with files.lock(tmp_path / "out"), pytest.raises(files.LockedError, match="being written by"):
        train("clip", steps=1)
    assert not (tmp_path / "out" / "training.json").exists()
    assert not (train("clip", steps=1) / ".lock").exists()


def finite(module):
    return all(bool(torch.isfinite(p).all()) for p in module.parameters())


@pytest.mark.parametrize(
    ("kind", "loaded"), [("mask2former", Mask2FormerDetector), ("detector", VotingDetector)]
)
def test_a_detector_is_trained_and_loads(train, small, kind, loaded):
    folder = train(kind)
    checked(folder, kind)
    detector = loaded.from_pretrained(folder)
    assert finite(detector.model)
    assert len(detector.detect(small[0].images[:2] / 255)) == 2


def test_a_clip_is_trained_and_loads(train, small):
    folder = train("clip")
    checked(folder, "clip")
    scorer = ClipScorer.from_folder(folder)
    assert finite(scorer.model)
    own = [Spec(tag="test", include=(Item(cls="dog"),), prompt=texts[0]) for texts in small[1][:3]]
    scores = scorer.score(small[0].images[:3] / 255, own)
    assert all(-100 <= score.value <= 100 for score in scores)


@pytest.mark.filterwarnings("ignore:a prompt of .* tokens is cut")
def test_an_autoencoder_and_a_generator_are_trained_and_load(train):
    vae = train("autoencoder", "vae")
    checked(vae, "autoencoder")
    assert finite(AutoencoderKL.from_pretrained(vae))
    folder = train("generator", autoencoder=str(vae))
    assert checked(folder, "generator")["recipe"]["autoencoder"] == str(vae)
    pipe = MMDiTGenerator.from_pretrained(folder)
    assert finite(pipe.transformer) and finite(pipe.text_encoder)
    assert min(pipe.defaults.latent_std) > 0 and len(set(pipe.defaults.latent_std)) > 1
    images, _ = generate(pipe, [Request.of("a photo of a dog")], [0], Sampling(steps=1))
    assert images.shape == (1, 3, 32, 32) and torch.isfinite(images).all()


def test_a_dit_is_trained_loads_and_goes_on(train):
    folder = train("dit", autoencoder=str(train("autoencoder", "vae")))
    assert checked(folder, "dit")
    pipe = load_generator(f"dit:folder={folder}")
    assert finite(pipe.transformer) and len(set(pipe.defaults.latent_std)) > 1
    images, _ = generate(pipe, [Request.of("a photo of a dog")], [0], Sampling(steps=2))
    assert images.shape == (1, 3, 32, 32) and torch.isfinite(images).all()
    second = load_generator(train("dit", "second", initial=str(folder), lr=1e-12, data_seed=9))
    assert second.defaults == pipe.defaults
    for key, tensor in second.transformer.state_dict().items():
        torch.testing.assert_close(tensor, pipe.transformer.state_dict()[key], atol=1e-4,
                                   rtol=1e-2, msg=key)  # fmt: skip
    with pytest.raises(FileNotFoundError, match="'sticker-mmdt' is neither a folder nor weights"):
        train("dit", "third", autoencoder="sticker-mmdt")


@pytest.mark.filterwarnings("ignore:a prompt of .* tokens is cut")
@pytest.mark.parametrize(("kind", "watched"), [("infinity", "bit_entropy"), ("var", "codes_used")])
def test_a_tokenizer_and_what_draws_its_tokens_are_trained_and_load(train, kind, watched):
    vae = train(f"{kind}-tokenizer", "vae")
    checked(vae, f"{kind}-tokenizer")
    scales = json.loads((vae / "scales.json").read_text())
    assert len(scales[watched]) == len(scales["psnr"]) == 3
    folder = train(kind, autoencoder=str(vae))
    checked(folder, kind)
    pipe = load_generator(folder)
    assert finite(pipe.transformer)
    images, _ = generate(pipe, [Request.of("a photo of a dog")], [0])
    assert images.shape == (1, 3, 32, 32) and torch.isfinite(images).all()
    second = train(kind, "second", autoencoder=None, initial=str(folder), lr=1e-12)
    for name, network in load_generator(second).networks.items():
        before = pipe.components[name].state_dict()
        for key, tensor in network.state_dict().items():
            torch.testing.assert_close(tensor, before[key], atol=1e-4, rtol=1e-2, msg=key)
    with pytest.raises(ValueError, match="must name either a trained autoencoder"):
        train(kind)


@pytest.mark.filterwarnings("ignore:a prompt of .* tokens is cut")
def test_a_decoder_is_trained_for_the_bits_that_there_are(train, monkeypatch):
    """As `infinity-decoder.yaml` does: the encoder of a model's tokenizer stays as it is."""
    asked = []
    learn = tokenizers.train_tokenizer

    def watched(*args, **numbers):
        asked.append(numbers.get("drop_scales"))
        return learn(*args, **numbers)

    monkeypatch.setattr(tokenizers, "train_tokenizer", watched)
    vae = train("infinity-tokenizer", "vae", lr=0.01)
    model = train("infinity", autoencoder=str(vae))
    decoder = train("infinity-tokenizer", "decoder", initial=str(model), freeze_encoder=0.0,
                    drop_scales=0.5, lr=0.01)  # fmt: skip
    assert asked == [None, 0.5]
    before, after = (load_file(folder / common.FILE) for folder in (vae, decoder))
    for key in after:
        same = torch.equal(before[key], after[key])
        assert same == key.startswith("encoder.") or "bias" in key, key
    other = train("var", autoencoder=str(train("var-tokenizer", "other")))
    with pytest.raises(ValueError, match="has no tokenizer that this one can start from"):
        train("infinity-tokenizer", "refused", initial=str(other))


# What tokenizers of codebooks learn


def teacher(folder):
    """A CLIP whose tower is that of tokenflow's tiny tokenizer."""
    config = tokenflow.TOKENIZERS["tiny"]()
    text = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 1, "projection_dim": 12}  # fmt: skip
    CLIPModel(CLIPConfig(vision_config=dict(config.vision) | {"projection_dim": 12},
                         text_config=text, projection_dim=12)).save_pretrained(folder)
    return folder


def test_a_tokenizer_of_one_codebook_is_trained_and_loads(train):
    folder = train("vq-tokenizer", model={"vocabulary": 16}, steps=2, save_every=1,
                   objective={"perceptual": "sticker-detector", "adversarial_weight": 0.1,
                              "adversarial_start": 0.5, "filters": 8, "layers": 1})  # fmt: skip
    scales = json.loads((folder / "scales.json").read_text())
    assert scales["vocabulary"] == 16 and len(scales["codes_used"]) == 1
    model = network_from(vq.VQTokenizer, folder)
    assert finite(model) and model.vocabulary == 16


def test_tokenflows_tokenizer_starts_from_its_teacher_unless_told_not_to(train, tmp_path):
    clip = teacher(tmp_path / "teacher")
    tower = CLIPModel.from_pretrained(clip).vision_model.state_dict()
    found = {}
    for start in (True, False):
        folder = train("tokenflow-tokenizer", f"start-{start}", teacher=str(clip), lr=1e-12,
                       start=start)  # fmt: skip
        vision = network_from(tokenflow.TokenFlowTokenizer, folder).encoder_vqkd.vision
        found[start] = all(torch.allclose(own, tower[key], atol=1e-2)
                           for key, own in vision.state_dict().items())  # fmt: skip
    assert found == {True: True, False: False}
    decoder = train("tokenflow-tokenizer", "decoder", initial=str(folder), freeze_encoder=0.0,
                    lr=0.01)  # fmt: skip
    before, after = (load_file(path / common.FILE) for path in (folder, decoder))
    ids = ("encoder.", "encoder_vqkd.", "encode_task", "quant_conv", "quantize.")
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert changed and not [key for key in changed if key.startswith(ids)]


@pytest.mark.filterwarnings("ignore:a prompt of .* tokens is cut")
def test_what_draws_tokenflows_codes_is_trained_and_bound_to_its_tokenizer(
    train, monkeypatch, tmp_path
):
    monkeypatch.setattr("impasto.train.loop.EXACT", set())  # bfloat16, as on a GPU
    vae = train("tokenflow-tokenizer", "vae", teacher=str(teacher(tmp_path / "teacher")),
                model={"vocabulary": 24})  # fmt: skip
    folder = train("tokenflow", autoencoder=str(vae), model={"depth": 1})
    pipe = load_generator(folder)
    assert finite(pipe.transformer) and pipe.transformer.config["depth"] == 1
    assert pipe.defaults.tokens == pipe.vae.token_digest() and pipe.vae.vocabulary == 24
    images, _ = generate(pipe, [Request.of("a photo of a dog")], [0])
    assert images.shape == (1, 3, 32, 32) and torch.isfinite(images).all()
    second = train("tokenflow", "second", initial=str(folder), lr=1e-12)
    before, after = (load_generator(path).transformer.state_dict() for path in (folder, second))
    for key, tensor in before.items():
        torch.testing.assert_close(after[key], tensor, atol=1e-4, rtol=1e-2, msg=key)


def test_readers_of_codes_and_of_features_are_trained_and_answer(train, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PART", 8)
    clip = str(teacher(tmp_path / "teacher"))
    vae = train("tokenflow-tokenizer", "vae", teacher=clip)
    for name, values in (("codes", {"autoencoder": str(vae)}),
                         ("features", {"features": f"clip-patches:folder={clip}"})):
        folder = train("reader", name, scenes=16, workers=1, **values)
        options = ",features=(clip-patches:folder=" + clip + ")" if name == "features" else ""
        judge = JUDGES.create(f"reader:path={folder}{options}")
        assert finite(judge.network) and judge.features.name in ("codes", "clip-patches")
        question = judging.Question((torch.rand(3, 128, 128),), "Is there a dog?")
        assert isinstance(judge.ask(question, max_tokens=3), str)
    with pytest.raises(ValueError, match="either a tokenizer's folder in autoencoder or patch"):
        train("reader", "none", scenes=16)


@pytest.mark.parametrize(
    ("values", "words"),
    [({}, "needs a teacher"), ({"initial": "x"}, "needs a teacher"),
     ({"teacher": "t", "model": {"codes": 3}}, "model has no 'codes'"),
     ({"teacher": "t", "objective": {"perceptual": "vgg"}}, "perceptual 'vgg': did you mean"),
     ({"teacher": "t", "model": {"target": 4}}, "speaks in 12 channels; .* target is 4")],
)  # fmt: skip
def test_trainings_of_tokenflow_that_cannot_be_are_refused(train, tmp_path, values, words):
    if "teacher" in values:
        values = values | {"teacher": str(teacher(tmp_path / "t"))}
    with pytest.raises(ValueError, match=words):
        train("tokenflow-tokenizer", **values)


def test_training_changes_the_weights_and_repeats_by_seed(train):
    first, again = train("detector", "a"), train("detector", "b")
    other = train("detector", "c", seed=1)
    longer = train("detector", "d", steps=3)
    files = [folder / common.FILE for folder in (first, again, other, longer)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len({file.read_bytes() for file in files}) == 3


@pytest.mark.parametrize("kind", ["mask2former", "detector", "autoencoder"])
def test_training_goes_on_from_initial_weights(train, kind):
    """A learning rate of nearly nothing leaves them as they were."""
    first = train(kind, "first", lr=0.01)
    second = train(kind, "second", initial=str(first), lr=1e-12, seed=1)
    name = "model.safetensors" if kind == "mask2former" else common.FILE
    before, after = (load_file(folder / name) for folder in (first, second))
    for key, tensor in before.items():
        torch.testing.assert_close(after[key], tensor, atol=1e-6, rtol=1e-2)


@pytest.mark.filterwarnings("ignore:a prompt of .* tokens is cut")
def test_a_generator_goes_on_with_its_own_autoencoder_words_and_moments(train):
    vae = train("autoencoder", "vae")
    first = train("generator", "first", autoencoder=str(vae), lr=0.01)
    second = train("generator", "second", autoencoder=None, initial=str(first), lr=1e-12,
                   data_seed=99)  # fmt: skip
    before, after = (MMDiTGenerator.from_pretrained(folder) for folder in (first, second))
    assert before.defaults == after.defaults
    assert before.tokenizer.get_vocab() == after.tokenizer.get_vocab()
    for name in ("transformer", "vae", "text_encoder"):
        ours, theirs = (pipe.components[name].state_dict() for pipe in (before, after))
        for key, tensor in ours.items():
            torch.testing.assert_close(theirs[key], tensor, atol=1e-4, rtol=1e-2, msg=key)


def test_a_frozen_encoder_stays_as_it_was_saved(train, monkeypatch):
    saved, write_weights = [], common.save_weights

    def save(path, state, format):
        saved.append({key: value.clone() for key, value in state.items()})
        write_weights(path, state, format)

    monkeypatch.setattr(common, "save_weights", save)
    train("autoencoder", steps=4, freeze_encoder=0.5, lr=0.01)
    halfway, final = saved
    for key in final:
        if final[key].abs().sum() > 0 and "bias" not in key:
            assert torch.equal(halfway[key], final[key]) == key.startswith("encoder."), key


def test_a_generator_needs_an_autoencoder(train):
    with pytest.raises(ValueError, match="must name either a trained autoencoder"):
        train("generator")
    with pytest.raises(ValueError, match="must name either a trained autoencoder"):
        train("generator", autoencoder="a", initial="b")


def test_a_trained_detector_knows_genevals_classes(train):
    detector = Mask2FormerDetector.from_pretrained(train("mask2former"))
    assert detector.classes == list(CLASSES)


# The loop


def line(weight=1.0):
    model = nn.Linear(2, 1)
    nn.init.constant_(model.weight, weight)
    nn.init.zeros_(model.bias)
    return model


def step(loop, factor=1.0):
    loop.update(factor * loop.model(torch.ones(4, 2)).square().mean())


def test_the_learning_rate_rises_and_falls():
    assert learning_rate(0.0) == 0 and learning_rate(0.02) == 1
    assert learning_rate(0.01) == pytest.approx(0.5)
    assert learning_rate(0.51) == pytest.approx(0.5)
    assert learning_rate(1.0) == pytest.approx(0)


def test_the_loop_runs_its_steps_and_lowers_the_loss(capsys):
    model = line()
    loop = Loop(model, 30, 0.1, name="line")
    while loop.running:
        step(loop)
    assert loop.step == loop.steps == 30
    assert model.weight.abs().max() < 0.9
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("line") and "step 1 loss 4.0000" in told[0]
    assert "100.0% step 30" in told[-1]


def test_the_loop_runs_its_minutes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("impasto.train.loop.time.monotonic", lambda: now[0])
    loop = Loop(line(), 1000, 0.1, minutes=0.5)
    while loop.running:
        now[0] += 10
        step(loop)
    assert loop.step == loop.steps == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_loop_and_names_the_step(bad):
    loop = Loop(line(), 10, 0.1, log_every=0.0, name="line")
    for _ in range(3):
        step(loop)
    with pytest.raises(NonFiniteLoss, match=f"line: loss is {bad} at step 4"):
        step(loop, bad)


@pytest.mark.parametrize("at", [0, 9])
def test_the_first_and_the_last_loss_are_always_looked_at(at):
    loop = Loop(line(), 10, 0.1, log_every=1e9)
    for _ in range(at):
        step(loop)
    with pytest.raises(NonFiniteLoss, match=f"at step {at + 1}"):
        step(loop, math.nan)


def test_the_last_loss_is_looked_at_when_minutes_end(monkeypatch):
    """Else weights that are not finite are kept as the result."""
    now = [0.0]
    monkeypatch.setattr("impasto.train.loop.time.monotonic", lambda: now[0])
    model = line()
    loop = Loop(model, 1000, 0.1, minutes=0.5, log_every=1e9)
    with pytest.raises(NonFiniteLoss):
        while loop.running:
            now[0] += 10
            step(loop, math.nan if now[0] > 10 else 1.0)
        loop.load_average()


def test_averaged_weights_are_for_the_block_only():
    model = line()
    loop = Loop(model, 10, 0.1)
    for _ in range(5):
        step(loop)
    own, average = model.weight.detach().clone(), loop.averaged[0].clone()
    assert not torch.equal(own, average)
    with loop.averaged_weights():
        assert torch.equal(model.weight, average)
    assert torch.equal(model.weight, own)
    loop.load_average()
    assert torch.equal(model.weight, average)


def test_averaged_weights_are_for_the_block_only_even_when_it_fails():
    model = line()
    loop = Loop(model, 10, 0.1)
    for _ in range(5):
        step(loop)
    own = model.weight.detach().clone()
    with pytest.raises(OSError, match="full"), loop.averaged_weights():
        raise OSError("disk full")
    assert torch.equal(model.weight, own)


def test_the_average_follows_slowly_and_leans_to_the_start_less_and_less():
    model = line()
    loop = Loop(model, 10, 0.0, ema_decay=0.5)
    nn.init.constant_(model.weight, 2.0)
    expected = 1.0
    for k in range(1, 9):
        step(loop)
        decay = min(0.5, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * 2.0
        assert float(loop.averaged[0][0, 0]) == pytest.approx(expected)


def test_frozen_weights_are_left_alone():
    model = nn.Sequential(line(), nn.Linear(1, 1))
    model[0].requires_grad_(False)
    loop = Loop(model, 5, 0.1)
    while loop.running:
        step(loop)
    assert torch.equal(model[0].weight, torch.ones(1, 2))
    assert len(loop.averaged) == 2
