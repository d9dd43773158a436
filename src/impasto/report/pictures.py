"""Pictures as data: URIs of bounded size, so that the page needs no file beside it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from impasto.images import from_pil, png_bytes, read_image, to_pil, webp_bytes

__all__ = ["KEPT_BYTES", "SIDE", "Embedded", "embed", "embedded"]

SIDE = 512
"""Longest side of a picture on the page, in pixels; larger ones are scaled down."""
KEPT_BYTES = 48 * 1024
"""A PNG of at most this many bytes and SIDE pixels goes in as it is; others become WebP."""
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Embedded:
    """src: the data: URI. width, height: of the picture file, in which boxes are given."""

    src: str
    width: int
    height: int


def embed(path: Path) -> Embedded:
    """Read a picture file. Raises ImageError naming a damaged one, ValueError a missing one."""
    if not path.is_file():
        raise ValueError(f"{path} is gone, and the report shows it; put it back, or make the run "
                         f"anew in another folder")  # fmt: skip
    return _as_uri(read_image(path), path.read_bytes())


def embedded(image: Tensor) -> Embedded:
    """A picture (3, H, W) that lies in no file of its own."""
    return _as_uri(image, png_bytes(image))


def _as_uri(image: Tensor, data: bytes) -> Embedded:
    """data: of the picture's file."""
    (height, width), kind = image.shape[1:], "png"
    if not (data.startswith(PNG) and len(data) <= KEPT_BYTES and max(height, width) <= SIDE):
        data, kind = _webp(image), "webp"
    src = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Embedded(src, width, height)


def _webp(image: Tensor) -> bytes:
    """(3, H, W) as a WebP file of at most SIDE pixels a side."""
    small = to_pil(image)
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return webp_bytes(from_pil(small), quality=85)
