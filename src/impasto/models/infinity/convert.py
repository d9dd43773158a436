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

import torch
from torch import Tensor, nn

from impasto.models.infinity.model import InfinityTransformer
from impasto.models.infinity.tokenizer import InfinityTokenizer
from impasto.models.storage import weights_file
from impasto.zoo.convert import CONVERTERS, ConversionReport
from impasto.zoo.weights import save_weights

__all__ = ["chunked", "infinity", "infinity_vae", "tokenizer_sizes", "transformer_sizes"]

CHUNK = re.compile(r"^block_chunks\.(\d+)\.module\.(\d+)\.")
UNUSED = ("lvl_1L", "attn_bias_for_masking", "Infinity_visible_kvlen", "Infinity_invisible_qlen",
          "quantizer.lfq.mask", "quantize.lfq.mask")  # fmt: skip
ROWS = 512
"""Most tokens of a prompt."""
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


def _shape(state: Mapping[str, Tensor], key: str) -> torch.Size:
    if key not in state:
        raise ValueError(f"it has no tensor {key!r}, so it is no such checkpoint")
    return state[key].shape


def transformer_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """`TransformerConfig`'s values, from shapes under our names. Raises ValueError for another
    model's tensors."""
    width, outs = _shape(state, "pos_start")[-1], _shape(state, "head.weight")[0]
    bits = _shape(state, "word_embed.weight")[1]
    if outs != 2 * bits:
        raise ValueError(f"its head has {outs} rows for {bits} bits a token, not two a bit")
    inside = _shape(state, "blocks.0.ffn.fc1.weight")[0]
    rows, text_width = _shape(state, "cfg_uncond")
    numbers = [int(found[1]) for key in state if (found := re.match(r"blocks\.(\d+)\.", key))]
    return {
        "depth": max(numbers) + 1, "width": width, "bits": bits, "null_rows": rows,
        "heads": _shape(state, "blocks.0.sa.scale_mul_1H11").numel(), "text_width": text_width,
        "pool_heads": _shape(state, "text_proj_for_sos.ca.mat_q")[1],
        "mlp_ratio": 4.0 if inside == (round(4 * width / 256) * 256 or 4 * width)
        else inside / width, "levels": _shape(state, "lvl_embed.weight")[0],
    }  # fmt: skip


def tokenizer_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """`TokenizerConfig`'s values, from shapes under our names; GroupNorm has 32 groups in all
    published ones. Raises ValueError for another model's tensors."""
    widths: list[int] = []
    blocks = 0
    while (key := f"encoder.down.{len(widths)}.block.0.conv2.conv.weight") in state:
        widths.append(_shape(state, key)[0])
    while f"encoder.down.0.block.{blocks}.conv1.conv.weight" in state:
        blocks += 1
    bits = _shape(state, "decoder.conv_in.conv.weight")[1]
    patch = STRIDE // 2 ** (len(widths) - 1)
    if patch not in (1, 2):
        raise ValueError(f"it has {len(widths)} levels; the published tokenizers have 4 or 5")
    return {"bits": bits, "widths": tuple(widths), "blocks": blocks, "groups": 32, "patch": patch}


def _write(
    kind: Any, sizes: Mapping[str, Any], state: dict[str, Tensor], folder: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write a network's folder where nothing is missing or left over; returns those keys.

    Raises ValueError for another shape.
    """
    with torch.device("meta"):
        network: nn.Module = kind(**sizes)
    wanted = network.state_dict()
    missing, left = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    for key in wanted.keys() & state.keys():
        if wanted[key].shape != state[key].shape:
            raise ValueError(f"its {key!r} has shape {tuple(state[key].shape)}, a model of these "
                             f"sizes {tuple(wanted[key].shape)}")  # fmt: skip
    if not missing and not left:
        network.save_config(folder)  # type: ignore[operator]
        half = all(tensor.dtype == torch.bfloat16 for tensor in state.values())
        save_weights(folder / weights_file(kind), state, "bfloat16" if half else "float32")
    return tuple(missing), tuple(left)


def _report(
    kind: Any, sizes: Mapping[str, Any], state: dict[str, Tensor], folder: Path, *,
    names: Mapping[str, str], dropped: list[str],
) -> ConversionReport:  # fmt: skip
    missing, left = _write(kind, sizes, state, folder)
    sources = {ours: key for key, ours in names.items()}
    return ConversionReport(
        source="Infinity's official code", loaded=tuple(state), split={}, missing=missing,
        renamed={key: ours for key, ours in names.items() if key != ours},
        dropped=tuple(sorted(dropped)), unexpected=tuple(sources[key] for key in left),
    )  # fmt: skip


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
    return _report(InfinityTransformer, transformer_sizes(state), state, folder, names=names,
                   dropped=dropped)  # fmt: skip


@CONVERTERS.register("infinity-vae")
def infinity_vae(tensors: Mapping[str, Tensor], folder: Path) -> ConversionReport:
    """Infinity's tokenizer, plain names or wrapped. Raises ValueError for another's tensors."""
    dropped = [key for key in tensors if key in UNUSED]
    names = {key: _wrapped(key) for key in tensors if key not in UNUSED}
    if len(set(names.values())) < len(names):
        raise ValueError("it has the same tensor under its plain name and its wrapped one")
    state = {ours: tensors[key] for key, ours in names.items()}
    return _report(InfinityTokenizer, tokenizer_sizes(state), state, folder, names=names,
                   dropped=dropped)  # fmt: skip


def _wrapped(key: str) -> str:
    """"…conv1.weight" -> "…conv1.conv.weight"; a name that is so already stays."""
    parts = key.split(".")
    if len(parts) < 3:
        return key
    above, owner = parts[-3:-1]
    inner = "norm" if owner.startswith("norm") else "conv"
    bare = owner == inner and above not in ("downsample", "upsample")
    return key if bare else ".".join([*parts[:-1], inner, parts[-1]])
