"""Conversion of GenEval's detector: every key, both ways, and the files that are not it."""

import json
import math
import re
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Mask2FormerForUniversalSegmentation
from typer.testing import CliRunner

from impasto.cli import app
from impasto.files import sha256_file
from impasto.score.detector import detector_config
from impasto.score.mask2former_convert import (
    from_mmdet,
    mask2former,
    merge_order,
    position_index,
    to_mmdet,
    unmerge_order,
)
from impasto.score.mask2former_names import UNUSED
from impasto.zoo.convert import CONVERTERS, ConversionReport, convert

TINY, OFFICIAL = detector_config("tiny"), detector_config("official")


# The file of mmdetection 2.x, written down from its modules (2.28)


def mmdet_shapes():
    """Key -> shape of mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco's state dict."""
    shapes = {}

    def layer(name, *shape):
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    layer("backbone.patch_embed.projection", 96, 3, 4, 4)
    layer("backbone.patch_embed.norm", 96)
    for i, (depth, heads) in enumerate(zip((2, 2, 18, 2), (3, 6, 12, 24), strict=True)):
        c = 96 * 2**i
        for j in range(depth):
            block = f"backbone.stages.{i}.blocks.{j}"
            layer(f"{block}.norm1", c)
            shapes[f"{block}.attn.w_msa.relative_position_bias_table"] = (13 * 13, heads)
            shapes[f"{block}.attn.w_msa.relative_position_index"] = (49, 49)
            layer(f"{block}.attn.w_msa.qkv", 3 * c, c)
            layer(f"{block}.attn.w_msa.proj", c, c)
            layer(f"{block}.norm2", c)
            layer(f"{block}.ffn.layers.0.0", 4 * c, c)
            layer(f"{block}.ffn.layers.1", c, 4 * c)
        if i < 3:
            layer(f"backbone.stages.{i}.downsample.norm", 4 * c)
            shapes[f"backbone.stages.{i}.downsample.reduction.weight"] = (2 * c, 4 * c)
        layer(f"backbone.norm{i}", c)
    pixel = "panoptic_head.pixel_decoder"
    for k, c in enumerate((768, 384, 192)):
        layer(f"{pixel}.input_convs.{k}.conv", 256, c, 1, 1)
        layer(f"{pixel}.input_convs.{k}.gn", 256)
    for k in range(6):
        one = f"{pixel}.encoder.layers.{k}"
        layer(f"{one}.attentions.0.sampling_offsets", 8 * 3 * 4 * 2, 256)
        layer(f"{one}.attentions.0.attention_weights", 8 * 3 * 4, 256)
        layer(f"{one}.attentions.0.value_proj", 256, 256)
        layer(f"{one}.attentions.0.output_proj", 256, 256)
        layer(f"{one}.ffns.0.layers.0.0", 1024, 256)
        layer(f"{one}.ffns.0.layers.1", 256, 1024)
        layer(f"{one}.norms.0", 256)
        layer(f"{one}.norms.1", 256)
    shapes[f"{pixel}.level_encoding.weight"] = (3, 256)
    shapes[f"{pixel}.lateral_convs.0.conv.weight"] = (256, 96, 1, 1)
    layer(f"{pixel}.lateral_convs.0.gn", 256)
    shapes[f"{pixel}.output_convs.0.conv.weight"] = (256, 256, 3, 3)
    layer(f"{pixel}.output_convs.0.gn", 256)
    layer(f"{pixel}.mask_feature", 256, 256, 1, 1)
    for k in range(9):
        one = f"panoptic_head.transformer_decoder.layers.{k}"
        for i in range(2):
            shapes[f"{one}.attentions.{i}.attn.in_proj_weight"] = (768, 256)
            shapes[f"{one}.attentions.{i}.attn.in_proj_bias"] = (768,)
            layer(f"{one}.attentions.{i}.attn.out_proj", 256, 256)
        layer(f"{one}.ffns.0.layers.0.0", 2048, 256)
        layer(f"{one}.ffns.0.layers.1", 256, 2048)
        for i in range(3):
            layer(f"{one}.norms.{i}", 256)
    layer("panoptic_head.transformer_decoder.post_norm", 256)
    for name, count in (("query_embed", 100), ("query_feat", 100), ("level_embed", 3)):
        shapes[f"panoptic_head.{name}.weight"] = (count, 256)
    layer("panoptic_head.cls_embed", 81, 256)
    for i in (0, 2, 4):
        layer(f"panoptic_head.mask_embed.{i}", 256, 256)
    return shapes


def hub_name(key):
    """transformers 5's name of a Mask2Former tensor as the hub's files have it."""
    for new, old in (
        (r"encoder\.swin\.(embeddings|encoder)\.", r"encoder.\1."),
        (r"(blocks\.\d+\.attention)\.q_proj\.", r"\1.self.query."),
        (r"(blocks\.\d+\.attention)\.k_proj\.", r"\1.self.key."),
        (r"(blocks\.\d+\.attention)\.v_proj\.", r"\1.self.value."),
        (r"(blocks\.\d+\.attention)\.o_proj\.", r"\1.output.dense."),
        (r"(attention)\.relative_position_bias\.(relative)", r"\1.self.\2"),
        (r"(blocks\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
        (r"(blocks\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
    ):
        key = re.sub(new, old, key)
    return key


@pytest.fixture(scope="module")
def full():
    """transformers' own model of full size, under the hub's names, without values."""
    with torch.device("meta"):
        model = Mask2FormerForUniversalSegmentation(OFFICIAL)
    return {hub_name(key): tensor for key, tensor in model.state_dict().items()}


def test_the_official_file_has_649_tensors_of_68_8_million_values():
    shapes = mmdet_shapes()
    values = sum(math.prod(shape) for shape in shapes.values())
    assert (len(shapes), values, f"{values / 1e6:.2f}") == (649, 68_797_171, "68.80")
    assert sum(key.endswith("relative_position_index") for key in shapes) == 24


def test_the_official_file_fills_transformers_model_of_full_size(full):
    tensors = {key: torch.empty(shape, device="meta") for key, shape in mmdet_shapes().items()}
    state, report = from_mmdet(tensors, OFFICIAL)
    assert report.source == "mmdetection 2.x"
    assert set(full) - set(state) == UNUSED & set(full) and len(state) == 757
    assert {k: v.shape for k, v in state.items()} == {k: full[k].shape for k in state}
    assert (report.missing, report.unexpected) == ((), ())
    assert (len(report.renamed), len(report.split), len(report.dropped)) == (559, 66, 24)
    assert len(report.permuted) == 9
    report.check()


def test_transformers_model_of_full_size_gives_the_official_files_names_and_shapes(full):
    back = to_mmdet(full, OFFICIAL)
    assert {key: tuple(value.shape) for key, value in back.items()} == mmdet_shapes()


# Numbers


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny detector with random values everywhere, as save_pretrained writes it."""
    folder = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mask2FormerForUniversalSegmentation(TINY)
        for name, parameter in model.named_parameters():
            if ".swin.layernorm" not in name:  # plays no part, so the other side has not got it
                nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hub(saved):
    return load_file(saved / "model.safetensors")


@pytest.fixture(scope="module")
def old(hub):
    """The tiny detector in mmdetection 2.x's names."""
    return to_mmdet(hub, TINY)


def new_names(tensors):
    """mmdetection 3.x's names, by its own modules: pixel decoder, then transformer decoder."""
    out = {}
    for key, value in tensors.items():
        new = key.replace("ffns.0.layers", "ffn.layers")
        if "pixel_decoder.encoder" in key:
            new = new.replace("attentions.0", "self_attn")
        new = new.replace("attentions.0.attn", "cross_attn.attn")
        out[new.replace("attentions.1.attn", "self_attn.attn")] = value
    return out


def assert_equal(got, expected):
    assert set(got) == set(expected)
    assert [key for key in got if not torch.equal(got[key], expected[key])] == []


def test_there_and_back_is_the_same(hub, old):
    state, report = from_mmdet(old, TINY)
    assert_equal(state, {key: value for key, value in hub.items() if key not in UNUSED})
    assert_equal(to_mmdet(state, TINY), old)
    assert set(report.renamed) | set(report.split) | set(report.dropped) == set(old)


def test_names_of_3_x_give_the_same_tensors(hub, old):
    renamed = new_names(old)
    assert len(set(renamed) - set(old)) == 12 + 12  # one layer of each decoder
    state, report = from_mmdet(renamed, TINY)
    assert report.source == "mmdetection 3.x"
    assert_equal(state, from_mmdet(old, TINY)[0])
    assert {key for key in report.renamed if ".cross_attn.attn." in key}


def test_query_key_and_value_are_thirds_of_the_rows(hub, old):
    qkv = old["backbone.stages.1.blocks.0.attn.w_msa.qkv.weight"]
    own = "model.pixel_level_module.encoder.encoder.layers.1.blocks.0.attention.self"
    for i, part in enumerate(("query", "key", "value")):
        assert torch.equal(qkv[16 * i : 16 * (i + 1)], hub[f"{own}.{part}.weight"])
    fused = old["panoptic_head.transformer_decoder.layers.0.attentions.1.attn.in_proj_bias"]
    own = "model.transformer_module.decoder.layers.0.self_attn"
    for i, part in enumerate("qkv"):
        assert torch.equal(fused[32 * i : 32 * (i + 1)], hub[f"{own}.{part}_proj.bias"])


def test_merged_patches_are_permuted_between_the_two_layouts():
    """Channel by channel, written by hand: 3 channels of 2 x 2 positions."""
    mmdet = torch.tensor([10 * c + p for c in range(3) for p in range(4)])
    transformers = [10 * c + p for p in (0, 2, 1, 3) for c in range(3)]
    assert merge_order(mmdet).tolist() == transformers
    assert torch.equal(unmerge_order(merge_order(mmdet)), mmdet)


def test_transformers_merges_patches_as_mmdetections_unfold_does():
    model = Mask2FormerForUniversalSegmentation(TINY)
    layer = next(m for m in model.modules() if type(m).__name__ == "SwinPatchMerging")
    generator = torch.Generator().manual_seed(0)
    c, height, width = 8, 8, 10
    picture = torch.randn(2, c, height, width, generator=generator)
    weight, scale, shift = (torch.randn(*shape, generator=generator)
                            for shape in ((2 * c, 4 * c), (4 * c,), (4 * c,)))  # fmt: skip
    patches = nn.Unfold(2, stride=2)(picture).transpose(1, 2)
    expected = nn.functional.layer_norm(patches, (4 * c,), scale, shift) @ weight.T
    with torch.no_grad():
        layer.reduction.weight.copy_(merge_order(weight))
        layer.norm.weight.copy_(merge_order(scale))
        layer.norm.bias.copy_(merge_order(shift))
        got = layer(picture.flatten(2).transpose(1, 2), (height, width))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_index_buffers_are_mmdetections():
    """WindowMSA's double step sequence, turned over."""
    w = 7
    steps = ((2 * w - 1) * torch.arange(w)[:, None] + torch.arange(w)[None]).reshape(1, -1)
    assert torch.equal(position_index(w), (steps + steps.T).flip(1))


# Files


@pytest.fixture
def kind(monkeypatch):
    """The conversion at tiny size."""
    monkeypatch.setitem(CONVERTERS._factories, "tiny", partial(mask2former, config=TINY))
    return "tiny"


def checkpoint(path, tensors):
    torch.save({"meta": {"mmdet_version": "2.24.1"}, "state_dict": tensors}, path)
    return path


@pytest.mark.parametrize("names", [dict, new_names], ids=["2.x", "3.x"])
def test_a_converted_folder_is_whole(tmp_path, kind, saved, old, names):
    source, out = checkpoint(tmp_path / "x.pth", names(old)), tmp_path / "a" / "out"
    report = convert(source, kind, out)
    assert set(report.missing) <= UNUSED and report.unexpected == ()
    model, told = Mask2FormerForUniversalSegmentation.from_pretrained(
        out, output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert_equal(load_file(out / "model.safetensors"), load_file(saved / "model.safetensors"))
    assert sorted(p.name for p in out.parent.iterdir()) == ["out"]
    assert oct((out / "model.safetensors").stat().st_mode)[-3:] == "644"
    assert [model.config.id2label[i] for i in (0, 64, 79)] == ["person", "computer mouse",
                                                               "toothbrush"]  # fmt: skip


def test_the_record_has_hashes_and_every_key(tmp_path, kind, old):
    source, out = checkpoint(tmp_path / "x.pth", old), tmp_path / "out"
    report = convert(source, kind, out)
    record = json.loads((out / "conversion.json").read_text())
    assert record["kind"] == kind
    assert record["source"] == {"name": "x.pth", "sha256": sha256_file(source)}
    assert record["result"] == {"model.safetensors": sha256_file(out / "model.safetensors")}
    assert record["report"]["renamed"] == dict(report.renamed)
    listed = {*record["report"]["renamed"], *record["report"]["split"],
              *record["report"]["dropped"]}  # fmt: skip
    assert listed == set(old)
    assert str(tmp_path) not in (out / "conversion.json").read_text()


def test_the_same_file_gives_the_same_bytes(tmp_path, kind, old):
    source = checkpoint(tmp_path / "x.pth", old)
    for name in "ab":
        convert(source, kind, tmp_path / name)
    for file in ("model.safetensors", "conversion.json", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


# What is refused


def without(tensors, *ends):
    return {key: value for key, value in tensors.items() if not key.endswith(ends)}


def mixed(tensors):
    """2.x with one decoder's layer of 3.x."""
    renamed = new_names(tensors)
    return {new if "transformer_decoder" in new else key: value
            for (key, value), new in zip(tensors.items(), renamed, strict=True)}  # fmt: skip


def with_shape(tensors, key, *shape):
    return tensors | {key: torch.zeros(shape)}


WRONG = {
    "mixture": (mixed, r"mixes names of mmdetection 3\.x .*cross_attn.* and 2\.x .*attentions"),
    "panoptic": (lambda t: with_shape(t, "panoptic_head.cls_embed.weight", 134, 32),
                 "tells 133 classes apart, not COCO's 80: a panoptic"),
    "swin-t": (lambda t: {k: v for k, v in t.items() if "stages.2" not in k},
               "Swin has 0 blocks in stage 2, not 1"),
    "larger": (lambda t: t | {"backbone.stages.0.blocks.1.norm1.weight": torch.ones(8)},
               "Swin has 2 blocks in stage 0, not 1"),
    "resnet": (lambda t: t | {"backbone.layer1.0.conv1.weight": torch.ones(1)}, "ResNet backbone"),
    "another": (lambda t: {"bbox_head.fc.weight": torch.ones(1)}, "another of mmdetection's"),
    "detectron2": (lambda t: {"sem_seg_head.predictor.level_embed.weight": torch.ones(1)},
                   "Detectron2's own"),
    "transformers": (lambda t: {"model.pixel_level_module.x": torch.ones(1)},
                     "already in transformers' names"),
    "clip": (lambda t: {"text_model.x": torch.ones(1)}, "CLIP, not a detector"),
    "missing": (lambda t: without(t, "cls_embed.bias", "mask_embed.4.weight"),
                r"2 missing keys: .*mask_embedder\.2\.0\.weight.*class_predictor\.bias"),
    "no part of it": (lambda t: {k: v for k, v in t.items() if k.startswith("backbone")},
                      "missing keys: .*input_projections"),
    "unexpected": (lambda t: t | {"ema.backbone": torch.ones(1)},
                   "1 unexpected keys: 'ema.backbone'"),
    "shape": (lambda t: with_shape(t, "panoptic_head.query_embed.weight", 100, 32),
              r"1 tensors have other shapes .*queries_embedder\.weight' has \(100, 32\), not "
              r"\(8, 32\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_refused_by_name(tmp_path, kind, old, name):
    change, words = WRONG[name]
    source = checkpoint(tmp_path / "x.pth", change(old))
    with pytest.raises(ValueError, match=words) as caught:
        convert(source, kind, tmp_path / "out")
    assert str(caught.value).startswith(f"{source}: ")
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_two_files_names_are_named_in_the_refusal(tmp_path, kind, old):
    source = checkpoint(tmp_path / "x.pth", WRONG["panoptic"][0](old))
    with pytest.raises(ValueError, match=r"743b7d99.*c9d0c4f2"):
        convert(source, kind, tmp_path / "out")


def test_a_folder_with_something_in_it_is_kept(tmp_path, kind, old):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    source = checkpoint(tmp_path / "x.pth", old)
    for out in (tmp_path / "out", source):
        with pytest.raises(ValueError, match="is there and not an empty folder"):
            convert(source, kind, out)
    (tmp_path / "empty").mkdir()
    convert(source, kind, tmp_path / "empty")


def test_an_unknown_kind_is_named_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"unknown kind of checkpoint 'mask2formr': did you mean"):
        convert(tmp_path / "none", "mask2formr", tmp_path / "out")


def test_tensors_that_are_missing_on_the_way_back_are_named(hub):
    with pytest.raises(ValueError, match=r"1 keys are missing: 'class_predictor\.bias'"):
        to_mmdet(without(hub, "class_predictor.bias"), TINY)


def test_harmless_keys_are_named_by_the_converter_alone():
    report = ConversionReport(source="x", loaded=(), renamed={}, split={}, missing=("a", "b"),
                              allowed=frozenset("a"))  # fmt: skip
    with pytest.raises(ValueError, match="1 missing keys: 'b'"):
        report.check()
    ConversionReport(source="x", loaded=(), renamed={}, split={}, missing=("a",),
                     unexpected=("a",), allowed=frozenset("a")).check()  # fmt: skip


# The command


def call(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def test_the_command_converts_and_says_what_it_did(tmp_path, kind, old):
    source = checkpoint(tmp_path / "x.pth", old)
    done = call(source, "--kind", kind, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "mmdetection 2.x: 131 tensors renamed, 10 split, 9 reordered, 4 dropped" in done.stdout
    told = call(source, "--kind", kind, "--out", tmp_path / "two", "--json").stdout
    assert json.loads(told)["source"] == "mmdetection 2.x"


def test_the_command_refuses_with_exit_code_2(tmp_path, old):
    source = checkpoint(tmp_path / "x.pth", old)
    for arguments, words in (
        ((source, "--kind", "mask2former"), "Swin has 1 blocks in stage 0, not 2"),
        ((source, "--kind", "x"), "unknown kind of checkpoint 'x'"),
        ((tmp_path / "none", "--kind", "mask2former"), "No such file"),
    ):
        done = call(*arguments, "--out", tmp_path / "out")
        assert done.exit_code == 2 and words in done.stderr, done.output
        assert "Traceback" not in done.output
