"""FLOPs of Infinity's networks, scale by scale."""

from __future__ import annotations

import math

import torch

from impasto.models.infinity.model import InfinityTransformer
from impasto.models.infinity.tokenizer import InfinityTokenizer
from impasto.models.next_scale.maps import Sizes
from impasto.sample.flops import count_flops

__all__ = ["decoder_flops", "scale_flops"]


def decoder_flops(vae: InfinityTokenizer, sizes: Sizes) -> int:
    """FLOPs of decoding one picture."""
    size = vae.map_size(sizes[-1])
    z = torch.empty(1, vae.config["bits"], *size, device="meta", dtype=vae.dtype)
    return count_flops(vae.decoder, z)


def scale_flops(transformer: InfinityTransformer, sizes: Sizes, k: int, length: int) -> int:
    """FLOPs of one row of one branch at scale k, beside a text of `length` tokens, 2 a product.

    In closed form, as every length of text has its own: per block and token 4 C^2 + 2 C (tokens
    that it sees) of attention, 2 C^2 + 2 C L of text attention and 2 C C' of feed-forward; d C of
    the embedding and 2 d C of the head.
    """
    config = transformer.config
    width, bits = config["width"], config["bits"]
    new = math.prod(sizes[k])
    seen = sum(h * w for h, w in sizes[: k + 1])
    block = 6 * width**2 + 2 * width * (seen + length) + 2 * width * transformer.inside
    ends = (3 if k else 2) * bits * width
    return 2 * new * (config["depth"] * block + ends)
