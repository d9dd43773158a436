"""A diffusers pipeline as a generator: its own pictures, row by row, and what is refused."""

import json
import pickle

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, StableDiffusion3Pipeline, UNet2DModel

from impasto.images import quantise
from impasto.models import DiffusersGenerator, load_generator
from impasto.models.foreign.loading import load_pipeline
from impasto.run.evaluate import evaluate
from impasto.sample.protocol import Request, Sampling, generate
from impasto.search import BestOfN, NoSearch
from tests import tiny, tiny_sd3
from tests.fakes import FakeSecond

TEXTS = ["a red dog", "two cats", "a bus above a kite"]
SEEDS = [5, 6, 7]
SAMPLING = Sampling(steps=2, guidance=3.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sd3")
    tiny_sd3.pipeline().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pipe(folder):
    return load_generator(f"diffusers:id={folder}")


def draw(pipe, texts=TEXTS, seeds=SEEDS, sampling=SAMPLING):
    return generate(pipe, [Request.of(text) for text in texts], seeds, sampling)


def test_pictures_are_those_of_the_pipeline_itself(pipe, folder):
    own = load_pipeline(str(folder), "float32")
    drawn, _ = draw(pipe)
    for i, (text, seed) in enumerate(zip(TEXTS, SEEDS, strict=True)):
        image = own(text, num_inference_steps=2, guidance_scale=3.0, output_type="pt",
                    generator=torch.Generator().manual_seed(seed)).images  # fmt: skip
        assert torch.equal(drawn[i], quantise(image)[0])
    assert len({image.sum().item() for image in drawn}) == 3


def test_a_row_depends_on_neither_batch_nor_order(pipe):
    together, _ = draw(pipe)
    backwards, _ = draw(pipe, TEXTS[::-1], SEEDS[::-1])
    assert torch.equal(together, backwards.flip(0))
    for i in range(3):
        assert torch.equal(draw(pipe, TEXTS[i : i + 1], SEEDS[i : i + 1])[0][0], together[i])


def test_prompt_seed_and_settings_all_matter(pipe):
    base = draw(pipe, TEXTS[:1], [5])[0]
    for other in (draw(pipe, TEXTS[1:2], [5]), draw(pipe, TEXTS[:1], [6]),
                  draw(pipe, TEXTS[:1], [5], Sampling(steps=3, guidance=3.0)),
                  draw(pipe, TEXTS[:1], [5], Sampling(steps=2, guidance=1.0))):  # fmt: skip
        assert not torch.equal(other[0], base)
    assert draw(pipe, TEXTS[:1], [5], Sampling(steps=1, height=16, width=48))[0].shape[2:] == (
        16, 48)  # fmt: skip


def test_cost_follows_steps_and_guidance(pipe):
    def flops(rows=1, **settings):
        _, cost = draw(pipe, TEXTS[:rows], SEEDS[:rows], Sampling(**settings))
        assert cost.images == cost.row_steps == rows
        return cost.flops

    one, two, three = (flops(steps=n, guidance=1.0) for n in (1, 2, 3))
    assert two - one == three - two > 0
    assert flops(rows=3, steps=1, guidance=1.0) == 3 * one
    assert flops(steps=3, guidance=4.0) - flops(steps=2, guidance=4.0) == 2 * (two - one)


def test_the_count_knows_attention():
    from impasto.models.foreign.flops import counted

    q = torch.randn(2, 3, 5, 8)
    attend = lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)  # noqa: E731
    assert counted(attend) == 2 * (2 * 3) * 5 * 5 * (8 + 8)
    assert counted(lambda: torch.randn(4, 5) @ torch.randn(5, 6)) == 2 * 4 * 5 * 6


def test_there_is_no_preview_and_it_says_so(pipe):
    assert not pipe.has_preview
    state = pipe.start([Request.of("a dog")], [1], SAMPLING)
    with pytest.raises(ValueError, match=r"sd3.* has no preview; take a search over finished"):
        pipe.preview(state)
    done = pipe.advance(state)
    assert done.done and not state.done
    chosen = pipe.select(done, [0, 0])
    assert chosen.seeds == (1, 1) and len(pipe.finish(chosen)) == 2
    for call in (lambda: pipe.advance(done), lambda: pipe.finish(state)):
        with pytest.raises(ValueError):
            call()


def test_provenance(pipe, folder):
    record = pipe.provenance()
    json.dumps(record, allow_nan=False)
    assert record["id"] == str(folder) and record["pipeline"] == "StableDiffusion3Pipeline"
    assert record["sampler"] == "FlowMatchEulerDiscreteScheduler"
    assert record["scheduler"]["shift"] == 3.0 and record["dtype"] == "float32"
    assert record["defaults"] == {"steps": 28, "guidance": 7.0} and record["preview"] is False
    assert len(record["sha256"]) == 64 and record == pipe.provenance()
    half = load_generator(f"diffusers:id={folder},dtype=bfloat16").provenance()
    assert half["dtype"] == "bfloat16" and half["sha256"] != record["sha256"]


def test_one_changed_weight_is_another_sha256(folder):
    other = load_pipeline(str(folder), "float32")
    before = DiffusersGenerator(other).provenance()["sha256"]
    with torch.no_grad():
        other.text_encoder_2.text_model.embeddings.position_embedding.weight[3, 3] += 1
    assert DiffusersGenerator(other).provenance()["sha256"] != before


def test_an_object_with_further_arguments(pipe, folder):
    own = load_pipeline(str(folder), "float32")
    worded = DiffusersGenerator(own, id="mine", call={"negative_prompt": "grey"})
    assert worded.provenance()["call"] == {"negative_prompt": "grey"}
    assert not torch.equal(draw(worded)[0], draw(pipe)[0])
    for key in ("negativ_prompt", "prompt", "num_inference_steps"):
        with pytest.raises(ValueError, match=f"'{key}' is not to be given here; allowed for"):
            DiffusersGenerator(own, call={key: 1})


def test_a_pipeline_without_a_text_is_refused():
    unet = UNet2DModel(sample_size=8, block_out_channels=(8, 8), norm_num_groups=4,
                       down_block_types=("DownBlock2D",) * 2,
                       up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    with pytest.raises(ValueError, match="DDPMPipeline does not draw from a text"):
        DiffusersGenerator(DDPMPipeline(unet, DDPMScheduler()))


def test_settings_that_a_pipeline_has_not_are_refused_by_name(folder):
    class Plain(StableDiffusion3Pipeline):
        def __call__(self, prompt, generator, output_type):
            raise AssertionError("not called")

    pipe = Plain(**load_pipeline(str(folder), "float32").components)
    with pytest.raises(ValueError, match=r"has no setting guidance \(guidance_scale\)"):
        draw(DiffusersGenerator(pipe), sampling=Sampling(guidance=2.0))


def test_broken_weights_are_no_black_pictures(folder):
    pipe = load_pipeline(str(folder), "float32")
    torch.nn.init.constant_(pipe.transformer.proj_out.bias, torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        draw(DiffusersGenerator(pipe))


@pytest.fixture
def copy(folder, tmp_path):
    import shutil

    return shutil.copytree(folder, tmp_path / "copy")


def edit_index(folder, **changes):
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("changes, message", [
    ({"_class_name": ["evil", "Pipe"]}, "is not a pipeline of diffusers"),
    ({"_class_name": "NoSuchPipeline"}, "is not a pipeline of diffusers"),
    ({"transformer": ["evil", "Model"]}, r"'transformer' is \['evil', 'Model'\]; classes of"),
])  # fmt: skip
def test_code_of_a_folder_is_never_run(copy, tmp_path, changes, message):
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit_index(copy, **changes)
    with pytest.raises(ValueError, match=message):
        load_generator(f"diffusers:id={copy}")
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_refused(copy):
    weights = copy / "transformer/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    weights.with_suffix(".bin").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match="cannot be loaded as a diffusers pipeline with safeten"):
        load_generator(f"diffusers:id={copy}")


@pytest.mark.parametrize("options, message", [
    ("id=no/such-thing,local_files_only=true", "'no/such-thing' is neither a folder nor"),
    ("id={folder},dtype=int3", "dtype must be one of"),
    ("id={folder},revision=main", "is a folder: it has no revision"),
    ("id={folder},dtyp=float16", "did you mean 'dtype'"),
    ("", "needs 'id'"),
])  # fmt: skip
def test_bad_options_are_named(folder, options, message):
    with pytest.raises(ValueError, match=message):
        load_generator("diffusers:" + options.format(folder=folder))


def test_a_pipelines_folder_alone_says_how_to_load_it(folder):
    with pytest.raises(ValueError, match=f"diffusers:id={folder}"):
        load_generator(folder)


def test_a_run_with_and_without_a_search(pipe, tmp_path):
    bench = tiny.BENCH.stratified(2)
    settings = tiny.settings(bench=bench, samples=1, sampling=Sampling(steps=1))
    base = evaluate(settings, pipe, NoSearch(), tmp_path / "base", batch_size=2)
    evaluate(settings, pipe, NoSearch(), tmp_path / "one", batch_size=1)
    assert tiny.tree(tmp_path / "base") == tiny.tree(tmp_path / "one")
    assert base.record["sampling"] == {"steps": 1, "guidance": 7.0, "height": None, "width": None}
    best = evaluate(settings, pipe, BestOfN(2, FakeSecond()), tmp_path / "best")
    assert best.sample(0, 0)["candidates"][0]["seed"] == base.sample(0, 0)["seed"]
