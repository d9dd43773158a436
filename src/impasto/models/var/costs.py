"""FLOPs of VAR's networks, scale by scale."""

from __future__ import annotations

import math

import torch

from impasto.models.var.model import VARTransformer
from impasto.models.var.tokenizer import VARTokenizer
from impasto.sample.flops import count_flops

__all__ = ["decoder_flops", "scale_flops", "summand_flops"]


def decoder_flops(vae: VARTokenizer, transformer: VARTransformer) -> int:
    """FLOPs of decoding one picture."""
    z = torch.empty(1, vae.channels, *transformer.sizes[-1], device="meta", dtype=vae.dtype)
    return count_flops(vae.post_quant_conv, z) + count_flops(vae.decoder, z)


def summand_flops(vae: VARTokenizer, transformer: VARTransformer) -> int:
    """FLOPs of one scale's phi, at full size."""
    return 2 * 9 * vae.channels**2 * math.prod(transformer.sizes[-1])


def scale_flops(transformer: VARTransformer, scale: int) -> int:
    """FLOPs of one row of one branch at one scale, from 0, 2 a product.

    Per block and token 4 C^2 + 2 C (tokens that it sees) of attention and 2 C C' of feed-forward;
    c C of the embedding and C V of the head.
    """
    config, sizes = transformer.config, transformer.sizes
    width, new = config["width"], math.prod(sizes[scale])
    seen = sum(h * w for h, w in sizes[: scale + 1])
    block = 4 * width**2 + 2 * width * seen + 2 * width * transformer.inside
    ends = width * (config["vocabulary"] + (config["channels"] if scale else 0))
    return 2 * new * (config["depth"] * block + ends)
