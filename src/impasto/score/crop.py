"""An object as the colour classifier looks at it: on grey, cut out, square.

The mask on #999, cut to its box, shorter side resized (bicubic, antialiased), centre square.
Resizing is Pillow's on 8 bits and the centre is torchvision's, as in GenEval's script.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image
from torch import Tensor

from impasto.images import from_pil
from impasto.score.base import Found
from impasto.score.square import centre_square

__all__ = ["GREY", "color_crop", "color_crops"]

GREY = 0.6
"""#999, what is not the object."""
THREADS = 8
"""That resize crops, at most."""


def _pixels(box: Sequence[float]) -> tuple[int, int, int, int]:
    """Corners as Pillow's crop rounds them, at least one pixel wide and high."""
    x1, y1, x2, y2 = (round(v) for v in box)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _on_grey(image: Tensor, found: Found) -> Tensor:
    """(3, h, w), where the picture is: the part of the object's box that lies in the picture."""
    if found.mask is None:
        raise ValueError(f"the {found.cls!r} has no mask, which its colour needs; ask the "
                         f"detector for masks of this class")  # fmt: skip
    if found.mask.shape != image.shape[-2:]:
        raise ValueError(f"the mask of {found.cls!r} is {tuple(found.mask.shape)}, its picture "
                         f"{tuple(image.shape[-2:])}; masks have the picture's size")  # fmt: skip
    # Cut before compositing: the same pixels, without touching the rest of a large picture.
    x1, y1, x2, y2 = _pixels(found.box)
    region = slice(max(y1, 0), max(y2, 0)), slice(max(x1, 0), max(x2, 0))
    mask = found.mask[region].to(image.device, non_blocking=True)
    return torch.where(mask, image[:, *region].float(), GREY)


def _square(levels: Tensor, box: Sequence[float], size: int) -> Tensor:
    """(3, size, size) of an object's `_on_grey` as (h, w, 3) uint8 on the CPU."""
    x1, y1, x2, y2 = _pixels(box)
    left, top = max(x1, 0), max(y1, 0)
    cut = Image.fromarray(levels.numpy()).crop((x1 - left, y1 - top, x2 - left, y2 - top))
    return from_pil(centre_square(cut, size))


def color_crop(image: Tensor, found: Found, size: int) -> Tensor:
    """(3, size, size) in [0, 1]: the object on grey, as the classifier looks at it.

    image: (3, H, W) in [0, 1]. Long thin objects lose their ends. Raises ValueError when the mask
    has another size than the picture, or for NaN or infinite pixels of the object.
    """
    return color_crops([(image, found)], size)[0]


def color_crops(crops: Sequence[tuple[Tensor, Found]], size: int) -> Tensor:
    """(N, 3, size, size) on the CPU: `color_crop` of each, composed where its picture is.

    Of pictures on a GPU, 8-bit cuts come down in one copy; Pillow resizes several at a time.
    """
    cuts = [_on_grey(image, found) for image, found in crops]
    if not torch.stack([cut.isfinite().all() for cut in cuts]).all():
        raise ValueError("a picture holds NaN or infinite values; the model that drew it is "
                         "broken (check its weights and dtype)")  # fmt: skip
    levels = [cut.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0) for cut in cuts]
    flat = torch.cat([level.flatten() for level in levels]).cpu()
    parts = [part.view(level.shape) for part, level in zip(
        flat.split([level.numel() for level in levels]), levels, strict=True)]  # fmt: skip
    with ThreadPoolExecutor(min(len(parts), os.cpu_count() or 1, THREADS)) as pool:
        squares = pool.map(lambda one: _square(one[0], one[1][1].box, size),
                           zip(parts, crops, strict=True))  # fmt: skip
        return torch.stack(list(squares))
