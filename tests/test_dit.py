"""DiT as a generator: its sampler against diffusers' schedulers, the protocol's rules, folders."""

import copy
import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiTPipeline
from diffusers.models import DiTTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from impasto.models import load_generator
from impasto.models.dit import PRESETS, DiTGenerator, sampler
from impasto.models.dit.sampler import (
    SAMPLERS,
    alpha_bars,
    ddim,
    ddpm,
    guided_output,
    posterior,
    times_of,
)
from impasto.models.latents import adaln_zero_
from impasto.sample.protocol import Sampling, generate
from impasto.spec import CLASSES
from impasto.zoo.registry import BENCHES
from tests import drawing, tiny_dit
from tests.drawing import start, through

DOG, CAT, BENCH = "a photo of a dog", "cat", "a photo of a bench"
BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False}


@pytest.fixture(scope="module")
def pipe():
    return tiny_dit.generator()


def with_defaults(pipe, **changes):
    return DiTGenerator(**pipe.components, defaults=replace(pipe.defaults, **changes))


# ------------------------------------------------------------------------------ sizes


def test_xl_2_is_the_published_size():
    """675,129,632 parameters in the official code (Grafting's sheet), which has one pair of
    embedders, and the places, a buffer in diffusers, among its parameters."""
    with torch.device("meta"):
        model = PRESETS["xl-2"]().build_transformer()
        vae = PRESETS["xl-2"]().vae()
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    pair = count(model.transformer_blocks[0].norm1.emb)
    assert count(model) - 27 * pair + 256 * 1152 == 675_129_632
    state = model.state_dict()
    assert state["proj_out_2.weight"].shape == (32, 1152)
    table = "transformer_blocks.27.norm1.emb.class_embedder.embedding_table.weight"
    assert state[table].shape == (1001, 1152)
    assert count(vae) == 83_653_863  # of Stable Diffusion 1's autoencoder


def test_sticker_is_as_large_as_meant():
    with torch.device("meta"):
        model = PRESETS["sticker"]().build_transformer()
    assert sum(p.numel() for p in model.parameters()) == 23_870_720
    assert model.pos_embed.pos_embed.shape == (1, 64, 384)


def test_a_new_transformer_predicts_nothing_and_blocks_are_the_identity():
    model = PRESETS["tiny"]().build_transformer().eval()
    x, t, c = torch.randn(2, 4, 4, 4), torch.tensor([3, 900]), torch.tensor([1, 2])
    assert not model(x, timestep=t, class_labels=c).sample.any()
    places = model.pos_embed(x)
    assert torch.equal(model.transformer_blocks[0](places, timestep=t, class_labels=c), places)
    assert model.transformer_blocks[0].attn1.to_q.weight.any()


# ------------------------------------------------------------------------------ the equations


@pytest.mark.parametrize("steps", [2, 7, 50, 250, 1000])
def test_times_are_diffusers(steps):
    theirs = DDPMScheduler(**BETAS, timestep_spacing="linspace"), DDIMScheduler(**BETAS)
    for name, scheduler in zip(SAMPLERS, theirs, strict=True):
        scheduler.set_timesteps(steps)
        assert times_of(name, steps) == (*scheduler.timesteps.tolist(), -1)


@pytest.mark.parametrize("steps", [4, 250])
def test_a_ddpm_step_is_diffusers(steps):
    """DDPMScheduler, learned_range, the same noise: a chain that leaves times out."""
    theirs = DDPMScheduler(**BETAS, variance_type="learned_range", timestep_spacing="linspace")
    theirs.set_timesteps(steps)
    x = torch.randn(2, 4, 4, 4)
    chain = [*pairwise(times_of("ddpm", steps))]
    for t, s in [*chain[:: max(1, steps // 8)], chain[-1]]:
        out = torch.randn(2, 8, 4, 4).clamp(-1, 1)
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(t))
        want = theirs.step(out, t, x, generator=torch.Generator().manual_seed(t))
        got, x_0 = ddpm(x, out, t, s, z)
        torch.testing.assert_close(got, want.prev_sample, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(x_0, want.pred_original_sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [3, 50])
def test_a_ddim_step_is_diffusers(steps):
    theirs, x = DDIMScheduler(**BETAS), torch.randn(2, 4, 4, 4)
    theirs.set_timesteps(steps)
    for t, s in pairwise(times_of("ddim", steps)):
        out = torch.randn(2, 8, 4, 4)
        want = theirs.step(out[:, :4], t, x)
        got, x_0 = ddim(x, out, t, s)
        torch.testing.assert_close(got, want.prev_sample, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(x_0, want.pred_original_sample, rtol=1e-4, atol=1e-4)


def test_the_posterior_is_bayes_rule():
    """Of one number, by multiplying the two Gaussians out."""
    bars = alpha_bars()
    a_t, a_s = bars[601], bars[401]
    x_0, x = torch.tensor([0.7, -0.2], dtype=torch.float64)
    alpha = a_t / a_s
    precision = alpha / (1 - alpha) + 1 / (1 - a_s)
    mean = (alpha.sqrt() * x / (1 - alpha) + a_s.sqrt() * x_0 / (1 - a_s)) / precision
    q = posterior(x_0, x, a_t, a_s)
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.log_least, -precision.log())
    torch.testing.assert_close(q.log_var(torch.tensor(1.0)), (1 - alpha).log())
    last = posterior(x_0, x, bars[1], bars[0])
    torch.testing.assert_close(last.mean, x_0)
    torch.testing.assert_close(last.log_least, posterior(x_0, x, bars[2], bars[1]).log_least)


@pytest.mark.parametrize("guidance, rows", [(0.0, 2), (1.0, 2), (4.0, 4)])
def test_guidance_is_of_the_first_channels(monkeypatch, guidance, rows):
    """eps and v are 3 with the class and 1 without; a branch that has no say is not computed."""
    calls = []

    def output(transformer, x, t, labels):
        calls.append((len(x), t.tolist(), labels.tolist()))
        return torch.where(labels == 80, 1.0, 3.0)[:, None, None, None].expand(-1, 8, 2, 2)

    monkeypatch.setattr(sampler, "output", output)
    out = guided_output(None, torch.zeros(2, 4, 2, 2), 7, [5, 6], 80, guidance=guidance, guided=3)
    known = [5, 6] * (guidance > 0) + [80, 80] * (guidance != 1)
    assert calls == [(rows, [7] * rows, known)]
    rest = 1.0 if guidance == 0 else 3.0
    assert out[0, :, 0, 0].tolist() == [1 + 2 * guidance] * 3 + [rest] * 5


# ------------------------------------------------------------------------------ drawing


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_row_does_not_depend_on_its_batch(name):
    pipe = tiny_dit.generator(sampler=name)
    _, cost = drawing.drawn_in_any_batch(pipe, [DOG, CAT, DOG, BENCH], Sampling(steps=3))
    assert cost.row_steps == 12 and cost.decodes == 4


def test_drawing_is_the_network_under_diffusers_scheduler(pipe):
    """As DiTPipeline has it (whose null class is always 1000): ddim, all channels guided."""
    ours, theirs = with_defaults(pipe, sampler="ddim"), DDIMScheduler(**BETAS)
    state = through(ours, start(ours, [DOG], [3], steps=4, guidance=3.0))
    x = start(ours, [DOG], [3]).x
    theirs.set_timesteps(4)
    with torch.no_grad():
        for t in theirs.timesteps:
            c, u = (pipe.transformer(x, timestep=t[None], class_labels=torch.tensor([label])
                                     ).sample[:, :4] for label in (16, 80))  # fmt: skip
            x = theirs.step(u + 3 * (c - u), t, x).prev_sample
    torch.testing.assert_close(state.x, x, rtol=1e-4, atol=1e-4)


def test_class_and_guidance_matter(pipe):
    drawn = {g: [through(pipe, start(pipe, [text], [1], steps=2, guidance=g)).x
                 for text in (DOG, CAT)] for g in (0.0, 1.0, 3.0)}  # fmt: skip
    assert torch.equal(*drawn[0.0])
    for g in (1.0, 3.0):
        assert not torch.equal(*drawn[g])
    fewer = with_defaults(pipe, guided=3)
    other = through(fewer, start(fewer, [DOG], [1], steps=2, guidance=3.0)).x
    assert not torch.equal(other, drawn[3.0][0])


def test_select_re_indexes_everything(pipe):
    drawing.selected_as_drawn(pipe, [DOG, CAT, BENCH], 2, fields=("x", "x_0"))


def test_copies_part_in_ddpm_alone_when_given_other_seeds(pipe):
    for name, part in (("ddpm", True), ("ddim", False)):
        own = with_defaults(pipe, sampler=name)
        state = own.select(through(own, start(own, seeds=[1], steps=3), 1), [0, 0])
        twins = through(own, state)
        assert torch.equal(twins.x[0], twins.x[1])
        parted = through(own, replace(state, seeds=(1, 99)))
        assert torch.equal(parted.x[0], twins.x[0])
        assert torch.equal(parted.x[1], twins.x[1]) is not part


def test_the_last_preview_is_the_picture(pipe):
    state = start(pipe, steps=2)
    with pytest.raises(ValueError, match="0 of 2 steps are done; call preview"):
        pipe.finish(state)
    held = state.x.clone()
    state, before = through(pipe, state), state
    assert torch.equal(before.x, held)
    torch.testing.assert_close(state.x, state.x_0)
    assert (pipe.preview(state) - pipe.finish(state)).abs().max() <= 0.5 / 255 + 1e-5
    with pytest.raises(ValueError, match="all 2 steps are done"):
        pipe.advance(state)


def test_cost_is_what_torch_counts(pipe):
    one = torch.zeros(1, dtype=torch.long, device="meta")
    transformer, vae = (copy.deepcopy(part).to("meta") for part in (pipe.transformer, pipe.vae))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        transformer(torch.empty(1, 4, 4, 4, device="meta"), timestep=one, class_labels=one)
        network = counter.get_total_flops()
        vae.decode(torch.empty(1, 4, 4, 4, device="meta"))
    for guidance, branches in ((1.0, 1), (2.0, 2)):
        done = through(pipe, start(pipe, steps=3, guidance=guidance)).cost
        assert done.flops == (3 * branches - 1) * network + counter.get_total_flops()
        assert (done.row_steps, done.decodes) == (3, 1)


# ------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("settings, message", [
    ({"steps": 1}, "steps must be an integer from 2 to 1000, .* given 1"),
    ({"steps": 1001}, "given 1001"), ({"steps": 2.5}, "given 2.5"),
    ({"steps": True}, "given True"),
    ({"guidance": -1.0}, "guidance must be a finite number >= 0"),
    ({"height": 64}, "draws 32 x 32, so height x width must be that or left out, given 64 x 32"),
])  # fmt: skip
def test_bad_settings(pipe, settings, message):
    with pytest.raises(ValueError, match=message):
        start(pipe, **settings)


@pytest.mark.parametrize("changes, message", [
    ({"sampler": "ddqm"}, "did you mean 'ddpm' or 'ddim'"), ({"steps": 0}, "given 0"),
    ({"guided": 5}, "guided must be 1 to 4, .* given 5"), ({"guided": 0}, "given 0"),
    ({"guidance": "x"}, "guidance must be a finite number"),
    ({"classes": ("dog",)}, "1 names were given for 80 classes"),
    ({"latent_std": (0.0,) * 4}, "latent_std must be positive"),
    ({"latent_mean": (0.0,), "latent_std": (1.0,), "guided": 1}, "works on 4 latent channels"),
])  # fmt: skip
def test_bad_defaults(pipe, changes, message):
    with pytest.raises(ValueError, match=message):
        with_defaults(pipe, **changes)


def test_a_transformer_without_variance_is_refused(pipe):
    config = dict(pipe.transformer.config) | {"out_channels": 4}
    plain = DiTTransformer2DModel.from_config(config)
    with pytest.raises(ValueError, match="predicts noise and variance, 4 channels each"):
        DiTGenerator(transformer=plain, vae=pipe.vae, defaults=pipe.defaults)


def test_the_bench_of_one_object_is_read_class_by_class(pipe):
    """What a model by class is measured with; other tasks ask for what it cannot be told."""
    specs = BENCHES.create("geneval:task=single_object").specs
    state = start(pipe, [spec.prompt for spec in specs])
    assert sorted(state.classes) == [*range(80)]
    assert [CLASSES[c] for c in state.classes] == [spec.include[0].cls for spec in specs]


@pytest.mark.parametrize("text", ["a red dog and a cat", "a photo of a dgo"])
def test_texts_of_no_class_or_several_are_refused(pipe, text):
    with pytest.raises(ValueError, match="this model draws one class"):
        start(pipe, [text])


# ------------------------------------------------------------------------------ folders


def picture(pipe, text=DOG, **settings):
    return pipe([text], seeds=[5], output_type="pt", num_inference_steps=3, **settings).images


def test_a_saved_model_draws_the_same(pipe, tmp_path):
    own = with_defaults(pipe, sampler="ddim", guided=2, latent_mean=(0.5,) * 4)
    own.save_pretrained(tmp_path, "float32")
    again = load_generator(tmp_path)
    assert isinstance(again, DiTGenerator) and again.provenance() == own.provenance()
    assert torch.equal(picture(again), picture(own))
    other = load_generator(f"dit:folder={tmp_path},sampler=ddpm,steps=20,guidance=1.5,guided=4")
    wanted = replace(own.defaults, sampler="ddpm", steps=20, guidance=1.5, guided=4)
    assert other.defaults == wanted and not torch.equal(picture(other), picture(own))
    theirs = DiTTransformer2DModel.from_pretrained(tmp_path / "transformer")
    assert all(torch.equal(value, own.transformer.state_dict()[key])
               for key, value in theirs.state_dict().items())  # fmt: skip


@pytest.mark.parametrize("file, change, message", [
    ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "must be .*AutoencoderKL"),
    ("config.json", {"eta": 1}, "must have the keys .*guided"),
    ("config.json", {"sampler": "dpm"}, "sampler 'dpm'"),
    ("transformer/config.json", {"num_layers": 5}, "missing keys .*transformer_blocks.4"),
])  # fmt: skip
def test_folders_that_do_not_fit_are_refused_by_name(pipe, tmp_path, file, change, message):
    drawing.folder_is_refused(pipe, tmp_path, file, change, message)


def rewritten(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def published(pipe, tmp_path):
    """A folder as facebook/DiT-XL-2-256: the class by its older name, names in the index."""
    DiTPipeline(pipe.transformer, pipe.vae, DDIMScheduler(**BETAS)).save_pretrained(tmp_path)
    labels = {str(i): f"{name}, no {i}" for i, name in enumerate(CLASSES)}
    rewritten(tmp_path / "model_index.json", id2label=labels)
    rewritten(tmp_path / "transformer" / "config.json", _class_name="Transformer2DModel",
              use_linear_projection=False)  # fmt: skip
    return tmp_path


def test_published_folders_load(pipe, published):
    own = with_defaults(pipe, guided=3, latent_std=(1 / 0.18215,) * 4, steps=250, guidance=4.0)
    whole = load_generator(f"dit:folder={published}")
    assert replace(whole.defaults, classes=CLASSES) == own.defaults
    assert whole.defaults.classes[16] == "dog, no 16"
    want = picture(own)
    assert torch.equal(picture(whole), want) and torch.equal(picture(whole, "no 16"), want)
    parts = f"dit:transformer={published}/transformer,vae={published}/vae"
    assert torch.equal(picture(load_generator(parts), "16"), want)
    names = published / "classes.txt"
    names.write_text("\n".join(CLASSES))
    assert load_generator(f"{parts},classes={names}").defaults == own.defaults


def test_what_is_no_folder_of_parts_is_refused(published):
    with pytest.raises(ValueError, match="give dit:folder=DIR"):
        load_generator(f"dit:folder={published},vae={published}/vae")
    with pytest.raises(ValueError, match="give dit:folder=DIR"):
        load_generator("dit:transformer=a")
    rewritten(published / "model_index.json", id2label={"0": "a", "2": "b"})
    with pytest.raises(ValueError, match="without gaps"):
        load_generator(f"dit:folder={published}")


def test_in_half_precision(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, "int8")
    half = load_generator(f"dit:folder={tmp_path}", torch_dtype="bfloat16")
    image, _ = generate(half, drawing.requests(DOG), [0], Sampling(steps=2))
    assert image.shape == (1, 3, 32, 32) and torch.isfinite(image).all()


def test_training_starts_as_published():
    """Embedders normal, the rest Xavier; zeros: see above."""
    model = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=32, num_layers=1,
                                  num_embeds_ada_norm=1000, sample_size=4)  # fmt: skip
    adaln_zero_(model, ("norm1.linear", "proj_out_1", "proj_out_2"))
    emb = model.transformer_blocks[0].norm1.emb
    for part in (emb.class_embedder.embedding_table, emb.timestep_embedder.linear_1):
        assert part.weight.std().item() == pytest.approx(0.02, rel=0.1)
    ff = model.transformer_blocks[0].ff.net[2].weight
    assert ff.abs().max().item() == pytest.approx((6 / sum(ff.shape)) ** 0.5, rel=0.05)
