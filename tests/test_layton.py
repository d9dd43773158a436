"""Layton's tokenizer: tokens of a small copy, a frozen diffusion model and its trainable copy.

Figures of the official code: Alpha-X-95/LaCToK at 845fb4a with diffusers 0.42.1 and peft 0.21.2,
on a CPU, float32, at the sizes and weights of `tiny_layton`; its noises are replaced by the rows'
own. It was made for 128 px, which it tells, so that its latents have 16 x 16 places.
"""

from dataclasses import asdict
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from diffusers.models import ControlNetModel, UNet2DConditionModel
from diffusers.schedulers import DDIMScheduler

from impasto.models.autoencoders import load_autoencoder
from impasto.models.layton import DECODINGS, TOKENIZERS, Decoding, LaytonTokenizer
from impasto.models.layton.convert import official_tokenizer, tokenizer_sizes
from impasto.models.layton.decoder import TARGETS, Stem, noise_of, size_ids
from impasto.models.layton.folder import PARTS
from impasto.models.layton.sampler import (
    GRID,
    NOISE,
    TABLE,
    own_noise,
    scheduler,
    step_seed,
    timesteps,
)
from impasto.models.layton.train import learning, pixel_loss, square
from impasto.models.mmdit import config as mmdit
from impasto.models.storage import network_from, save_network
from impasto.zoo.convert import convert
from impasto.zoo.weights import weights_digest
from tests import tiny_layton
from tests.random_weights import named_random
from tests.tiny_layton import codes, distance, latents

EPS = [0.01706, -0.96144, 0.93664, -0.51465, 0.38234, -0.43132, -0.40206]
X_0 = [1.72718, 25.21955, -14.83092, 4.48007, -6.01977, 28.38167, 1.375]
PICTURE = [-0.02452, 0.5621, -1.0, 1.0, -1.0, -1.0, 0.22739]
TOLD = Decoding(original=(128, 128), target=(128, 128))


# ------------------------------------------------------------------------------ the published one


@pytest.fixture(scope="module")
def full_size():
    with torch.device("meta"):
        return LaytonTokenizer(**vars(TOKENIZERS["published"]()))


def millions(tensors):
    return round(sum(x.numel() for x in tensors) / 1e6, 2)


def test_the_published_model_has_the_published_tensors(full_size):
    names = official_tokenizer(full_size)
    unet = {k: x for k, x in names.items() if k.startswith("decoder.unet.base_model.model.")}
    lora = {k: x for k, x in unet.items() if ".lora_" in k}
    copy = {k: x for k, x in names.items() if k.startswith("decoder.controlnet.")}
    stem = {k: x for k, x in copy.items() if "controlnet_cond_embedding" in k}
    assert len(unet) == 3256
    assert len(lora) == 1576
    assert millions(lora.values()) == 196.75
    assert millions(x for k, x in unet.items() if k not in lora) == 2567.46
    assert len(copy) == 844
    assert millions(copy.values()) == 1251.01
    assert millions(stem.values()) == 1.08
    assert sum(key.startswith("encoder.") for key in names) == 144
    assert names["quantize.codebook_used"].shape == (65536,)
    assert names["quantize.embedding.weight"].shape == (16384, 8)
    assert millions(full_size.vq.parameters()) == 29.43
    assert round(millions(full_size.parameters()) / 1e3, 2) == 4.13
    assert {k.split(".")[0] for k in names} == {
        "encoder", "quant_conv", "post_quant_conv", "quantize", "decoder", "vae"}  # fmt: skip


def test_the_published_layers_have_the_published_names_and_shapes(full_size):
    names = official_tokenizer(full_size)
    stem = "decoder.controlnet.controlnet_cond_embedding."
    shapes = [tuple(names[f"{stem}blocks.{i}.weight"].shape[:2]) for i in range(6)]
    assert tuple(names[f"{stem}conv_in.weight"].shape) == (8, 8, 3, 3)
    assert shapes == [(8, 8), (32, 8), (32, 32), (96, 32), (96, 96), (256, 96)]
    assert tuple(names[f"{stem}conv_out.weight"].shape) == (320, 256, 3, 3)
    one = ("decoder.unet.base_model.model.down_blocks.2.attentions.1."
           "transformer_blocks.9.attn2.to_k")  # fmt: skip
    assert tuple(names[f"{one}.base_layer.weight"].shape) == (1280, 2048)
    assert tuple(names[f"{one}.lora_A.default.weight"].shape) == (64, 2048)
    assert tuple(names[f"{one}.lora_B.default.weight"].shape) == (1280, 64)
    assert not any(".lora_" in k or "base_layer" in k for k in names if ".controlnet." in k)


def test_the_accelerator_has_peft_s_default_alpha_and_its_targets(full_size):
    layer = full_size.decoder.unet.mid_block.resnets[0].conv1
    assert layer.scaling["default"] == 0.125
    adapted = {name for name, module in full_size.decoder.unet.named_modules()
               if hasattr(module, "base_layer")}  # fmt: skip
    assert all(any(name.endswith(f".{end}") for name in adapted) for end in TARGETS)
    assert all(name.endswith(TARGETS) for name in adapted)
    assert "conv_in" not in adapted


def test_sizes_are_read_off_the_published_shapes(full_size):
    found, wanted = tokenizer_sizes(full_size.state_dict()), vars(TOKENIZERS["published"]())
    front = {key: value for key, value in wanted["vq"].items() if key != "levels"}
    assert found == {k: front if k == "vq" else v for k, v in wanted.items()
                     if not k.startswith("latent_")}  # fmt: skip


def test_the_sticker_preset_fits_its_generator():
    with torch.device("meta"):
        model = LaytonTokenizer(**vars(TOKENIZERS["sticker"]()))
        theirs = mmdit.sticker().build_vae()
    assert {k: x.shape for k, x in model.vae.state_dict().items()} == {
        k: x.shape for k, x in theirs.state_dict().items()}
    assert sum(p.numel() for p in model.decoder.unet.parameters()) < 8e6
    assert model.latent_size(128, 128) == (16, 16)
    tokens = [h * w for side in (32, 48, 64, 96) for h, w in model.sizes_of_side(side)]
    assert tokens == [16, 36, 64, 144]
    assert model.sizes_of(128, 128) == ((8, 8),)


# ------------------------------------------------------------------------------ the official code


@pytest.mark.parametrize("lean", [True, False])
def test_noise_latents_and_pictures_are_the_official_ones(lean):
    model = tiny_layton.published()
    model.use_lean(lean)
    C = F.normalize(named_random("C", (2, 8, 4, 4)), dim=1)
    noise = own_noise((3, 5), (4, 16, 16))
    with torch.no_grad(), model.decoder.accelerated(True):
        eps = model.decoder(noise(0), 499, model.condition(C, TOLD), 0.8)
    assert eps.flatten()[::311][:7].tolist() == pytest.approx(EPS, abs=2e-5)
    x_0 = model.sample(C, seeds=(3, 5), decoding=TOLD)
    assert x_0.flatten()[::311][:7].tolist() == pytest.approx(X_0, abs=2e-3)
    y = model.picture(C, seeds=(3, 5), decoding=TOLD)
    assert y.flatten()[::911][:7].tolist() == pytest.approx(PICTURE, abs=1e-3)


def test_a_published_file_and_back(tmp_path):
    model = tiny_layton.published()
    foreign = official_tokenizer(model)
    torch.save({"model": foreign, "step": 3}, tmp_path / "foreign.pt")
    report = convert(tmp_path / "foreign.pt", "layton", tmp_path / "out")
    assert report.dropped == ("quantize.codebook_used",)
    # What shapes do not tell is the published model's: here the sizes of pictures.
    again = network_from(LaytonTokenizer, tmp_path / "out")
    assert again.image == 1024
    back = official_tokenizer(again)
    assert set(back) == set(foreign)
    assert all(torch.equal(back[key], foreign[key]) for key in foreign)
    assert again.decoder.unet.mid_block.resnets[0].conv1.scaling["default"] == 8 / 16


@pytest.mark.parametrize("part", ["state_dict", None])
def test_either_way_of_saving_is_read(tmp_path, part):
    foreign = official_tokenizer(tiny_layton.published())
    torch.save({part: foreign} if part else foreign, tmp_path / "foreign.pt")
    convert(tmp_path / "foreign.pt", "layton", tmp_path / "out")
    assert (tmp_path / "out" / "lora" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("key", [
    "encoder.mid.1.k.weight", "vae.decoder.conv_out.bias", "decoder.controlnet.conv_in.bias",
    "decoder.unet.base_model.model.mid_block.resnets.0.conv2.lora_B.default.weight",
])  # fmt: skip
def test_a_file_without_a_tensor_is_refused(tmp_path, key):
    foreign = official_tokenizer(tiny_layton.published())
    del foreign[key]
    torch.save(foreign, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="missing"):
        convert(tmp_path / "foreign.pt", "layton", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------ the frozen base


@pytest.mark.parametrize("accelerated", [True, False])
@pytest.mark.parametrize("lean", [True, False])
def test_at_the_start_it_is_the_frozen_model_for_any_codes(lean, accelerated):
    own = tiny_layton.parts()
    model = LaytonTokenizer.assemble(TOKENIZERS["tiny"](), **own)
    model.use_lean(lean)
    z = latents()
    with torch.no_grad(), model.decoder.accelerated(accelerated):
        for t in (999, 499, 0):
            wanted = noise_of(own["unet"], z, t, square(32))
            for seed, size in ((0, 1), (1, 30)):
                given = model.condition(size * codes(seed=seed))
                for scale in (0.0, 0.8, 1.0):
                    assert torch.equal(model.decoder(z, t, given, scale), wanted)


def test_the_copy_is_of_the_plain_unet_behind_zero_convolutions():
    own = tiny_layton.parts()
    model = LaytonTokenizer.assemble(TOKENIZERS["tiny"](), **own)
    copy, base = model.decoder.controlnet.state_dict(), own["unet"].state_dict()
    for key in ("conv_in.weight", "time_embedding.linear_1.weight",
                "add_embedding.linear_2.weight", "down_blocks.1.resnets.0.conv1.weight",
                "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"):  # fmt: skip
        assert torch.equal(copy[key], base[key])
    zero = [key for key in copy if key.startswith(("controlnet_down", "controlnet_mid"))]
    skips = 1 + 2 + 1
    assert len(zero) == 2 * (skips + 1)
    assert not any(copy[key].any() for key in zero)
    assert not copy["controlnet_cond_embedding.conv_out.weight"].any()


@pytest.mark.parametrize("widths", [(8, 32, 64, 96), (8, 32, 96, 256)])
def test_codes_come_through_the_stem_at_their_size(widths):
    torch.manual_seed(0)
    stem = Stem(8, widths, 16)
    C = F.normalize(torch.randn(32, 8, 16, 16), dim=1)
    seen = []
    stem.conv_out.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        assert not stem(C).any(), "nothing is told at the start"
    assert 0.3 < seen[0].std(0).mean() < 3


def test_an_accelerator_does_something_and_can_be_switched_off():
    model, z = tiny_layton.tokenizer(), latents()
    given = model.condition(codes())
    with torch.no_grad():
        with model.decoder.accelerated(False):
            off = model.decoder(z, 499, given)
        with model.decoder.accelerated(True):
            on = model.decoder(z, 499, given)
            with model.decoder.accelerated(False):
                assert torch.equal(model.decoder(z, 499, given), off)
            assert torch.equal(model.decoder(z, 499, given), on)
    assert not torch.allclose(off, on, atol=1e-3)


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("on", [True, False])
def test_switching_the_accelerator_does_not_say_what_learns(learns, on):
    model = tiny_layton.fresh()
    learning(model, "accelerator" if learns else "copy")
    with model.decoder.accelerated(on):
        assert {p.requires_grad for p in model.decoder.adapters} == {learns}
    assert {p.requires_grad for p in model.decoder.adapters} == {learns}


def test_another_unet_s_weights_are_refused():
    own = tiny_layton.parts()
    state = own["unet"].state_dict()
    del state["conv_in.weight"]
    with pytest.raises(ValueError, match="another UNet's weights: 1 are missing, 0 left over"):
        tiny_layton.fresh().decoder.start_from(state)


# ------------------------------------------------------------------------------ zero text


@pytest.mark.parametrize("half", [False, True])
def test_leaving_out_the_text_changes_no_bit(half):
    """UNet and copy by themselves first, then everything."""
    model, z, t = tiny_layton.tokenizer(), latents(), torch.tensor([999, 124])
    given = {"encoder_hidden_states": torch.zeros(2, 77, 16), "return_dict": False,
             "added_cond_kwargs": {"text_embeds": torch.zeros(2, 16),
                                   "time_ids": square(32).expand(2, -1)}}  # fmt: skip
    C = F.interpolate(codes(), (4, 4))
    found = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        for lean in (False, True):
            model.use_lean(lean)
            down, middle = model.decoder.controlnet(z, t, controlnet_cond=C, **given)
            found.append([model.decoder.unet(z, t, **given)[0], *down, middle,
                          model.decoder(z, t, model.condition(codes()))])  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_lean_pictures_are_the_plain_ones():
    model = tiny_layton.tokenizer()
    ids = model.encode(tiny_layton.pictures())
    for decoding in (*DECODINGS.values(), Decoding(steps=2)):
        found = []
        for lean in (False, True):
            model.use_lean(lean)
            found.append(model.decode_tokens(ids, model.sizes_of(32, 32), decoding=decoding))
        assert torch.equal(*found)


def calls(module, counted):
    module.register_forward_hook(lambda *_: counted.append(1))


@pytest.mark.parametrize(("lean", "wanted"), [(True, (1, 0)), (False, (3, 3))])
def test_lean_makes_the_stem_once_and_no_cross_attention(lean, wanted):
    model, stem, queries = tiny_layton.tokenizer(), [], []
    model.use_lean(lean)
    calls(model.decoder.controlnet.controlnet_cond_embedding, stem)
    calls(model.decoder.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_q, queries)
    model.sample(codes(1), seeds=[1], decoding=DECODINGS["tlcm"])
    assert (len(stem), len(queries)) == wanted


def test_a_merged_accelerator_is_the_same_but_for_rounding(tmp_path):
    model = tiny_layton.tokenizer()
    before = model.sample(codes(), seeds=[1, 2])
    model.decoder.merge()
    model.decoder.merge()
    after = model.sample(codes(), seeds=[1, 2])
    assert torch.allclose(before, after, atol=1e-3)
    with pytest.raises(ValueError, match="merged into the UNet and cannot be switched off"):
        model.sample(codes(), seeds=[1, 2], decoding=DECODINGS["ddim"])
    with pytest.raises(ValueError, match="save the tokenizer before merging"):
        save_network(model, tmp_path, "float32")


# ------------------------------------------------------------------------------ sampling


def test_times_are_the_grid_by_the_table():
    assert tuple(torch.linspace(999, 0, 9, dtype=torch.int64).tolist()) == GRID
    assert timesteps(1) == (999, 0)
    assert timesteps(2) == (999, 499, 0)
    assert timesteps(3) == (999, 499, 124, 0)
    assert timesteps(4) == (999, 749, 499, 124, 0)
    assert timesteps(7) == (999, 749, 624, 499, 374, 249, 124, 0)
    assert all(len(timesteps(n)) == n + 1 for n in TABLE)
    assert timesteps(1, 800) == (800, 0)


@pytest.mark.parametrize("given", [
    {"steps": 0}, {"steps": 8}, {"steps": 2, "first": 800}, {"steps": 1, "first": 1000},
    {"sampler": "euler"}, {"sampler": "ddim", "steps": 0}, {"sampler": "ddim", "first": 800},
])  # fmt: skip
def test_ways_that_are_none_are_refused(given):
    with pytest.raises(ValueError, match=r"1 to 7 steps|single step|did you mean|allowed|DDIM"):
        Decoding(**given)


@pytest.mark.parametrize("decoding", [
    Decoding(steps=1), Decoding(steps=2), Decoding(steps=3), Decoding(steps=1, first=800),
])  # fmt: skip
def test_steps_are_written_out(decoding):
    """The published loop once more, with the noise of the row's own seeds."""
    model, C = tiny_layton.tokenizer(), codes(1)
    abar = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square().neg().add(1).cumprod(0)
    given = model.condition(C)

    def noise(k):
        return torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(step_seed(9, k)))[None]

    z = noise(0)
    with torch.no_grad(), model.decoder.accelerated(True):
        for k, (t, after) in enumerate(pairwise(timesteps(decoding.steps, decoding.first))):
            eps = model.decoder(z, t, given, 0.8)
            x_0 = (z - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt()
            z = abar[after].sqrt() * x_0 + (1 - abar[after]).sqrt() * noise(k + 1)
    assert torch.allclose(model.sample(C, seeds=[9], decoding=decoding), x_0, rtol=1e-4, atol=1e-4)


def test_every_step_has_fresh_noise_and_rows_their_own():
    one, both = own_noise([4], (3, 8, 8)), own_noise([5, 4], (3, 8, 8))
    found = [one(k) for k in range(4)]
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])
    assert all(torch.equal(both(k)[1:], found[k]) for k in range(4))
    assert step_seed(4, 0) == 4


@pytest.mark.parametrize("decoding", [DECODINGS["tlcm"], Decoding(sampler="ddim", steps=3)])
def test_a_row_does_not_depend_on_the_others(decoding):
    model, seeds, sizes = tiny_layton.tokenizer(), [7, 8, 9], ((2, 2),)
    ids = torch.arange(12).view(3, 4)

    def made(rows, seeds):
        return model.decode_tokens([rows], sizes, seeds=seeds, decoding=decoding)

    all_rows = made(ids, seeds)
    for i in (2, 0):
        assert torch.equal(made(ids[i : i + 1], seeds[i : i + 1])[0], all_rows[i])
    other = made(ids, [7, 8, 10])
    assert torch.equal(other[:2], all_rows[:2])
    assert not torch.equal(other[2], all_rows[2])


def test_without_seeds_equal_ids_are_equal_pictures():
    model = tiny_layton.tokenizer()
    ids, sizes = model.encode(tiny_layton.pictures(3)), model.sizes_of(32, 32)
    ids[0][2] = ids[0][0]
    y = model.decode_tokens(ids, sizes)
    assert torch.equal(y[0], y[2])
    assert torch.equal(y, model.decode(model.features_of(ids, sizes)))
    assert not torch.equal(y, model.decode_tokens(ids, sizes, seeds=[1, 2, 3]))


def test_ddim_is_diffusers_without_the_accelerator():
    model, C = tiny_layton.tokenizer(), codes(1)
    solver = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                           clip_sample=False, set_alpha_to_one=False, steps_offset=1)  # fmt: skip
    solver.set_timesteps(25)
    given, z = model.condition(C), own_noise([3], (4, 4, 4))(0)
    with torch.no_grad(), model.decoder.accelerated(False):
        for t in solver.timesteps:
            z = solver.step(model.decoder(z, t, given, 0.8), t, z).prev_sample
    assert DECODINGS["ddim"].steps == 25
    assert torch.equal(model.sample(C, seeds=[3], decoding=DECODINGS["ddim"]), z)


def test_the_schedule_is_sdxl_s():
    own = scheduler()
    assert own.config.prediction_type == "epsilon"
    assert float(own.alphas_cumprod[-1]) == pytest.approx(0.0047, abs=1e-4)
    assert float(own.alphas_cumprod[0]) == pytest.approx(1 - 0.00085, abs=1e-6)
    assert NOISE["steps_offset"] == 1


# ------------------------------------------------------------------------------ what is exposed


def test_scale_and_sizes_told_are_settings():
    model, C = tiny_layton.tokenizer(), codes()

    def made(**settings):
        return model.sample(C, seeds=[1, 2], decoding=Decoding(**settings))

    assert Decoding().scale == 0.8
    plain = made()
    assert torch.equal(made(original=(32, 32), crop=(0, 0), target=(32, 32)), plain)
    for settings in ({"scale": 1.0}, {"crop": (8, 0)}, {"original": (99, 32)},
                     {"target": (32, 99)}, {"accelerated": False}):  # fmt: skip
        assert not torch.equal(made(**settings), plain)
    nothing = made(scale=0.0)
    assert torch.equal(model.sample(codes(seed=5), seeds=[1, 2], decoding=Decoding(scale=0.0)),
                       nothing)  # fmt: skip
    assert not torch.equal(nothing, plain)


def test_sizes_told_are_heights_first():
    assert size_ids((1, 2), (3, 4), (5, 6)).tolist() == [[1, 2, 3, 4, 5, 6]]


def test_tokens_depend_on_the_copy_alone_and_latents_on_the_picture():
    model = tiny_layton.tokenizer()
    large, small = tiny_layton.pictures(1), tiny_layton.pictures(1, 16)
    assert model.sizes_of(32, 32) == model.sizes_of(16, 16) == ((2, 2),)
    for side, tokens in ((8, 1), (16, 4), (24, 9), (32, 16)):
        sizes = model.sizes_of_side(side)
        assert model.encode(large, sizes)[0].shape == (1, tokens)
        ids = model.encode(small, sizes)
        assert ids[0].shape == (1, tokens)
        for image in (16, 32):
            assert model.decode_tokens(ids, sizes, image=image).shape == (1, 3, image, image)


def test_a_picture_s_size_is_told_as_its_own():
    """Progressive resolution: sizes told, and latents, follow the picture."""
    model, C = tiny_layton.tokenizer(), codes(1)
    given = model.condition(C, image=16)
    assert given.time_ids.tolist() == [[16, 16, 0, 0, 16, 16]]
    assert given.C.shape == (1, 4, 2, 2)
    assert model.condition(C).time_ids.tolist() == [[32, 32, 0, 0, 32, 32]]
    x_0 = model.sample(C, seeds=[1], image=16)
    told = Decoding(original=(32, 32), target=(32, 32))
    assert not torch.equal(model.sample(C, seeds=[1], image=16, decoding=told), x_0)


def test_the_front_reads_a_copy():
    own = tiny_layton.parts()
    model = LaytonTokenizer.assemble(TOKENIZERS["tiny"](), **own)
    x = tiny_layton.pictures()
    small = F.interpolate(x, (16, 16), mode="bilinear", antialias=True)
    assert torch.equal(model.encode(x)[0], own["vq"].encode(small)[0])
    C = model.features_of(model.encode(x), model.sizes_of(32, 32))
    assert torch.allclose(C.norm(dim=1), torch.ones(2, 2, 2))
    assert model.factor == 16
    assert (model.vocabulary, model.channels) == (32, 4)


def test_codes_are_enlarged_by_nearest_neighbours():
    C = codes(1)
    large = tiny_layton.tokenizer().condition(C).C
    assert torch.equal(large, C.repeat_interleave(2, -1).repeat_interleave(2, -2))


def test_latents_are_normalised_by_moments_or_the_factor():
    model, x = tiny_layton.tokenizer(), tiny_layton.pictures()
    with torch.no_grad():
        raw = model.vae.encode(2 * x - 1).latent_dist.mode()
        mean, std = (torch.tensor(model.config[f"latent_{name}"])[:, None, None]
                     for name in ("mean", "std"))  # fmt: skip
        assert torch.allclose(model.latents(x), (raw - mean) / std)
        assert torch.allclose(model.pixels(model.latents(x)), model.vae.decode(raw).sample,
                              atol=1e-5)  # fmt: skip
        plain = tiny_layton.fresh(latent_mean=None, latent_std=None)
        raw = plain.vae.encode(2 * x - 1).latent_dist.mode()
        assert torch.equal(plain.latents(x), raw * 0.18215)
        assert torch.equal(plain.pixels(raw), plain.vae.decode(raw / 0.18215).sample)


@pytest.mark.parametrize(("given", "said"), [
    ({"image": 24}, r"one of \[16, 32\] pixels, all multiples of 16"),
    ({"images": (24, 32)}, r"one of \[24, 32\] pixels, all multiples of 16"),
    ({"tokens_side": 20}, "all multiples of 8, given 20"),
    ({"sides": (0, 16)}, "multiples of 8"),
    ({"latent_std": None}, "4 values each, or neither"),
    ({"latent_mean": (0.0,)}, "4 values each, or neither"),
])  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        tiny_layton.fresh(**given)


def test_pictures_of_other_sizes_are_refused():
    model = tiny_layton.fresh()
    for shape in ((1, 3, 24, 24), (1, 3, 16, 32)):
        with pytest.raises(ValueError, match="16 x 16, 32 x 32 pixels, not"):
            model.encode(torch.zeros(shape))
    ids, sizes = [torch.zeros(1, 4, dtype=torch.int64)], ((2, 2),)
    with pytest.raises(ValueError, match="16 x 16, 32 x 32 pixels, not 24 x 24"):
        model.decode_tokens(ids, sizes, image=24)
    with pytest.raises(ValueError, match=r"one map, of \(1, 1\), \(2, 2\), \(3, 3\), \(4, 4\)"):
        model.decode_tokens([ids[0][:, :2]], ((1, 2),))
    with pytest.raises(ValueError, match="8, 16, 24, 32 pixels a side, given 20"):
        model.sizes_of_side(20)
    with pytest.raises(ValueError, match="a seed a row, given 2 for 1"):
        model.decode_tokens(ids, sizes, seeds=[1, 2])
    with pytest.raises(ValueError, match="from 0 to 31"):
        model.decode_tokens([ids[0] + 32], sizes)


# ------------------------------------------------------------------------------ measured


def test_reconstructions_by_settings(tmp_path):
    model, x = tiny_layton.tokenizer(), tiny_layton.pictures()
    model.save_parts(tmp_path / "t")
    plain = load_autoencoder(tmp_path / "t")
    assert plain.provenance()["decoding"]["steps"] == 3
    found = plain.reconstruct(x)
    assert torch.equal(found.ids[0], model.encode(x)[0])
    assert torch.equal(found.images, model.decode_tokens(found.ids, model.sizes_of(32, 32)))
    other = load_autoencoder(f"layton:folder={tmp_path / 't'},decoding=ddim,steps=2,scale=0.5,"
                             f"tokens_side=24")  # fmt: skip
    way = Decoding(sampler="ddim", steps=2, scale=0.5)
    assert other.provenance()["tokens_side"] == 24
    assert other.provenance()["decoding"] == asdict(way)
    assert other.digest == plain.digest
    found = other.reconstruct(x)
    assert found.ids[0].shape == (2, 9)
    assert torch.equal(found.images, model.decode_tokens(found.ids, ((3, 3),), decoding=way))


@pytest.mark.parametrize(("given", "said"), [
    ("decoding=dimm", "'ddim'"), ("tokens_side=20", "pixels a side, given 20"),
    ("image=20", "not 20 x 20"), ("step=2", "did you mean 'steps'"), ("first=1", "single step"),
])  # fmt: skip
def test_settings_that_are_none_are_refused(tmp_path, given, said):
    tiny_layton.fresh().save_parts(tmp_path)
    with pytest.raises(ValueError, match=said):
        load_autoencoder(f"layton:folder={tmp_path},{given}")


# ------------------------------------------------------------------------------ folders


def test_a_folder_a_network_and_frozen_parts_keep_their_digests(tmp_path):
    own = tiny_layton.parts()
    model = LaytonTokenizer.assemble(TOKENIZERS["tiny"](), **own, latent_mean=(1.0,) * 4)
    tokens, frozen = own["vq"].token_digest(), weights_digest({"vae": own["vae"]})
    assert model.token_digest() == tokens
    learnt = learning(model, "copy")
    noise = own_noise([1, 2], (4, 4, 4))
    loss, _ = pixel_loss(model, tiny_layton.pictures(), codes(), noise, distance)
    loss.backward()
    torch.optim.SGD(learnt, 0.1).step()
    save_network(model, tmp_path / "t", "float32")
    assert all((tmp_path / "t" / file).is_file() for file in PARTS.values())
    again = network_from(LaytonTokenizer, tmp_path / "t")
    assert again.token_digest() == tokens
    assert weights_digest({"vae": again.vae}) == frozen
    state = model.state_dict()
    assert all(torch.equal(x, state[key]) for key, x in again.state_dict().items())
    assert tuple(again.config["latent_mean"]) == (1.0,) * 4
    assert torch.equal(again.sample(codes(), seeds=[1, 2]), model.sample(codes(), seeds=[1, 2]))


def test_diffusers_and_peft_read_the_parts(tmp_path):
    from peft import PeftModel

    model = tiny_layton.tokenizer()
    model.save_parts(tmp_path)
    base = UNet2DConditionModel.from_pretrained(tmp_path / "unet").requires_grad_(False)
    z = latents()
    given = {"encoder_hidden_states": torch.zeros(2, 77, 16), "return_dict": False,
             "added_cond_kwargs": {"text_embeds": torch.zeros(2, 16),
                                   "time_ids": square(32).expand(2, -1)}}  # fmt: skip
    with torch.no_grad():
        with model.decoder.accelerated(False):
            assert torch.equal(base(z, 499, **given)[0], noise_of(model.decoder.unet, z, 499,
                                                                  square(32)))  # fmt: skip
        adapted = PeftModel.from_pretrained(base, tmp_path / "lora")
        with model.decoder.accelerated(True):
            assert torch.equal(adapted(z, 499, **given)[0],
                               noise_of(model.decoder.unet, z, 499, square(32)))  # fmt: skip
    copy = ControlNetModel.from_pretrained(tmp_path / "controlnet")
    assert set(copy.state_dict()) == set(model.decoder.controlnet.state_dict())


def test_parts_may_differ_in_format(tmp_path):
    model = tiny_layton.tokenizer()
    model.save_parts(tmp_path, dict.fromkeys(PARTS, "float32") | {"controlnet": "int8"})
    again = LaytonTokenizer.from_parts(tmp_path)
    key = "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj.weight"
    assert torch.equal(again.vae.state_dict()["decoder.conv_in.weight"],
                       model.vae.state_dict()["decoder.conv_in.weight"])  # fmt: skip
    a, b = (m.decoder.controlnet.state_dict()[key] for m in (again, model))
    assert torch.allclose(a, b, atol=0.01)
    with pytest.raises(ValueError, match="a format for each of vq, vae, unet, controlnet, lora"):
        model.save_parts(tmp_path, {"vq": "int8"})


def test_folders_that_are_not_whole_are_refused(tmp_path):
    model = tiny_layton.tokenizer()
    model.save_parts(tmp_path)
    (tmp_path / PARTS["lora"]).rename(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="lora"):
        LaytonTokenizer.from_parts(tmp_path)
    (tmp_path / "gone").rename(tmp_path / PARTS["lora"])
    (tmp_path / PARTS["vae"]).write_bytes((tmp_path / PARTS["vq"]).read_bytes())
    with pytest.raises(ValueError, match="does not fit: missing keys"):
        LaytonTokenizer.from_parts(tmp_path)
