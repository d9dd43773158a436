"""FLOPs of TokenFlow's networks, scale by scale, and how many tokens go through them.

    a picture of L tokens after a prefix of n, scales of n_k, drawn in J passes (the first in one):
    cached      n + L + (J - 1) (L - n_0)
    uncached    sum over scales and passes of n + n_0 + … + n_k, the prefix's last token being the
                first scale's: the released code puts all of them through anew
"""

from __future__ import annotations

import math

import torch

from impasto.models.next_scale.maps import Sizes, tokens
from impasto.models.tokenflow.model import TokenFlowTransformer
from impasto.models.tokenflow.tokenizer import TokenFlowTokenizer
from impasto.sample.flops import count_flops

__all__ = ["decoder_flops", "positions", "scale_flops"]


def positions(sizes: Sizes, prefix: int, passes: int, *, cached: bool) -> int:
    """Tokens of one branch of one picture. prefix: those of the text and `<img>`, the last being
    the first scale's."""
    total = prefix - 1 if cached else 0
    for k in range(len(sizes)):
        before = 0 if cached else prefix - 1 + tokens(sizes[:k])
        total += (before + math.prod(sizes[k])) * (passes if k else 1)
    return total


def scale_flops(transformer: TokenFlowTransformer, scale: int, prefix: int) -> int:
    """FLOPs of one pass of one row of one branch at one scale, from 0, 2 a product.

    Per block and token 4 C^2 + 2 C (places that it looks at) of attention and 3 C C' of
    feed-forward; c C + C^2 of the projector and C K of the head. prefix: places before the first
    scale's, empty ones among them.
    """
    config, sizes = transformer.config, transformer.sizes
    width, new = config["width"], math.prod(sizes[scale])
    held = prefix + tokens(sizes[: scale + 1])
    block = 4 * width**2 + 2 * width * held + 3 * width * config["inside"]
    projector = config["channels"] * width + width**2 if scale else 0
    return 2 * new * (config["depth"] * block + projector + width * config["vocabulary"])


def decoder_flops(vae: TokenFlowTokenizer) -> int:
    """FLOPs of decoding one picture."""
    channels = vae.post_quant_conv.in_channels
    z = torch.empty(1, channels, *vae.scales[-1], device="meta", dtype=vae.dtype)
    wide = torch.empty(1, vae.post_quant_conv.out_channels, *vae.scales[-1], device="meta",
                       dtype=vae.dtype)  # fmt: skip
    return count_flops(vae.post_quant_conv, z) + count_flops(vae.decoder, wide)
