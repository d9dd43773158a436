"""Drawings as tensors: every drawing of every class, natural and in GenEval's ten colours.

A drawing is recoloured in its SVG source: the fill that covers most of it, and the fills of the
same hue around it, are replaced by shades of the wanted colour; outline and other fills stay:

    new(f) = T * L(f) / L(D)                         where f is darker than the dominant fill D
    new(f) = T + (1 - T) * (L(f) - L(D)) / (1 - L(D))                  where it is lighter

T is the wanted colour, L the mean of the three channels. Each drawing is cropped to its content
and scaled so that its long side is one unit, centred at the origin; `Placed.size` is then the
long side in pixels.
"""

from __future__ import annotations

import colorsys
import hashlib
import io
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from impasto import files
from impasto.spec import CLASSES, COLORS
from impasto.world.catalogue import DRAWINGS, Drawing, missing, svg_text

__all__ = ["NATURAL", "RGB", "Sprites", "cache_dir", "recolour"]

NATURAL = len(COLORS)
"""Index of the drawing's own colours, after GenEval's ten."""

RGB: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40), "orange": (245, 140, 30), "yellow": (250, 220, 40),
    "green": (60, 170, 60), "blue": (50, 90, 220), "purple": (130, 60, 180),
    "pink": (250, 130, 190), "brown": (125, 80, 45), "black": (45, 45, 45),
    "white": (250, 250, 250),
}  # fmt: skip
"""Working sRGB values of GenEval's ten colours."""

SIDE = 96
MARGIN = 2
DIRECTIONS = 64
_FORMAT = 4
_FILL = re.compile(r"(fill\s*[=:]\s*[\"']?\s*)(#[0-9a-fA-F]{6}|#[0-9a-fA-F]{3})\b")

Rgb = tuple[int, int, int]


def cache_dir() -> Path:
    """Where built sprites are kept: $IMPASTO_CACHE, else ~/.cache/impasto."""
    return Path(os.environ.get("IMPASTO_CACHE") or Path.home() / ".cache" / "impasto")


def _rgb(text: str) -> Rgb:
    digits = text[1:] if len(text) == 7 else "".join(c * 2 for c in text[1:])
    return int(digits[0:2], 16), int(digits[2:4], 16), int(digits[4:6], 16)


def _raster(svg: str, side: int) -> NDArray[np.uint8]:
    """The drawing at side × side pixels, (side, side, 4) RGBA, not premultiplied."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side))
    return np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGBA"))


def _areas(svg: str) -> dict[Rgb, int]:
    """Pixels that each fill covers, at 144 px; the black outline is not a fill."""
    image = _raster(svg, 144).astype(np.int64)
    codes = image[..., 0] << 16 | image[..., 1] << 8 | image[..., 2]
    codes = codes[image[..., 3] > 250]
    fills = {_rgb(m.group(2)) for m in _FILL.finditer(svg)} - {(0, 0, 0)}
    return {f: int((codes == (f[0] << 16 | f[1] << 8 | f[2])).sum()) for f in fills}


def _same_hue(a: Rgb, b: Rgb) -> bool:
    """Whether two fills are shades of one colour: both grey, or hues within 28 degrees."""
    (ha, sa, _), (hb, sb, _) = (colorsys.rgb_to_hsv(*(v / 255 for v in c)) for c in (a, b))
    if min(sa, sb) < 0.12:
        return max(sa, sb) < 0.12
    return min(abs(ha - hb), 1 - abs(ha - hb)) < 28 / 360


def _dominant(svg: str, drawing: Drawing) -> tuple[Rgb, set[Rgb]]:
    """The dominant fill and all fills that change with it. `drawing.fills` overrides."""
    areas = _areas(svg)
    group = {_rgb(f) for f in drawing.fills or ()} & set(areas)
    if not areas:
        raise ValueError(f"drawing {drawing.stem} has no fill to recolour")
    main = max(group or areas, key=lambda f: areas[f])
    return main, group or {f for f in areas if _same_hue(f, main)}


def _shade(fill: Rgb, main: Rgb, target: Rgb) -> Rgb:
    level, base = sum(fill) / 765, max(sum(main) / 765, 1e-3)
    if level <= base:
        r, g, b = (round(t * level / base) for t in target)
    else:
        lift = (level - base) / max(1 - base, 1e-3)
        r, g, b = (round(t + (255 - t) * lift) for t in target)
    return r, g, b


def recolour(svg: str, drawing: Drawing, color: str | None) -> str:
    """The SVG text with its dominant fills in `color`; None leaves it natural.

    Raises ValueError when the drawing has no fill, or the colour is not GenEval's.
    """
    if color is None:
        return svg
    if color not in RGB:
        raise ValueError(f"unknown colour {color!r}; allowed: {', '.join(COLORS)}")
    main, group = _dominant(svg, drawing)
    new = {fill: "#" + bytes(_shade(fill, main, RGB[color])).hex() for fill in group}

    def swap(match: re.Match[str]) -> str:
        return match.group(1) + new.get(_rgb(match.group(2)), match.group(2))

    return _FILL.sub(swap, svg)


def _cropped(image: NDArray[np.uint8], box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Content centred with its long side at SIDE - 2 MARGIN pixels; premultiplied, (4, S, S)."""
    x1, y1, x2, y2 = box
    alpha = image[..., 3:].astype(np.float32) / 255
    premultiplied = np.concatenate([image[..., :3] * alpha, image[..., 3:]], -1)
    long = max(x2 - x1, y2 - y1)
    square = np.zeros((long, long, 4), np.float32)
    top, left = (long - (y2 - y1)) // 2, (long - (x2 - x1)) // 2
    square[top : top + y2 - y1, left : left + x2 - x1] = premultiplied[y1:y2, x1:x2]
    inner = SIDE - 2 * MARGIN
    tensor = torch.from_numpy(square).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(
        tensor, size=(inner, inner), mode="bilinear", antialias=True
    )[0]
    out = np.zeros((4, SIDE, SIDE), np.uint8)
    out[:, MARGIN:-MARGIN, MARGIN:-MARGIN] = small.round().clamp(0, 255).byte().numpy()
    return out


def _hull(alpha: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Support points of the content in DIRECTIONS directions, in units of the long side."""
    ys, xs = np.nonzero(alpha > 127)
    corners = np.concatenate(
        [np.stack([xs + dx, ys + dy], -1) for dx in (0, 1) for dy in (0, 1)]
    ).astype(np.float32)
    points = (corners - SIDE / 2) / (SIDE - 2 * MARGIN)
    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    support = points @ np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    return points[support.argmax(0)]


def _build(drawing: Drawing, folder: Path | None) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(11, 4, S, S) pixels and (DIRECTIONS, 2) hull of one drawing."""
    svg = svg_text(drawing, folder)
    natural = _raster(svg, 2 * SIDE)
    ys, xs = np.nonzero(natural[..., 3] > 127)
    box = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
    colored = [_raster(recolour(svg, drawing, c), 2 * SIDE) for c in COLORS]
    pixels = np.stack([_cropped(image, box) for image in [*colored, natural]])
    return pixels, _hull(pixels[NATURAL, 3])


@dataclass(frozen=True)
class Sprites:
    """All drawings of one art style.

    pixels: (D, 11, 4, S, S) uint8, premultiplied RGBA; colours in GenEval's order, then natural.
    hulls: (D, 64, 2) float32, outline points in units of the drawing's long side.
    of_class: class -> indices into D. mirrors: which of the D may be mirrored. key: hash of what
    they were built from.
    """

    pixels: Tensor
    hulls: NDArray[np.float32]
    of_class: dict[str, tuple[int, ...]]
    mirrors: tuple[bool, ...]
    key: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that this style can draw, in detector order."""
        return tuple(c for c in CLASSES if self.of_class.get(c))

    @classmethod
    def load(cls, style: str = "openmoji") -> Sprites:
        """Build, or read from the cache, the sprites of a style.

        style: "openmoji", or a folder of SVG files named by code point (another art style; only
        OpenMoji-catalogued drawings are looked up there, so classes may be missing).
        """
        folder = None if style == "openmoji" else Path(style)
        if folder is not None and not folder.is_dir():
            raise ValueError(f"style {style!r} is neither 'openmoji' nor a folder of SVG files")
        return _load(folder, cache_dir())


def _listed(folder: Path | None) -> list[tuple[str, Drawing]]:
    absent = set(missing(folder)) if folder else set()
    pairs = [(c, d) for c in CLASSES if c not in absent for d in DRAWINGS[c]]
    if folder is None:
        return pairs
    return [(c, d) for c, d in pairs if _has(d, folder)]


def _has(drawing: Drawing, folder: Path) -> bool:
    try:
        svg_text(drawing, folder)
    except KeyError:
        return False
    return True


def _key(pairs: Iterable[tuple[str, Drawing]], folder: Path | None) -> str:
    settings = f"{_FORMAT} {SIDE} {MARGIN} {DIRECTIONS} {sorted(RGB.items())}"
    digest = hashlib.sha256(settings.encode())
    for name, drawing in pairs:
        digest.update(f"{name} {drawing}".encode())
        digest.update(svg_text(drawing, folder).encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=4)
def _load(folder: Path | None, cache: Path) -> Sprites:
    pairs = _listed(folder)
    key = _key(pairs, folder)
    path = cache / f"sprites-{key}.npz"
    if not path.exists():
        with ThreadPoolExecutor() as pool:
            built = list(pool.map(lambda pair: _build(pair[1], folder), pairs))
        buffer = io.BytesIO()
        np.savez_compressed(buffer, pixels=np.stack([b[0] for b in built]),
                            hulls=np.stack([b[1] for b in built]))  # fmt: skip
        files.write_bytes(path, buffer.getvalue())
    with np.load(path, allow_pickle=False) as stored:
        pixels, hulls = torch.from_numpy(stored["pixels"]), stored["hulls"]
    of_class: dict[str, tuple[int, ...]] = {}
    for index, (name, _) in enumerate(pairs):
        of_class[name] = (*of_class.get(name, ()), index)
    return Sprites(pixels, hulls, of_class, tuple(d.mirrors for _, d in pairs), key)
