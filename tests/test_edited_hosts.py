"""Hosts found by structure; counts of full-size models, from the published sheets, on meta."""

import functools

import pytest
import torch
from diffusers import (
    ChromaTransformer2DModel,
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    LatteTransformer3DModel,
    PixArtTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
)

from impasto.models.edited.hosts import host_of, parameters

SD35 = {"sample_size": 128, "attention_head_dim": 64, "joint_attention_dim": 4096,
        "pooled_projection_dim": 2048, "qk_norm": "rms_norm"}  # fmt: skip
FULL = {
    "sd3.5-large": (SD3Transformer2DModel, SD35 | {
        "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432,
        "pos_embed_max_size": 192}),
    "sd3.5-medium": (SD3Transformer2DModel, SD35 | {
        "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
        "pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13))}),
    "flux-schnell": (FluxTransformer2DModel, {}),
    "dit-xl": (DiTTransformer2DModel, {"out_channels": 8}),
    "pixart-sigma-2k": (PixArtTransformer2DModel, {
        "sample_size": 256, "caption_channels": 4096, "use_additional_conditions": False}),
    "sana-1.6b": (SanaTransformer2DModel, {}),
}  # fmt: skip


@functools.cache
def full(name):
    kind, config = FULL[name]
    with torch.device("meta"):
        return host_of(kind(**config))


@pytest.mark.parametrize("name, family, depth, width, heads", [
    ("sd3.5-large", "SD3", 38, 2432, 38), ("sd3.5-medium", "SD3", 24, 1536, 24),
    ("flux-schnell", "FLUX", 57, 3072, 24), ("dit-xl", "DiT", 28, 1152, 16),
    ("pixart-sigma-2k", "PixArt", 28, 1152, 16), ("sana-1.6b", "SANA", 20, 2240, 70),
])  # fmt: skip
def test_every_family_is_recognised(name, family, depth, width, heads):
    host = full(name)
    assert (host.family.name, host.depth, host.width, host.heads) == (family, depth, width, heads)
    assert len(host.blocks) == depth and host.blocks[-1] is host.block(depth - 1)


def counts(host, i):
    return {name: host.count(i, name) for name in host.components(i)}


def test_sd35_large_is_the_published_one():
    host = full("sd3.5-large")
    assert parameters(host.model) == 8_056_627_520
    assert {host.count(i, "all") for i in range(37)} == {212_999_680}
    assert host.count(37, "all") == 136_085_248
    assert counts(host, 0) == {"w_norm1": 35_502_336, "w_norm1_context": 35_502_336,
                               "attn": 47_336_704, "ff": 47_329_152, "ff_context": 47_329_152
                               }  # fmt: skip
    assert sum(counts(host, 5).values()) == 212_999_680
    assert [*counts(host, 37)] == ["w_norm1", "w_norm1_context", "attn", "ff"]
    assert sum(counts(host, 37).values()) == 136_085_248 and host.count(37, "ff_context") == 0


def test_flux_has_two_kinds_of_blocks():
    host = full("flux-schnell")
    assert parameters(host.model) == 11_891_178_560
    assert [host.kind(i) for i in (0, 18, 19, 56)] == ["double", "double", "single", "single"]
    assert (host.path(18), host.path(19)) == ("transformer_blocks.18",
                                              "single_transformer_blocks.0")  # fmt: skip
    assert [host.count(i, "all") for i in (18, 19)] == [339_831_296, 141_591_808]
    assert host.components(19) == ("w_norm", "attn", "proj_mlp_out")
    assert sum(counts(host, 19).values()) == 141_591_808
    assert sum(counts(host, 3).values()) == 339_831_296


def test_dual_attention_goes_with_the_attention():
    host = full("sd3.5-medium")
    attn, attn2 = host.block(12).attn, host.block(12).attn2
    assert host.count(12, "attn") == parameters(attn) + parameters(attn2)
    assert host.count(13, "attn") == parameters(host.block(13).attn)
    assert [*host.modules(12, "attn")] == ["transformer_blocks.12.attn",
                                           "transformer_blocks.12.attn2"]  # fmt: skip


def test_dit_differs_from_the_official_one_by_copies_and_positions():
    """675,129,632: the official DiT-XL/2, whose operators have the counts of the Grafting sheet.
    An embedding: 256 x 1152 + 1152^2 + 2 x 1152 for times, 1001 x 1152 for labels."""
    host = full("dit-xl")
    embedding = 256 * 1152 + 1152**2 + 2 * 1152 + 1001 * 1152
    assert embedding == 2_777_472 == parameters(host.embedder(0))
    assert parameters(host.model) == 749_826_464
    assert 749_826_464 - 27 * embedding + 256 * 1152 == 675_129_632
    assert counts(host, 1) == {"w_norm1": 7_969_536 + embedding, "attn": 5_313_024,
                               "ff": 10_622_592}  # fmt: skip
    assert host.count(0, "all") == host.count(1, "all") - embedding
    assert host.count(0, "w_norm1") == 7_969_536


def test_pixart_and_sana_have_no_modulation_to_remove():
    host = full("pixart-sigma-2k")
    assert parameters(host.model) == 610_856_096  # of diffusers' class with its published config
    assert counts(host, 7) == {"attn": 5_313_024, "ff": 10_622_592}
    assert full("sana-1.6b").components(0) == ("attn", "ff")


@pytest.mark.parametrize("name, i, place, path", [
    ("sd3.5-large", 3, "attention", "transformer_blocks.3.attn"),
    ("sd3.5-large", 3, "mlp", "transformer_blocks.3.ff"),
    ("flux-schnell", 20, "attention", "single_transformer_blocks.1.attn"),
    ("pixart-sigma-2k", 8, "attention", "transformer_blocks.8.attn1"),
    ("dit-xl", 0, "mlp", "transformer_blocks.0.ff"),
    ("sana-1.6b", 19, "attention", "transformer_blocks.19.attn1"),
])  # fmt: skip
def test_operators_are_of_the_image(name, i, place, path):
    assert full(name).operator(i, place) == path


def test_what_is_not_there_is_refused():
    host = full("flux-schnell")
    with pytest.raises(ValueError, match=r"no block 57: this FLUX transformer has blocks 0 to 56"):
        host.path(57)
    with pytest.raises(ValueError, match="no block True"):
        host.kind(True)
    with pytest.raises(ValueError, match="single blocks of FLUX join it"):
        host.operator(19, "mlp")
    with pytest.raises(ValueError, match="attention or mlp, given 'norm'"):
        host.operator(0, "norm")
    with pytest.raises(ValueError, match="no component 'w_norm'; allowed: all, w_norm1, w_norm1_"):
        host.modules(0, "w_norm")


def test_unknown_models_are_refused_with_what_is_missing():
    with torch.device("meta"):
        chroma = ChromaTransformer2DModel(num_layers=1, num_single_layers=1)
        latte = LatteTransformer3DModel(num_layers=1, caption_channels=16, in_channels=4,
                                        norm_type="ada_norm_single", sample_size=16, patch_size=2,
                                        num_attention_heads=2, attention_head_dim=8)  # fmt: skip
    with pytest.raises(ValueError, match=r"nearest is FLUX, .* no \w+\.0\.norm1\.linear, no"):
        host_of(chroma)
    with pytest.raises(ValueError, match=r"nearest is PixArt.*also temporal_transformer_blocks"):
        host_of(latte)
    with pytest.raises(ValueError, match=r"^Linear is no transformer that can be edited \(SD3"):
        host_of(torch.nn.Linear(1, 1))
