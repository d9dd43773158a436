"""VAR's published names and ours; the files here are small ones with the official tensors."""

import json
from dataclasses import asdict

import pytest
import torch

from impasto.models.storage import network_from
from impasto.models.var.config import TOKENIZERS, TRANSFORMERS
from impasto.models.var.convert import (
    official_tokenizer,
    official_transformer,
    tokenizer_sizes,
    transformer_sizes,
)
from impasto.models.var.model import VARTransformer
from impasto.models.var.tokenizer import VARTokenizer
from impasto.zoo.convert import convert
from tests import tiny_var
from tests.converted import file, same

# State keys of the official files: measured there.
KEYS = {"d16": 220, "d20": 272, "d24": 324, "d30": 402, "d36-s": 446}


def tokenizer():
    return tiny_var.tokenizer(widths=(32, 32, 64), groups=32, blocks=2)


# ------------------------------------------------------------------------------ the transformer


@pytest.mark.parametrize("name", KEYS)
def test_sizes_are_read_off_published_shapes(name):
    with torch.device("meta"):
        model = VARTransformer(**asdict(TRANSFORMERS[name]))
    # Without lvl_1L, whose values a meta tensor has not: by the numbers of scales and tokens.
    assert transformer_sizes(model.state_dict()) == asdict(TRANSFORMERS[name])
    official = official_transformer(model)
    assert len(official) == KEYS[name]
    length = 2240 if name == "d36-s" else 680
    assert official["lvl_1L"].shape == (1, length)
    assert official["attn_bias_for_masking"].shape == (1, 1, length, length)


@pytest.mark.parametrize("shared", [False, True])
def test_a_published_file_and_back(tmp_path, shared):
    model = tiny_var.transformer(shared=shared)
    foreign = official_transformer(model)
    assert foreign["lvl_1L"][0].tolist() == [0] + [1] * 4 + [2] * 16
    bias = foreign["attn_bias_for_masking"][0, 0]
    assert bias[0].tolist() == [0] + [-torch.inf] * 20 and not bias[5:].any()
    report = convert(file(tmp_path, foreign), "var", tmp_path / "out")
    made = network_from(VARTransformer, tmp_path / "out")
    assert same(made, model) and made.config["patches"] == [1, 2, 4]
    assert report.dropped == ("attn_bias_for_masking", "lvl_1L") and not report.renamed
    again = official_transformer(made)
    assert set(again) == set(foreign)
    assert all(torch.equal(again[key], tensor) for key, tensor in foreign.items())
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["kind"] == "var"


def test_a_training_s_checkpoint_has_both(tmp_path):
    model, vae = tiny_var.transformer(), tokenizer()
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}
    trainer = {"config": {"prog_it": 0}, "var_wo_ddp": official_transformer(model),
               "vae_local": official_tokenizer(vae, 3), "var_opt": optimizer}  # fmt: skip
    whole = file(tmp_path, {"epoch": 3, "trainer": trainer, "args": {"depth": 3}})
    convert(whole, "var", tmp_path / "transformer")
    convert(whole, "var-vae", tmp_path / "vae")
    assert same(network_from(VARTransformer, tmp_path / "transformer"), model)
    assert same(network_from(VARTokenizer, tmp_path / "vae"), vae)


@pytest.mark.parametrize(("change", "message"), [
    ({"blocks.1.attn.proj.bias": None}, r"1 missing keys: 'blocks.1.attn.proj.bias'"),
    ({"blocks.0.attn.zero_k_bias": torch.ones(32)}, "is not zero"),
    ({"head.weight": torch.zeros(32, 16)}, "has shape"),
    ({"extra.weight": torch.ones(1)}, "1 unexpected keys: 'extra.weight'"),
    ({"word_embed.weight": None}, "no tensor 'word_embed.weight'"),
    ({"lvl_1L": None}, "3 scales of 21 tokens together and no 'lvl_1L'"),
    ({"lvl_1L": torch.zeros(1, 21, dtype=torch.long)}, r"has \[21, 0, 0\] tokens a scale"),
    ({"head.bias": torch.full((32,), -torch.inf)}, "'head.bias' holds NaN or infinity"),
    ({"attn_bias_for_masking": torch.full((1,), torch.nan)}, "holds NaN"),
])  # fmt: skip
def test_other_files_are_refused(tmp_path, change, message):
    foreign = official_transformer(tiny_var.transformer()) | change
    foreign = {key: tensor for key, tensor in foreign.items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        convert(file(tmp_path, foreign), "var", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------ the tokenizer


def test_the_tokenizer_s_sizes_are_read_off_published_shapes():
    with torch.device("meta"):
        model = VARTokenizer(**asdict(TOKENIZERS["ch160v4096z32"]))
    official = official_tokenizer(model, 10)
    assert tokenizer_sizes(official) == asdict(TOKENIZERS["ch160v4096z32"])
    assert len(official) == 324
    assert official["quantize.ema_vocab_hit_SV"].shape == (10, 4096)


def test_a_published_tokenizer_and_back(tmp_path):
    model = tokenizer()
    foreign = official_tokenizer(model, 10)  # of another number of scales: of no use anyway
    report = convert(file(tmp_path, foreign), "var-vae", tmp_path / "out")
    made = network_from(VARTokenizer, tmp_path / "out")
    assert same(made, model) and report.dropped == ("quantize.ema_vocab_hit_SV",)
    assert set(official_tokenizer(made, 10)) == set(foreign)
    other = {key: tensor for key, tensor in foreign.items() if "qresi_ls.3" not in key}
    fewer = convert(file(tmp_path, other), "var-vae", tmp_path / "fewer")
    assert len(fewer.loaded) == len(report.loaded) - 2
    with pytest.raises(ValueError, match=r"no tensor 'quantize.embedding.weight'"):
        convert(file(tmp_path, official_transformer(tiny_var.transformer())), "var-vae",
                tmp_path / "no")  # fmt: skip
