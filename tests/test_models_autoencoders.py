"""Autoencoders by folder, by name, and what is refused."""

import json

import pytest
import torch
from diffusers.models import AutoencoderKL, VQModel
from safetensors.torch import load_file, save_file

from impasto.images import quantise
from impasto.models import load_generator
from impasto.models.autoencoders import FILE, load_autoencoder
from impasto.models.next_scale.maps import from_tokens
from impasto.models.storage import save_network
from impasto.run.pictures import Frame, open_pictures
from impasto.zoo.registry import TOKENIZERS
from impasto.zoo.weights import save_weights
from tests import tiny_infinity, tiny_tokenflow, tiny_tokenflow_lm, tiny_var, tiny_vq

BLOCKS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}


def saved(folder, cls=AutoencoderKL, **changes):
    kind = "Encoder", "Decoder"
    blocks = {"down_block_types": (f"Down{kind[0]}Block2D",) * 2,
              "up_block_types": (f"Up{kind[1]}Block2D",) * 2}  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cls(**(BLOCKS | blocks | changes)).eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def test_a_kl_autoencoder_goes_through_the_mode(tmp_path, images):
    model = saved(tmp_path)
    made = load_autoencoder(tmp_path)
    with torch.inference_mode():
        z = model.encode(2 * images - 1).latent_dist.mean
        expected = (model.decode(z).sample / 2 + 0.5).clamp(0, 1)
    found = made.reconstruct(images)
    torch.testing.assert_close(found.images, expected, rtol=1e-4, atol=1e-5)
    assert found.ids is None and made.factor == 2 and made.codebook_size is None
    assert torch.equal(made.reconstruct(images[1:]).images, found.images[1:])


def test_a_quantised_one_tells_its_codes(tmp_path, images):
    """The nearest row of the codebook at each place, by torch.cdist."""
    model = saved(tmp_path, VQModel, num_vq_embeddings=16, latent_channels=3)
    made = load_autoencoder(tmp_path)
    found = made.reconstruct(images)
    with torch.inference_mode():
        z = model.encode(2 * images - 1).latents.permute(0, 2, 3, 1).reshape(-1, 3)
        nearest = torch.cdist(z, model.quantize.embedding.weight).argmin(1)
        whole = (model(2 * images - 1).sample / 2 + 0.5).clamp(0, 1)
    assert made.codebook_size == 16 and found.ids[0].shape == (2, 16 * 24)
    assert torch.equal(found.ids[0].flatten(), nearest)
    torch.testing.assert_close(found.images, whole, rtol=1e-4, atol=1e-5)


def test_the_generator_that_ships_and_its_own_autoencoder_agree(images):
    made = load_autoencoder("sticker-mmdit")
    pipe = load_generator("sticker-mmdit")
    with torch.inference_mode():
        through = pipe.decode(pipe.encode(images))  # normalised latents and back
    gap = quantise(made.reconstruct(images).images) - quantise(through)
    assert float(gap.abs().max()) <= 1 / 255 + 1e-6 and made.factor == 8
    assert made.provenance()["latent_channels"] == 16 and made.provenance()["latent"] == "mode"


def test_int8_weights_of_ours(tmp_path, images):
    model = saved(tmp_path, block_out_channels=(64, 64))
    save_weights(tmp_path / FILE, model.state_dict(), "int8")
    found = load_autoencoder(tmp_path).reconstruct(images).images
    exact = saved(tmp_path / "float", block_out_channels=(64, 64))
    assert exact is not model
    exact = load_autoencoder(tmp_path / "float").reconstruct(images).images
    assert 0 < float((found - exact).abs().mean()) < 0.05


def test_weights_that_do_not_fit_are_refused(tmp_path):
    saved(tmp_path)
    state = load_file(tmp_path / FILE)
    save_file({k: v for k, v in state.items() if k != "decoder.conv_out.bias"}, tmp_path / FILE)
    with pytest.raises(ValueError, match=r"decoder\.conv_out\.bias \(missing\)"):
        load_autoencoder(tmp_path)
    save_file(state | {"extra.weight": torch.zeros(2)}, tmp_path / FILE)
    with pytest.raises(ValueError, match=r"extra\.weight \(unexpected\)"):
        load_autoencoder(tmp_path)
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_autoencoder(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(FileNotFoundError, match="read from safetensors only"):
        load_autoencoder(tmp_path)


def test_other_folders_and_names_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(ValueError, match=r"holds a UNet2DModel; .*: AutoencoderKL, VQModel, "):
        load_autoencoder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        load_autoencoder(tmp_path / "..")
    with pytest.raises(ValueError, match=r"unknown tokenizer 'sticker-mmdid'.* 'sticker-mmdit'"):
        load_autoencoder("sticker-mmdid")


def test_of_a_generators_hub_id_only_the_autoencoder_is_fetched(tmp_path, monkeypatch):
    saved(tmp_path / "vae")
    asked = []

    def fetch(name, allow_patterns, repo_type):
        asked.extend(allow_patterns)
        if name == "some/other":
            raise OSError("no network\nmore")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert load_autoencoder("some/generator").sha256 == load_autoencoder(tmp_path).sha256
    assert {name.rpartition("/")[2] for name in asked} == {"config.json", FILE}
    assert {name.rpartition("/")[0] for name in asked} == {"", "vae", "vqvae"}
    with pytest.raises(ValueError, match=r"'some/other' is neither .* the hub: no network$"):
        load_autoencoder("some/other")


def test_pictures_must_fit(tmp_path):
    saved(tmp_path)
    with pytest.raises(ValueError, match="multiples of 2 pixels, not 31 x 32"):
        load_autoencoder(tmp_path).reconstruct(torch.zeros(1, 3, 32, 31))


def test_the_tokenizer_of_a_generator_of_codes_knows_its_scales(tmp_path):
    generator = tiny_tokenflow_lm.generator()
    generator.save_pretrained(tmp_path, "float32")
    whole, alone = load_autoencoder(tmp_path), load_autoencoder(tmp_path / "vae")
    assert whole.digest == alone.digest == generator.vae.token_digest()
    assert whole.sizes_of(32, 32) == generator.square_sizes


@pytest.mark.parametrize("family", [tiny_infinity, tiny_var])
def test_a_next_scale_tokenizer_goes_through_its_tokens(tmp_path, family):
    generator = family.generator()
    generator.save_pretrained(tmp_path, "float32")
    made, (height, width) = load_autoencoder(tmp_path), generator.default_size()
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    sizes, vae = generator.square_sizes, generator.vae
    with torch.inference_mode():
        expected = torch.cat([vae.decode_tokens(vae.encode(x[None], sizes), sizes)
                              for x in images])  # fmt: skip
    found = made.reconstruct(images)
    assert torch.equal(found.images, expected)
    assert torch.equal(made.decode_ids(found.ids, height, width), expected)
    assert made.provenance()["sizes"] == [list(size) for size in sizes]
    with pytest.raises(ValueError, match=f"takes pictures of {width} x {height} pixels"):
        made.reconstruct(images[..., :-8])
    with pytest.raises(ValueError, match="scales are its generator's: give the generator's"):
        load_autoencoder(tmp_path / "vae")


def test_the_bits_of_a_place_are_the_digits_of_its_id(tmp_path):
    """Infinity's tokens hold 2 x 2 places of 24 bits; VAR's are ids of its codebook already."""
    made = load_autoencoder("sticker-infinity")
    images = open_pictures("world:scenes=2").read(range(2), Frame())
    found = made.reconstruct(images)
    bits = made.model.encode(images[:1], made.sizes)
    maps = made.sizes_of(128, 128)
    assert maps == tuple((2 * h, 2 * w) for h, w in made.sizes) and made.bits == 24
    assert made.tokens_of(maps) == sum(h * w for h, w in made.sizes)
    for own, tokens, (h, w), ids in zip(bits, made.sizes, maps, found.ids, strict=True):
        places = from_tokens(own.float(), tokens, 2)[0]  # (24, h, w)
        for i, j in ((0, 0), (h - 1, 1), (1, w - 1)):
            digits = "".join(str(int(bit)) for bit in places[:, i, j].tolist())
            assert int(digits[::-1], 2) == int(ids[0, i * w + j])
    generator = tiny_var.generator()
    generator.save_pretrained(tmp_path, "float32")
    var = load_autoencoder(tmp_path)
    images = torch.rand(1, 3, *generator.default_size())
    expected = generator.vae.encode(images, generator.square_sizes)
    assert all(torch.equal(a, b)
               for a, b in zip(var.reconstruct(images).ids, expected, strict=True))


@pytest.mark.parametrize("family", [tiny_vq, tiny_tokenflow])
def test_our_tokenizers_of_codes(tmp_path, family):
    model = family.tokenizer()
    save_network(model, tmp_path, "float32")
    made = load_autoencoder(tmp_path)
    side = getattr(model, "image", 32)
    images = family.pictures(side=side)
    found = made.reconstruct(images)
    expected = [torch.cat(own) for own in
                zip(*(model.encode(x[None]) for x in images), strict=True)]  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(found.ids, expected, strict=True))
    assert torch.equal(made.decode_ids(found.ids, side, side), found.images)
    assert made.provenance()["digest"] == model.token_digest() == made.digest


def test_ids_that_cannot_be_are_refused(tmp_path):
    save_network(tiny_vq.tokenizer(), tmp_path, "float32")
    made = load_autoencoder(tmp_path)  # 8 px a token, 32 codes
    ids = torch.zeros(1, 4, dtype=torch.int64)
    assert made.decode_ids([ids], 16, 16).shape == (1, 3, 16, 16)
    for bad in (ids - 1, ids + 32):
        with pytest.raises(ValueError, match="ids of map 0 must be whole numbers from 0 to 31"):
            made.decode_ids([bad], 16, 16)
    with pytest.raises(ValueError, match="map 0 has 2 x 2 = 4 ids a picture"):
        made.decode_ids([ids[:, :3]], 16, 16)
    with pytest.raises(ValueError, match="has ids of 1 maps, given 2"):
        made.decode_ids([ids, ids], 16, 16)
    with pytest.raises(ValueError, match="continuous latents and no ids"):
        load_autoencoder("sticker-mmdit").decode_ids([ids], 16, 16)


def test_a_digest_is_of_what_ids_depend_on(tmp_path):
    """Another decoder reads the same ids, another encoder writes others."""
    saved(tmp_path / "a", VQModel, num_vq_embeddings=16, latent_channels=3)
    found = load_autoencoder(tmp_path / "a").digest
    state = load_file(tmp_path / "a" / FILE)
    for key, same in (("decoder.conv_out.bias", True), ("encoder.conv_out.bias", False),
                      ("quantize.embedding.weight", False)):  # fmt: skip
        saved(tmp_path / "b", VQModel, num_vq_embeddings=16, latent_channels=3)
        save_file(state | {key: state[key] + 1}, tmp_path / "b" / FILE)
        assert (load_autoencoder(tmp_path / "b").digest == found) == same


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name.startswith("sticker-")])
def test_every_registered_tokenizer_reconstructs(name):
    made = load_autoencoder(name)
    image = open_pictures("world:scenes=1").read(range(1), Frame())
    found = made.reconstruct(image)
    assert float((found.images - image).abs().mean()) < 0.05
    assert TOKENIZERS.describe(name) and made.provenance()["name"] == name
    if found.ids is not None:
        assert [own.shape[1] for own in found.ids] == [h * w for h, w in made.sizes_of(128, 128)]
