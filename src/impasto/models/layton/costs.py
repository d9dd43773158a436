"""FLOPs of LaytonGen's transformer."""

from __future__ import annotations

from impasto.models.layton.model import LaytonTransformer

__all__ = ["id_flops"]


def id_flops(transformer: LaytonTransformer) -> int:
    """FLOPs of one id of one branch, 2 a product; the same for all of a picture.

    Per block 4 C^2 + 2 C (places of the cache, all of which it looks at) of attention and 3 C C'
    of feed-forward; C K of the head.
    """
    config, width = transformer.config, transformer.config["width"]
    places = transformer.text - 1 + transformer.count
    block = 4 * width**2 + 2 * width * places + 3 * width * config["inside"]
    return 2 * (config["depth"] * block + width * config["vocabulary"])
