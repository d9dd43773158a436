"""The benchmarks of tokenizers: the published ways give the same, the work is counted right."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from impasto.models.layton.sampler import own_noise
from impasto.models.tokenflow.costs import scale_flops
from impasto.sample.flops import count_flops
from impasto.train.loop import Loop
from tests import tiny_layton, tiny_tokenflow_lm

BENCHMARKS = str(Path(__file__).parent.parent / "benchmarks")
NAMES = ("layton", "measuring", "official_layton", "roofline", "tokenflow", "training")


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, BENCHMARKS)
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(BENCHMARKS)


@pytest.fixture
def model():
    return tiny_layton.published()


# ------------------------------------------------------------------------------ Layton's ways


@torch.no_grad()
def test_laytons_published_way_gives_our_pictures(scripts, model):
    official, bench = scripts["official_layton"], scripts["layton"]
    ids, seeds = bench.random_ids(model, 2), [3, 4]
    noise = own_noise(seeds, bench.latent_shape(model))
    pictures = [2 * bench.ours(model, ids, n, seeds) - 1 for n in (1, 2, 3)]
    model.use_lean(False)
    for n, picture in enumerate(pictures, start=1):
        theirs = official.official_decode(model, ids, n, noise)
        torch.testing.assert_close(picture, theirs, atol=1e-3, rtol=0)
    assert (pictures[0] - pictures[2]).abs().max() > 0.1  # or the number of steps had no say
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(official.official_encode(model, x), model.encode(x)[0])


@torch.no_grad()
def test_laytons_published_way_does_all_work_anew(scripts, model, monkeypatch):
    """The stem at every step, and every cross-attention of UNet and copy."""
    stems, attentions = [], []
    stem = model.decoder.controlnet.controlnet_cond_embedding
    stem.register_forward_hook(lambda *_: stems.append(1))
    for network in (model.decoder.unet, model.decoder.controlnet):
        for name, part in network.named_modules():
            if name.endswith("attn2.to_k"):
                part.register_forward_hook(lambda *_: attentions.append(1))
    model.use_lean(False)
    ids = scripts["layton"].random_ids(model, 1)
    noise = own_noise([1], scripts["layton"].latent_shape(model))
    scripts["official_layton"].official_decode(model, ids, 3, noise)
    layers = sum(name.endswith("attn2") for network in (model.decoder.unet,
                 model.decoder.controlnet) for name, _ in network.named_modules())  # fmt: skip
    assert len(stems) == 3 and len(attentions) == 3 * layers > 0


@pytest.mark.parametrize("changed", ["lean", "merged"])
def test_laytons_published_way_is_neither_lean_nor_merged(scripts, model, changed):
    model.use_lean(changed == "lean")
    model.decoder.merged = changed == "merged"
    with pytest.raises(ValueError, match="neither lean nor merged"):
        scripts["official_layton"].official_decode(model, torch.zeros(1, 4, dtype=torch.long), 1,
                                                   own_noise([1], (4, 4, 4)))  # fmt: skip


def test_a_published_way_that_differs_is_not_timed(scripts, monkeypatch):
    bench = scripts["layton"]
    bench.check(scripts["measuring"].Sheet("cpu", 1))
    monkeypatch.setattr(scripts["official_layton"], "SCALE", 0.7)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="ours differ"):
        bench.check(scripts["measuring"].Sheet("cpu", 1))


# ------------------------------------------------------------------------------ the work


def test_laytons_work_is_that_of_its_tokenizer_lean_and_merged(scripts, model):
    bench, sizes = scripts["layton"], model.sizes_of_side(16)
    with model.decoder.accelerated(False):
        want = model.decode_flops(sizes)
    assert sum(stage.flops for stage in bench.decoding(model, [3])[3]) == want
    assert want < model.decode_flops(sizes)  # the accelerator's own products are left out
    conv, search = bench.encoding(model)
    small = torch.empty(1, 3, 16, 16)
    assert conv.flops == count_flops(model.vq.encoder, small) and search.flops == 2 * 16 * 64 * 8


def test_a_drawings_work_counts_both_branches_and_every_pass(scripts):
    pipe = tiny_tokenflow_lm.generator(3)
    text, *scales = scripts["tokenflow"].drawing(pipe)
    net, prefix = pipe.transformer, pipe._scale.prefix
    assert [stage.times for stage in scales] == [1, 3, 3]
    assert sum(stage.flops for stage in scales) == 2 * (
        scale_flops(net, 0, prefix) + 3 * scale_flops(net, 1, prefix)
        + 3 * scale_flops(net, 2, prefix))  # fmt: skip
    blocks = sum(p.numel() for p in net.model.layers.parameters())
    assert text.weights == blocks and scales[0].weights == blocks + 32 * 32


def test_a_stage_is_as_long_as_its_products_or_its_weights(scripts):
    roof = scripts["roofline"]
    card = roof.Card(1000.0, 100.0, 10.0, 50.0)
    layer = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(12, 5))
    stage = roof.Stage.of(layer, torch.zeros(1, 2, 2, 2), times=2)
    assert (stage.convolutions, stage.products, stage.weights) == (2 * 4 * 6, 2 * 60, 9 + 65)
    assert stage.flops == 2 * (48 + 120)
    half, full = (roof.Peaks.of(card, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert half == (1000, 1000, 10, 50) and full == (100, 10, 10, 50)
    # Bytes of 74 weights at first, products of many pictures then.
    assert stage.seconds(half, torch.bfloat16, 1) == pytest.approx(2 * 74 * 2 / 50)
    assert stage.seconds(half, torch.bfloat16, 100) == pytest.approx(2 * 100 * 168 / 1000)
    assert stage.seconds(full, torch.float32, 1) == pytest.approx(2 * (48 / 100 + 120 / 10))
    search = roof.Stage(exact=30)
    assert search.seconds(half, torch.bfloat16, 2) == pytest.approx(2 * 30 / 10)
    with pytest.raises(ValueError, match=r"not of torch\.float16"):
        roof.Peaks.of(card, torch.float16)


def test_float32s_peaks_follow_torchs_settings(scripts, monkeypatch):
    roof = scripts["roofline"]
    card = roof.CARDS["NVIDIA H100 80GB HBM3"]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert roof.Peaks.of(card, torch.float32)[:3] == (494e12, 494e12, 67e12)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert roof.Peaks.of(card, torch.float32)[:3] == (67e12, 494e12, 67e12)


# ------------------------------------------------------------------------------ clocks, tables


@pytest.mark.parametrize(("each", "enough", "calls", "timed"), [
    (1.0, None, 5, 3),      # two that warm up
    (0.01, 1.0, 4, 3),      # one
    (0.6, 1.0, 3, 2),       # enough after two
    (0.9, 0.1, 2, 1),       # long, and seen at the first call
])  # fmt: skip
def test_calls_that_are_timed(scripts, monkeypatch, each, enough, calls, timed):
    now, made = [0.0], []

    def run():
        now[0] += each
        made.append(1)
        return len(made)

    monkeypatch.setattr(scripts["measuring"].time, "perf_counter", lambda: now[0])
    done = scripts["measuring"].timed(run, "cpu", 3, enough)
    assert len(made) == calls == done.result and len(done.warm) == timed
    assert [done.cold, done.second, done.seconds] == pytest.approx([each] * 3)


def test_a_way_that_fails_says_so_and_the_next_goes_on(scripts, tmp_path, capsys):
    sheet = scripts["measuring"].Sheet("cpu", 1)
    settings = {"dtype": torch.float32, "pictures": 2}
    assert sheet.time({"way": "broken"}, lambda: 1 / 0, [], **settings) is None
    done = sheet.time({"way": "whole"}, lambda: 1, [], **settings)
    sheet.time({"way": "beside"}, lambda: 1, [], base=done, **settings)
    assert sheet.close(tmp_path / "all.json", device="cpu") == 1
    whole = json.loads((tmp_path / "all.json").read_text())
    broken, first, second = whole["rows"]
    assert broken["failed"] == "ZeroDivisionError: division by zero" and "1 / 0" in broken[
        "traceback"]  # fmt: skip
    assert first["share"] is None and first["times faster"] is None  # a card without peaks
    assert second["times faster"] > 0 and whole["settings"] == {"device": "cpu"}
    table = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert len(table) == 5 and len({line.count("|") for line in table}) == 1
    assert "failed" in table[0] and "traceback" not in table[0]


def test_shares_of_a_known_card(scripts, monkeypatch):
    sheet = scripts["measuring"].Sheet("cpu", 1)
    sheet.card = scripts["roofline"].Card(1.0, 1.0, 1.0, 1.0)
    now = iter([0.0, 10.0, 20.0, 30.0])
    monkeypatch.setattr(scripts["measuring"].time, "perf_counter", lambda: next(now))
    stages = [scripts["roofline"].Stage(products=2)]
    sheet.time({}, lambda: 0, stages, dtype=torch.bfloat16, pictures=2)
    assert sheet.rows[0]["share"] == "40.0 %" and sheet.rows[0]["TFLOP"] == 4e-12


# ------------------------------------------------------------------------------ the scripts


def table(script, monkeypatch, tmp_path, *words):
    file = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["script", "--repeats", "1", "--json", str(file), *words])
    assert script.main() == 0
    return json.loads(file.read_text())


def test_layton_from_end_to_end(scripts, monkeypatch, tmp_path):
    whole = table(scripts["layton"], monkeypatch, tmp_path, "--preset", "tiny", "--batches", "1",
                  "--steps", "1")  # fmt: skip
    ways = [(row["type"], row["what"], row["way"]) for row in whole["rows"]]
    decode = "decode, 1 step"
    assert ways == [
        ("float32", "encode", "published"), ("float32", decode, "published"),
        ("float32", "encode", "ours"), ("float32", decode, "ours"),
        ("bfloat16", "encode", "published"), ("bfloat16", decode, "published"),
        ("bfloat16", decode, "ours, not lean"), ("bfloat16", "encode", "ours"),
        ("bfloat16", decode, "ours"), ("bfloat16", decode, "ours, merged"),
    ]  # fmt: skip
    checks = [note for note in whole["notes"] if "check" in note]
    assert [note["ids_that_differ"] for note in checks] == [0, 0]
    assert all(d < 1e-3 for c in checks for d in c["largest_difference_by_steps"].values())


def test_tokenflow_from_end_to_end_and_l_without_timm(scripts, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", None)
    whole = table(scripts["tokenflow"], monkeypatch, tmp_path, "--tokenizers", "l", "tiny",
                  "--model", "tiny", "--batches", "1", "--passes", "1", "2")  # fmt: skip
    left = [note for note in whole["notes"] if "left_out" in note]
    assert [note["tokenizer"] for note in left] == ["l"]
    assert "impasto[vitamin]" in left[0]["left_out"]
    assert [(row["what"], row["way"]) for row in whole["rows"]] == [
        ("encode", "published quantiser"), ("encode", "ours"), ("decode", "ours"),
        *((f"draw, {n}", way) for n in ("1 pass", "2 passes")
          for way in ("published: all anew", "ours, cached", "the same, with the picture"))
    ]  # fmt: skip
    same = [note["ids_that_differ"] for note in whole["notes"] if "ids_that_differ" in note]
    far = [note["largest_difference_of_sums"] for note in whole["notes"]
           if "largest_difference_of_sums" in note]  # fmt: skip
    assert same == [0] and far == [0.0, 0.0]


# ------------------------------------------------------------------------------ trainings


def test_every_training_makes_its_steps_and_stops(scripts, monkeypatch, capsys):
    bench, update = scripts["training"], Loop.update
    monkeypatch.setattr(sys, "argv", ["training.py", "--preset", "tiny", "--batches", "2",
                                      "--steps", "2"])  # fmt: skip
    bench.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("'")]
    assert [line.split("'")[1] for line in lines] == list(bench.KINDS)
    assert all(float(line.split()[-1]) > 0 for line in lines)
    assert Loop.update is update
    with bench.marked(3, torch.device("cpu")) as marks:
        train = bench.trained("tiny", torch.device("cpu"))["base"]
        train(batch=2, steps=100, lr=1e-4)
    assert len(marks) == 1 + bench.WARM + 3
