"""Infinity's published names and ours; the files here are small ones under official names."""

import json
from dataclasses import asdict

import pytest
import torch

from impasto.models.infinity.config import TOKENIZERS, TRANSFORMERS
from impasto.models.infinity.convert import chunked, tokenizer_sizes, transformer_sizes
from impasto.models.infinity.model import InfinityTransformer
from impasto.models.infinity.tokenizer import InfinityTokenizer
from impasto.models.storage import network_from
from impasto.zoo.convert import convert
from tests import tiny_infinity
from tests.converted import file, same

SMALL = {"bits": 4, "widths": (32, 32, 32, 64, 64), "blocks": 2, "groups": 32}


def official(model, blocks=2):
    """The state of a transformer under the published names, in chunks."""
    state = model.state_dict()
    names = chunked(list(state), blocks) if blocks else {key: key for key in state}
    return {names[key]: tensor.clone() for key, tensor in state.items()}


def plain(model):
    """The state of a tokenizer under names that are not wrapped."""
    return {key.replace(".conv.weight", ".weight").replace(".conv.bias", ".bias")
            .replace(".norm.", "."): tensor.clone()
            for key, tensor in model.state_dict().items()}  # fmt: skip


def tokenizer():
    torch.manual_seed(0)
    return InfinityTokenizer(**SMALL)


# ------------------------------------------------------------------------------ the transformer


@pytest.mark.parametrize(("name", "blocks"), [("2B", 4), ("8B", 5), ("layer24", 6), ("125M", 0)])
def test_sizes_are_read_off_published_shapes(name, blocks):
    with torch.device("meta"):
        model = InfinityTransformer(**asdict(TRANSFORMERS[name]))
    state = model.state_dict()
    sizes = transformer_sizes(state)
    want = asdict(TRANSFORMERS[name])
    assert {key: sizes[key] for key in sizes if key != "pool_heads"} == {
        key: want[key] for key in sizes if key != "pool_heads"}  # fmt: skip
    assert sizes["pool_heads"] == 16
    if blocks:
        names = chunked(list(state), blocks)
        last = names[f"blocks.{want['depth'] - 1}.ada_gss"]
        # 2B: 8 chunks of 4; 8B: 8 of 5; the others 4 chunks.
        assert last == f"block_chunks.{want['depth'] // blocks - 1}.module.{blocks - 1}.ada_gss"


@pytest.mark.parametrize("blocks", [0, 2])
def test_chunks_become_one_list(tmp_path, blocks):
    model = tiny_infinity.transformer(depth=6)
    foreign = official(model, blocks) | {
        "lvl_1L": torch.zeros(1, 57),
        "attn_bias_for_masking": torch.full((1, 1, 57, 57), -torch.inf).triu(1),
        "Infinity_visible_kvlen": torch.zeros(3), "Infinity_invisible_qlen": torch.zeros(3),
    }  # fmt: skip
    if blocks:
        assert "block_chunks.2.module.1.sa.mat_qkv.weight" in foreign
    report = convert(file(tmp_path, foreign), "infinity", tmp_path / "out")
    assert same(network_from(InfinityTransformer, tmp_path / "out"), model)
    assert len(report.dropped) == 4 and len(report.renamed) == (6 * 21 if blocks else 0)
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["kind"] == "infinity" and record["result"]


def test_another_attention_s_scale_and_more_rows(tmp_path):
    model = tiny_infinity.transformer()
    foreign = official(model, 3)
    key = "block_chunks.0.module.1.sa.scale_mul_1H11"
    foreign[key] = foreign[key].reshape(1, 1, 2, 1)
    foreign["cfg_uncond"] = torch.randn(600, 32)
    convert(file(tmp_path, foreign), "infinity", tmp_path / "out")
    made = network_from(InfinityTransformer, tmp_path / "out")
    assert torch.equal(made.blocks[1].sa.scale_mul_1H11, model.blocks[1].sa.scale_mul_1H11)
    assert torch.equal(made.cfg_uncond, foreign["cfg_uncond"][:512])


def test_a_training_s_checkpoint(tmp_path):
    model, average = tiny_infinity.transformer(), tiny_infinity.transformer(7)
    other = {"gpt_fsdp": official(model, 3), "gpt_ema_fsdp": official(average, 3), "epoch": 3}
    convert(file(tmp_path, {"trainer": other, "args": {}}), "infinity", tmp_path / "out")
    assert same(network_from(InfinityTransformer, tmp_path / "out"), model)


@pytest.mark.parametrize(("change", "message"), [
    ({"block_chunks.0.module.1.ca_norm.bias": None}, r"1 missing keys: 'blocks.1.ca_norm.bias'"),
    ({"head.weight": torch.zeros(9, 32)}, "head has 9 rows for 4 bits a token"),
    ({"block_chunks.0.module.0.sa.zero_k_bias": torch.ones(32)}, "is not zero"),
    ({"block_chunks.0.module.0.ca.mat_kv.weight": torch.ones(64, 16)}, "has shape"),
    ({"block_chunks.1.module.0.ada_gss": torch.ones(1)}, r"chunks have \[1, 3\] blocks"),
    ({"blocks.0.ada_gss": torch.ones(1)}, "both in chunks and by themselves"),
    ({"extra.weight": torch.ones(1)}, "1 unexpected keys: 'extra.weight'"),
    ({"pos_start": None}, "no tensor 'pos_start'"),
])  # fmt: skip
def test_other_files_are_refused(tmp_path, change, message):
    foreign = official(tiny_infinity.transformer(), 3) | change
    foreign = {key: tensor for key, tensor in foreign.items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        convert(file(tmp_path, foreign), "infinity", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------ the tokenizer


@pytest.mark.parametrize("name", ["d32reg", "d64", "d56_f8_14_patchify"])
def test_tokenizers_sizes_are_read_off_published_shapes(name):
    with torch.device("meta"):
        model = InfinityTokenizer(**asdict(TOKENIZERS[name]))
    own = {"decoder_widths": None}  # published decoders mirror their encoders
    assert tokenizer_sizes(model.state_dict()) | own == asdict(TOKENIZERS[name])


@pytest.mark.parametrize("names", [plain, InfinityTokenizer.state_dict])
def test_plain_and_wrapped_names(tmp_path, names):
    model = tokenizer()
    masks = dict.fromkeys(("quantizer.lfq.mask", "quantize.lfq.mask"), torch.arange(4))
    foreign = {"vae": dict(names(model)) | masks, "ema": names(tokenizer())}
    if names is plain:
        for key in ("encoder.conv_in.weight", "encoder.down.0.block.0.norm1.weight",
                    "decoder.up.1.upsample.conv.weight", "decoder.norm_out.bias"):
            assert key in foreign["vae"]
    report = convert(file(tmp_path, foreign), "infinity-vae", tmp_path / "out")
    assert same(network_from(InfinityTokenizer, tmp_path / "out"), model)
    assert len(report.dropped) == 2


def test_a_flat_file_and_others(tmp_path):
    convert(file(tmp_path, plain(tokenizer())), "infinity-vae", tmp_path / "out")
    assert same(network_from(InfinityTokenizer, tmp_path / "out"), tokenizer())
    both = plain(tokenizer()) | tokenizer().state_dict()
    with pytest.raises(ValueError, match="under its plain name and its wrapped one"):
        convert(file(tmp_path, both), "infinity-vae", tmp_path / "no")
    with pytest.raises(ValueError, match=r"no tensor 'decoder.conv_in.conv.weight'"):
        convert(file(tmp_path, official(tiny_infinity.transformer())), "infinity-vae",
                tmp_path / "no")  # fmt: skip
