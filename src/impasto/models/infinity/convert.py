"""Published checkpoints of Infinity <-> folders of ours.

Transformer (`infinity_2b_reg.pth` and its like), official name -> ours:

    block_chunks.I.module.J.…   blocks.(I n + J).…, n blocks a chunk; blocks.I.… stays
    …sa.scale_mul_1H11          (1, 1, H, 1) in files of a customised attention -> (1, H, 1, 1)
    cfg_uncond                  more than 512 rows are cut: a prompt has no more tokens
    lvl_1L, attn_bias_for_masking, Infinity_visible_kvlen, Infinity_invisible_qlen      dropped

Tokenizer (`infinity_vae_d32reg.pth` and its like):

    …conv1.weight, …norm1.weight    …conv1.conv.weight, …norm1.norm.weight; so named it stays
    quantizer.lfq.mask, quantize.lfq.mask                                               dropped

Sizes are read off the shapes. What no shape tells: whether the level embedding is added again
before each chunk (`level_every`; the published scripts add it once), and that a tokenizer of
stride 8 is the one whose places make tokens by 2 x 2 (`patch`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from impasto.models.conversion import convolutional_sizes, shape_of, write_network
from impasto.models.infinity.model import InfinityTransformer
from impasto.models.infinity.tokenizer import InfinityTokenizer
from impasto.zoo.convert import CONVERTERS, ConversionReport

__all__ = ["chunked", "infinity", "infinity_vae", "tokenizer_sizes", "transformer_sizes"]

CHUNK = re.compile(r"^block_chunks\.(\d+)\.module\.(\d+)\.")
UNUSED = ("lvl_1L", "attn_bias_for_masking", "Infinity_visible_kvlen", "Infinity_invisible_qlen",
          "quantizer.lfq.mask", "quantize.lfq.mask")  # fmt: skip
ROWS = 512
"""Most tokens of a prompt."""
SOURCE = "Infinity's official code"
STRIDE = 16
"""Pixels of a token of every published tokenizer."""


def _unchunked(keys: list[str]) -> dict[str, str]:
    """Official key -> ours. Raises ValueError for chunks of different lengths."""
    inside: dict[int, set[int]] = {}
    for key in keys:
        if found := CHUNK.match(key):
            inside.setdefault(int(found[1]), set()).add(int(found[2]))
    sizes = {len(blocks) for blocks in inside.values()}
    if len(sizes) > 1:
        raise ValueError(f"its chunks have {sorted(sizes)} blocks, so it is not whole")
    each = sizes.pop() if sizes else 0
    return {key: CHUNK.sub(lambda m: f"blocks.{int(m[1]) * each + int(m[2])}.", key)
            for key in keys}  # fmt: skip


def chunked(keys: list[str], blocks: int) -> dict[str, str]:
    """Our key -> official, with so many blocks a chunk: the way back."""
    def official(found: re.Match[str]) -> str:
        chunk, at = divmod(int(found[1]), blocks)
        return f"block_chunks.{chunk}.module.{at}."

    return {key: re.sub(r"^blocks\.(\d+)\.", official, key) for key in keys}


def transformer_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """`TransformerConfig`'s values, from shapes under our names. Raises ValueError for another
    model's tensors."""
    width, outs = shape_of(state, "pos_start")[-1], shape_of(state, "head.weight")[0]
    bits = shape_of(state, "word_embed.weight")[1]
    if outs != 2 * bits:
        raise ValueError(f"its head has {outs} rows for {bits} bits a token, not two a bit")
    inside = shape_of(state, "blocks.0.ffn.fc1.weight")[0]
    rows, text_width = shape_of(state, "cfg_uncond")
    numbers = [int(found[1]) for key in state if (found := re.match(r"blocks\.(\d+)\.", key))]
    return {
        "depth": max(numbers) + 1, "width": width, "bits": bits, "null_rows": rows,
        "heads": shape_of(state, "blocks.0.sa.scale_mul_1H11").numel(), "text_width": text_width,
        "pool_heads": shape_of(state, "text_proj_for_sos.ca.mat_q")[1],
        "mlp_ratio": 4.0 if inside == (round(4 * width / 256) * 256 or 4 * width)
        else inside / width, "levels": shape_of(state, "lvl_embed.weight")[0],
    }  # fmt: skip


def tokenizer_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """`TokenizerConfig`'s values, from shapes under our names; GroupNorm has 32 groups in all
    published ones. Raises ValueError for another model's tensors."""
    bits = shape_of(state, "decoder.conv_in.conv.weight")[1]
    sizes = convolutional_sizes(state, "conv.weight")
    levels = len(sizes["widths"])
    patch = STRIDE // 2 ** (levels - 1)
    if patch not in (1, 2):
        raise ValueError(f"it has {levels} levels; the published tokenizers have 4 or 5")
    return {"bits": bits, **sizes, "groups": 32, "patch": patch}


@CONVERTERS.register("infinity")
def infinity(tensors: Mapping[str, Tensor], folder: Path) -> ConversionReport:
    """Infinity's transformer, chunked or flat. Raises ValueError for another model's tensors."""
    dropped = [key for key in tensors if key in UNUSED]
    names = _unchunked([key for key in tensors if key not in UNUSED])
    if len(set(names.values())) < len(names):
        raise ValueError("it has blocks both in chunks and by themselves")
    state = {ours: tensors[key] for key, ours in names.items()}
    for key, tensor in state.items():
        if key.endswith("scale_mul_1H11"):
            state[key] = tensor.reshape(1, -1, 1, 1)
        if key.endswith("zero_k_bias") and tensor.any():
            raise ValueError(f"its {key!r} is not zero, as keys' bias has to be")
    if "cfg_uncond" in state:
        state["cfg_uncond"] = state["cfg_uncond"][:ROWS]
    return write_network(InfinityTransformer, transformer_sizes(state), state, folder,
                         source=SOURCE, names=names, dropped=dropped)  # fmt: skip


@CONVERTERS.register("infinity-vae")
def infinity_vae(tensors: Mapping[str, Tensor], folder: Path) -> ConversionReport:
    """Infinity's tokenizer, plain names or wrapped. Raises ValueError for another's tensors."""
    dropped = [key for key in tensors if key in UNUSED]
    names = {key: _wrapped(key) for key in tensors if key not in UNUSED}
    if len(set(names.values())) < len(names):
        raise ValueError("it has the same tensor under its plain name and its wrapped one")
    state = {ours: tensors[key] for key, ours in names.items()}
    return write_network(InfinityTokenizer, tokenizer_sizes(state), state, folder,
                         source=SOURCE, names=names, dropped=dropped)  # fmt: skip


def _wrapped(key: str) -> str:
    """"…conv1.weight" -> "…conv1.conv.weight"; a name that is so already stays."""
    parts = key.split(".")
    if len(parts) < 3:
        return key
    above, owner = parts[-3:-1]
    inner = "norm" if owner.startswith("norm") else "conv"
    bare = owner == inner and above not in ("downsample", "upsample")
    return key if bare else ".".join([*parts[:-1], inner, parts[-1]])
