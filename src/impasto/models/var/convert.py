"""Published checkpoints of VAR <-> folders of ours.

Names are the published ones throughout. What is dropped, and made again on the way back:

    var_d16.pth …         lvl_1L (1, L)                            every token's scale
                          attn_bias_for_masking (1, 1, L, L)       0 where it may see, else -inf
    vae_ch160v4096z32.pth quantize.ema_vocab_hit_SV (K, V)         how often codes were hit

A training's checkpoint has both networks, under `trainer`. Sizes are read off the shapes; sides of
the token maps off `lvl_1L`, or known by their numbers K and L for the published ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from impasto.models.conversion import convolutional_sizes, shape_of, write_network
from impasto.models.next_scale.maps import block_causal_mask, levels
from impasto.models.var.config import PATCHES_256, PATCHES_512, PATCHES_1024
from impasto.models.var.model import VARTransformer
from impasto.models.var.tokenizer import VARTokenizer
from impasto.zoo.convert import CONVERTERS, PARTS, ConversionReport

__all__ = ["official_tokenizer", "official_transformer", "tokenizer_sizes", "transformer_sizes",
           "var", "var_vae"]  # fmt: skip

SOURCE = "VAR's official code"
LEVELS, BIAS, HITS = "lvl_1L", "attn_bias_for_masking", "quantize.ema_vocab_hit_SV"
PUBLISHED = {(len(patches), sum(side**2 for side in patches)): patches
             for patches in (PATCHES_256, PATCHES_512, PATCHES_1024)}  # fmt: skip
PARTS |= {"var": "var_wo_ddp", "var-vae": "vae_local"}


def _patches(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Sides of the token maps. Raises ValueError where no tensor tells them."""
    scales, count = shape_of(tensors, "lvl_embed.weight")[0], shape_of(tensors, "pos_1LC")[1]
    if LEVELS in tensors:
        counts = torch.bincount(tensors[LEVELS].flatten().long(), minlength=scales).tolist()
        sides = tuple(math.isqrt(n) for n in counts)
        if len(counts) == scales and [side**2 for side in sides] == counts:
            return sides
        raise ValueError(f"its {LEVELS!r} has {counts} tokens a scale, which are no {scales} "
                         f"squares")  # fmt: skip
    if (scales, count) not in PUBLISHED:
        raise ValueError(f"it has {scales} scales of {count} tokens together and no {LEVELS!r}, "
                         f"so their sides are not known; keep that buffer")  # fmt: skip
    return PUBLISHED[scales, count]


def transformer_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """`TransformerConfig`'s values, from the shapes and `lvl_1L`; drop_path is the published rule.

    Raises ValueError for another model's tensors.
    """
    numbers = [int(found[1]) for key in tensors if (found := re.match(r"blocks\.(\d+)\.", key))]
    width, channels = shape_of(tensors, "word_embed.weight")
    inside = shape_of(tensors, "blocks.0.ffn.fc1.weight")[0]
    depth = max(numbers) + 1
    return {
        "depth": depth, "width": width, "channels": channels,
        "heads": shape_of(tensors, "blocks.0.attn.scale_mul_1H11").numel(),
        "vocabulary": shape_of(tensors, "head.weight")[0],
        "classes": shape_of(tensors, "class_emb.weight")[0] - 1,
        "patches": _patches(tensors), "shared": "shared_ada_lin.1.weight" in tensors,
        "mlp_ratio": inside / width, "drop_path": 0.1 * depth / 24,
    }  # fmt: skip


def tokenizer_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """`TokenizerConfig`'s values, from the shapes; GroupNorm has 32 groups in the published one.

    Raises ValueError for another model's tensors.
    """
    vocabulary, channels = shape_of(tensors, "quantize.embedding.weight")
    phis = 0
    while f"quantize.quant_resi.qresi_ls.{phis}.weight" in tensors:
        phis += 1
    return {"vocabulary": vocabulary, "channels": channels, "phis": phis, "groups": 32,
            **convolutional_sizes(tensors, "weight")}  # fmt: skip


def official_transformer(model: VARTransformer) -> dict[str, Tensor]:
    """The published file's tensors, its two buffers among them: the way back."""
    sees = block_causal_mask(model.sizes, model.device)
    bias = torch.zeros_like(sees, dtype=torch.float32).masked_fill(~sees, -torch.inf)
    return {**model.state_dict(), LEVELS: levels(model.sizes, model.device)[None],
            BIAS: bias[None, None]}  # fmt: skip


def official_tokenizer(model: VARTokenizer, scales: int) -> dict[str, Tensor]:
    """The published file's tensors, with no hits counted for any scale: the way back."""
    vocabulary = model.config["vocabulary"]
    return {**model.state_dict(), HITS: torch.zeros(scales, vocabulary, device=model.device)}


def _written(
    kind: Any, sizes: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path,
    dropped: tuple[str, ...],
) -> ConversionReport:  # fmt: skip
    state = {key: tensor for key, tensor in tensors.items() if key not in dropped}
    return write_network(kind, sizes, state, folder, source=SOURCE,
                         names={key: key for key in state},
                         dropped=[key for key in dropped if key in tensors])  # fmt: skip


@CONVERTERS.register("var")
def var(tensors: Mapping[str, Tensor], folder: Path) -> ConversionReport:
    """VAR's transformer. Raises ValueError for another model's tensors."""
    for key, tensor in tensors.items():
        if key.endswith("zero_k_bias") and tensor.any():
            raise ValueError(f"its {key!r} is not zero, as keys' bias has to be")
    return _written(VARTransformer, transformer_sizes(tensors), tensors, folder, (LEVELS, BIAS))


@CONVERTERS.register("var-vae")
def var_vae(tensors: Mapping[str, Tensor], folder: Path) -> ConversionReport:
    """VAR's tokenizer. Raises ValueError for another model's tensors."""
    return _written(VARTokenizer, tokenizer_sizes(tensors), tensors, folder, (HITS,))
