"""Layton from its front to what draws, by recipes, very small."""

from dataclasses import asdict, replace

import pytest
import torch
import yaml
from torch import nn

from impasto.models import load_generator
from impasto.models.autoencoders import load_autoencoder
from impasto.models.layton import DECODINGS, Decoding, LaytonTokenizer, train
from impasto.models.layton.train import pixel_loss
from impasto.models.storage import network_from
from impasto.models.vq import VQTokenizer
from impasto.sample.protocol import Request, generate
from impasto.train import data
from impasto.train import layton as trainings
from impasto.train.kinds import common, generators, layton, tokenizers
from impasto.train.layton import PixelObjective
from impasto.train.run import Recipe, run_recipe
from impasto.zoo.weights import load_state
from tests import tiny_mmdit, tiny_vq
from tests.breaking import broken_off

BASE = {"preset": "tiny", "scenes": 1000, "steps": 2, "batch": 4, "lr": 0.01, "compiled": False}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """name -> folder of every step, each on the one before."""
    out, small = tmp_path_factory.mktemp("layton"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "CHUNK", 8)
        values = BASE | {"kind": "clip", "scenes": 16, "workers": 1}
        small["of all"] = common.pictures(Recipe(**values), torch.device("cpu"))
    source = out / "mmdit"
    tiny_mmdit.tiny().save_pretrained(source)

    def train(kind, name=None, **values):
        path = out / "recipe.yaml"
        path.write_text(yaml.safe_dump(BASE | {"kind": kind} | values))
        with pytest.MonkeyPatch.context() as patch:
            for module in (generators, layton, tokenizers):
                patch.setattr(module, "pictures", lambda recipe, device: small["of all"])
            patch.setattr(tokenizers, "unseen", lambda device: small["of all"][0])
            return run_recipe(path, out / (name or kind))

    made = {"train": train, "source": source}
    made["front"] = train("vq-tokenizer", sides=[16, 24])
    made["base"] = train("layton-base", autoencoder=str(source))
    made["accelerator"] = train("layton-accelerator", initial=str(made["base"]))
    made["alignment"] = train("layton-alignment", initial=str(made["accelerator"]),
                              front=str(made["front"]), sides=[16, 24])  # fmt: skip
    made["pixels"] = train("layton-pixels", initial=str(made["alignment"]),
                           pixels={"l1": 1.0, "first": 800})  # fmt: skip
    return made


def parts(folder):
    """Part -> its tensors."""
    names = {"vq": "vq", "vae": "vae", "unet": "unet", "copy": "controlnet"}
    found = {part: load_state(folder / name / "diffusion_pytorch_model.safetensors")
             for part, name in names.items()}  # fmt: skip
    return found | {"accelerator": load_state(folder / "lora" / "adapter_model.safetensors")}


def changed(before, after):
    """Parts in which a tensor is another."""
    others = parts(after)
    return {part for part, tensors in parts(before).items()
            if any(not torch.equal(tensor, others[part][key])
                   for key, tensor in tensors.items())}  # fmt: skip


def test_every_step_changes_its_own_part_alone(chain):
    assert changed(chain["base"], chain["accelerator"]) == {"accelerator"}
    assert changed(chain["accelerator"], chain["alignment"]) == {"copy", "vq"}
    assert changed(chain["alignment"], chain["pixels"]) == {"copy"}


def test_the_base_begins_with_the_given_parts(chain):
    model = network_from(LaytonTokenizer, chain["base"])
    source = load_generator(chain["source"])
    assert model.config["latent_mean"] == list(source.defaults.latent_mean)
    assert model.config["latent_std"] == list(source.defaults.latent_std)
    # The copy is of the trained base, behind zero convolutions: codes say nothing yet.
    own, copy = parts(chain["base"])["unet"], parts(chain["base"])["copy"]
    assert all(torch.equal(tensor, own[key]) for key, tensor in copy.items() if key in own)
    assert "conv_in.weight" in own and "conv_in.weight" in copy
    ids = torch.arange(4)[None]
    a, b = (model.decode_tokens([x], model.sizes_of(32, 32), seeds=[3]) for x in (ids, ids + 9))
    assert torch.equal(a, b)


def test_codes_are_the_fronts_from_the_alignment_on(chain):
    model, front = (network_from(kind, chain[name]) for kind, name in (
        (LaytonTokenizer, "pixels"), (VQTokenizer, "front")))  # fmt: skip
    for key, tensor in model.vq.state_dict().items():
        assert torch.equal(tensor, front.state_dict()[key]), key
    assert model.token_digest() == front.token_digest()


def test_a_front_of_another_codebook_is_taken_and_of_other_channels_refused(chain):
    made = network_from(LaytonTokenizer, chain["base"])
    larger = tiny_vq.tokenizer(vocabulary=64)
    made.take_front(larger)
    x = torch.rand(2, 3, 16, 16)
    assert made.vocabulary == 64 and made.token_digest() == larger.token_digest()
    assert torch.equal(made.encode(x, ((2, 2),))[0], larger.encode(x)[0])
    assert not any(p.requires_grad for p in made.vq.parameters())
    with pytest.raises(ValueError, match="codes of 4 channels, and this front's have 6"):
        made.take_front(tiny_vq.tokenizer(channels=6))
    with pytest.raises(ValueError, match="reads 16 px a token, and copies have"):
        made.take_front(tiny_vq.tokenizer(widths=(8, 8, 8, 16, 16)))
    assert made.token_digest() == larger.token_digest()


@pytest.mark.parametrize("kind", ["layton-base", "layton-alignment"])
def test_a_recipe_says_how_times_weigh(chain, monkeypatch, kind):
    seen, weights = [], train.min_snr_weights
    monkeypatch.setattr(train, "min_snr_weights",
                        lambda t, gamma: seen.append(gamma) or weights(t, gamma))  # fmt: skip
    given = ({"autoencoder": str(chain["source"])} if kind == "layton-base" else
             {"initial": str(chain["base"]), "front": str(chain["front"])})  # fmt: skip
    chain["train"](kind, f"{kind} plain", **given)
    assert not seen
    chain["train"](kind, f"{kind} weighted", min_snr=0.05, **given)
    assert set(seen) == {0.05}


def test_a_front_comes_to_where_the_others_are(chain):
    made = network_from(LaytonTokenizer, chain["base"])
    nn.Module.to(made, "meta")
    made.take_front(tiny_vq.tokenizer())
    assert {tensor.device.type for tensor in made.state_dict().values()} == {"meta"}


def test_what_was_learnt_is_decoded_in_all_ways(chain):
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made = {}
    ways = ("decoding=ddim,steps=2", "decoding=tlcm,steps=1", "decoding=hyper", "steps=3",
            "tokens_side=24")  # fmt: skip
    for text in ways:
        found = load_autoencoder(f"layton:folder={chain['pixels']},{text}").reconstruct(x)
        made[text] = found.images
        assert found.images.shape == x.shape and torch.isfinite(found.images).all()
        assert found.ids[0].shape == (2, 9 if "side" in text else 4)
    one = made["decoding=tlcm,steps=1"]
    assert not torch.equal(one, made["decoding=hyper"])
    assert not torch.equal(one, made["steps=3"])


@pytest.mark.filterwarnings("ignore:a prompt of .* tokens is cut")
def test_pixels_are_decoded_as_they_were_learnt(chain):
    """A folder says by which steps its copy learnt; no other would do."""
    assert network_from(LaytonTokenizer, chain["alignment"]).decoding == DECODINGS["tlcm"]
    learnt = {"pixels": {"steps": 1, "first": 800, "scale": 0.7, "l1": 1.0}}
    one = chain["train"]("layton-pixels", "one", initial=str(chain["alignment"]), **learnt)
    way = replace(DECODINGS["hyper"], scale=0.7)
    assert network_from(LaytonTokenizer, one).decoding == way
    for name in (one, f"layton:folder={one}"):
        assert load_autoencoder(name).provenance()["decoding"] == asdict(way)
    drawing = chain["train"]("layton", "from one", autoencoder=str(one), model={"depth": 1})
    assert network_from(LaytonTokenizer, drawing / "vae").decoding == way
    three = load_autoencoder(f"layton:folder={one},steps=3").provenance()["decoding"]
    assert three == asdict(replace(way, steps=3, first=None))


def test_pixels_are_learnt_through_one_and_two_steps_in_turn(chain, monkeypatch):
    """Two alone leave the first, which has no gradient, to drift."""
    seen = []
    monkeypatch.setattr(trainings, "pixel_loss", lambda *args, own=pixel_loss, **given: (
        seen.append(given["decoding"]), own(*args, **given))[1])  # fmt: skip
    made = chain["train"]("layton-pixels", "in turn", initial=str(chain["alignment"]), steps=12,
                          pixels={"steps": [1, 2], "l1": 1.0, "scale": 0.7})  # fmt: skip
    one, two = Decoding(steps=1, scale=0.7), Decoding(steps=2, scale=0.7)
    assert len(seen) == 12 and seen.count(one) + seen.count(two) == 12
    assert 0 < seen.count(one) < 12
    assert network_from(LaytonTokenizer, made).decoding == two


@pytest.mark.filterwarnings("ignore:a prompt of .* tokens is cut")
def test_what_draws_its_ids_is_trained_and_bound_to_it(chain):
    folder = chain["train"]("layton", autoencoder=str(chain["pixels"]), model={"depth": 1})
    pipe = load_generator(folder)
    assert isinstance(pipe.vae, LaytonTokenizer)
    assert pipe.transformer.config["depth"] == 1 and pipe.transformer.side == 2
    # Stored without rounding: the ids stay those that the copy's other trainings know.
    before = network_from(LaytonTokenizer, chain["alignment"]).token_digest()
    assert pipe.defaults.tokens == pipe.vae.token_digest() == before
    other = load_generator(f"layton:folder={folder},vae={chain['alignment']}")
    assert other.vae.decoding == DECODINGS["tlcm"] != pipe.vae.decoding
    images, _ = generate(pipe, [Request.of("a photo of a dog")], [0])
    assert images.shape == (1, 3, 32, 32) and torch.isfinite(images).all()
    plain = chain["train"]("layton", "plain", autoencoder=str(chain["front"]), steps=1)
    assert load_generator(plain).transformer.side == 128 // 8


@pytest.mark.parametrize(
    ("kind", "given"),
    [("layton-base", {}), ("layton-accelerator", {"initial": "base"}),
     ("layton-alignment", {"initial": "base", "front": "front", "sides": [16, 24]}),
     ("layton-pixels", {"initial": "alignment", "sides": [16, 24]})],
)  # fmt: skip
def test_the_same_command_goes_on_to_the_same_bits(chain, monkeypatch, kind, given):
    monkeypatch.setattr("impasto.train.loop.EXACT", set())  # bfloat16, as on a GPU
    values = {"steps": 4, "checkpoint_every": 2, **given}
    values |= {key: str(chain[values[key]]) for key in ("initial", "front") if key in values}
    if "initial" not in values:
        values["autoencoder"] = str(chain["source"])
    whole = chain["train"](kind, f"{kind}-whole", **values)
    with broken_off():
        chain["train"](kind, f"{kind}-broken", **values)
    resumed = chain["train"](kind, f"{kind}-broken", **values)
    assert changed(whole, resumed) == set()


def test_copies_of_several_sizes_are_learnt_in_turn(chain, monkeypatch):
    seen = []
    monkeypatch.setattr(VQTokenizer, "features", lambda model, x, own=VQTokenizer.features: (
        seen.append(x.shape[-1]), own(model, x))[1])  # fmt: skip
    chain["train"]("vq-tokenizer", "sides", sides=[8, 16, 24], steps=12)
    assert set(seen[:12]) == {8, 16, 24}


def test_small_copies_are_enlarged_again(chain):
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made = load_autoencoder(f"shrunk:folder={chain['front']},side=16")
    found, plain = made.reconstruct(x), load_autoencoder(str(chain["front"]))
    small = torch.nn.functional.interpolate(x, (16, 16), mode="bilinear", antialias=True)
    assert torch.equal(found.ids[0], plain.reconstruct(small).ids[0])
    assert found.images.shape == x.shape and made.provenance()["side"] == 16
    with pytest.raises(ValueError, match="no smaller, not of 8 x 8"):
        made.reconstruct(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="multiples of 8"):
        load_autoencoder(f"shrunk:folder={chain['front']},side=12")


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [("layton-base", {}, "name it in autoencoder, such as sticker-mmdit"),
     ("layton-alignment", {"initial": "base"}, "name the folder that kind vq-tokenizer made"),
     ("layton-pixels", {}, "name its folder in initial"),
     ("layton-alignment", {"initial": "base", "front": "front", "sides": [20]},
      "tokens are read off a copy of 8"),
     ("layton-pixels", {"initial": "base", "pixels": {"steps": 3}},
      r"must be 1, 2 or \[1, 2\], given 3"),
     ("layton-pixels", {"initial": "base", "pixels": {"l3": 3}}, "pixels has no 'l3'"),
     ("layton-alignment", {"initial": "base", "front": "front", "min_snr": 0},
      "min_snr must be a positive number, given 0"),
     ("layton-pixels", {"initial": "base", "min_snr": 5.0},
      "min_snr is of layton-base and layton-alignment only"),
     ("vq-tokenizer", {"sides": [20]}, "multiples of 8 pixels, not 20 x 20")],
)  # fmt: skip
def test_trainings_that_cannot_be_are_refused(chain, kind, values, words):
    given = {key: str(chain[value]) if value in ("front", "source", "base") else value
             for key, value in values.items() if not isinstance(value, list | dict)}  # fmt: skip
    with pytest.raises(ValueError, match=words):
        chain["train"](kind, "refused", **values | given)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"first": 5, "steps": 2}, "`first` is the time of a single step"),
     ({"first": 5, "steps": [1, 2]}, "`first` is the time of a single step"),
     ({"steps": [2, 1]}, r"must be 1, 2 or \[1, 2\], given \[2, 1\]"),
     ({"perceptual": "vgg"}, "perceptual 'vgg'"), ({"l1": -1.0}, "l1 must be a number >= 0")],
)  # fmt: skip
def test_bad_objectives_of_pixels(given, words):
    with pytest.raises(ValueError, match=words):
        PixelObjective(**given)
