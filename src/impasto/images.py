"""The one reader and writer of pictures.

A picture is a float32 tensor (3, H, W), RGB, in [0, 1]; a finished one lies on the 8-bit grid
k/255. Files are PNG, JPEG or WebP, told by their content and not by their name, and bounded in
bytes and pixels before anything is decoded (Pillow's security handbook).
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from impasto.files import write_bytes

__all__ = ["MAX_PIXELS", "ImageError", "centre_crop", "decode_image", "from_pil", "image_size",
           "png_bytes", "quantise", "read_image", "resize_float", "resized", "to_pil",
           "webp_bytes", "write_png"]  # fmt: skip

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 4096**2
ORIENTATION = 0x0112
"""The EXIF tag."""


class ImageError(ValueError):
    """A picture file that cannot be used; the message names it."""


def quantise(images: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the 8-bit grid k/255; any shape, float32.

    Raises ValueError for NaN or infinite values: they would become black pixels without a word.
    """
    if not torch.isfinite(images).all():
        raise ValueError("a picture holds NaN or infinite values; the model that drew it is "
                         "broken (check its weights and dtype)")  # fmt: skip
    return images.float().clamp(0, 1).mul(255).round().div(255)


def to_pil(image: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] to an 8-bit RGB PIL image."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"a picture is (3, height, width), got {tuple(image.shape)}")
    levels = quantise(image.detach().cpu()).mul(255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def from_pil(image: Image.Image) -> Tensor:
    """A PIL image to (3, H, W) float32 on the 8-bit grid.

    The EXIF orientation is applied, alpha is dropped (as GenEval's reader does) and 16-bit grey
    is scaled to 8 bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) >> 8).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette's own transparency survives only this way
    levels = torch.from_numpy(np.array(image.convert("RGB")))
    return levels.permute(2, 0, 1).contiguous().float().div(255)


def resized(image: Tensor, height: int, width: int) -> Tensor:
    """(3, H, W) at another size by PIL's default, bicubic; the same picture where it fits."""
    if tuple(image.shape[-2:]) == (height, width):
        return image
    return from_pil(to_pil(image).resize((width, height)))


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read a PNG, JPEG or WebP file as (3, H, W); of an animation, the first frame.

    Raises ImageError, naming the file, when it is of another format whatever its name, too large,
    truncated or damaged; FileNotFoundError when there is none.
    """
    path = Path(path)
    _check_bytes(path, path.stat().st_size, max_pixels)
    return decode_image(path.read_bytes(), path, max_pixels)


def decode_image(data: bytes, name: str | Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """`read_image` of bytes that are in memory already; `name` is what errors call them."""
    _check_bytes(name, len(data), max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(data, max_pixels)
    # Whatever a decoder raises on foreign bytes means one thing here: this file is no use.
    except Exception as error:
        raise ImageError(f"{name}: {_reason(error)}") from error


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width as `read_image` gives them, from the file's head. Raises ImageError."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            turned = image.getexif().get(ORIENTATION, 1) >= 5  # these turn it by a quarter
            return (image.width, image.height) if turned else (image.height, image.width)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ImageError(f"{path}: {_reason(error)}") from error


def centre_crop(image: Tensor, size: int) -> Tensor:
    """(3, H, W) to (3, size, size) as ADM prepares ImageNet (guided-diffusion, Dhariwal & Nichol
    2021): halved by means of 2 x 2 while the short side is at least twice `size`, bicubic to a
    short side of `size`, cut in the middle. On the 8-bit grid after each step.

    Raises ValueError for a picture so narrow that it would be enlarged beyond MAX_PIXELS
    (or, where that is more, four times `size` long).
    """
    picture = to_pil(image)
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    if scale**2 * picture.width * picture.height > max(MAX_PIXELS, 4 * size**2):
        raise ValueError(f"a picture of {picture.width} x {picture.height} pixels is too narrow "
                         f"to be scaled to a short side of {size}: cut it first")  # fmt: skip
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)),
                             Image.Resampling.BICUBIC)  # fmt: skip
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return from_pil(picture.crop((left, top, left + size, top + size)))


def resize_float(image: Tensor, height: int, width: int) -> Tensor:
    """(3, H, W) in [0, 1] to (3, height, width), bicubic and antialiased by Pillow, each channel
    in float: values are cut to [0, 1] and not rounded to 8 bits (Parmar et al. 2022, clean-fid).
    """
    channels = [Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC)
                for channel in (image.float().cpu() * 255).numpy()]  # fmt: skip
    return torch.from_numpy(np.stack([np.asarray(c) for c in channels])).clamp(0, 255) / 255


def _check_bytes(name: str | Path, size: int, max_pixels: int) -> None:
    # 8 bytes a pixel is 16-bit RGBA without compression: no honest file is larger.
    if size > 8 * max_pixels + 2**20:
        raise ImageError(f"{name}: {size:,} bytes are too many for {max_pixels:,} pixels")


def _decode(data: bytes, max_pixels: int) -> Tensor:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:  # reads the header only
        if image.width * image.height > max_pixels:
            raise ImageError(f"{image.width} x {image.height} pixels are more than the "
                             f"{max_pixels:,} allowed")  # fmt: skip
        image.verify()  # checksums; leaves the object unusable
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return from_pil(image)


def _reason(error: Exception) -> str:
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture, whatever its name says"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"too many pixels ({error})"
    return f"damaged or truncated ({error or type(error).__name__})"


def write_png(path: str | Path, image: Tensor) -> None:
    """Write (3, H, W) in [0, 1] as 8-bit PNG, whole or not at all; lossless on the 8-bit grid."""
    write_bytes(path, png_bytes(image))


def png_bytes(image: Tensor) -> bytes:
    """(3, H, W) in [0, 1] as an 8-bit PNG file's bytes."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="PNG")
    return buffer.getvalue()


def webp_bytes(image: Tensor, quality: int = 80) -> bytes:
    """(3, H, W) in [0, 1] as a lossy WebP file's bytes, of at most 16,383 pixels a side."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="WEBP", quality=quality, method=4)
    return buffer.getvalue()
