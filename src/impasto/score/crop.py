"""An object as the colour classifier looks at it: on grey, cut out, square.

The mask on #999, cut to its box, shorter side resized (bicubic, antialiased), centre square.
Resizing is Pillow's on 8 bits and the centre is torchvision's, as in GenEval's script.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from impasto.images import from_pil, to_pil
from impasto.score.base import Found
from impasto.score.square import centre_square

__all__ = ["GREY", "color_crop"]

GREY = 0.6
"""#999, what is not the object."""


def _pixels(box: Sequence[float]) -> tuple[int, int, int, int]:
    """Corners as Pillow's crop rounds them, at least one pixel wide and high."""
    x1, y1, x2, y2 = (round(v) for v in box)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def color_crop(image: Tensor, found: Found, size: int) -> Tensor:
    """(3, size, size) in [0, 1]: the object on grey, as the classifier looks at it.

    image: (3, H, W) in [0, 1]. Long thin objects lose their ends. Raises ValueError when the mask
    has another size than the picture.
    """
    if found.mask is None:
        raise ValueError(f"the {found.cls!r} has no mask, which its colour needs; ask the "
                         f"detector for masks of this class")  # fmt: skip
    if found.mask.shape != image.shape[-2:]:
        raise ValueError(f"the mask of {found.cls!r} is {tuple(found.mask.shape)}, its picture "
                         f"{tuple(image.shape[-2:])}; masks have the picture's size")  # fmt: skip
    x1, y1, x2, y2 = _pixels(found.box)
    # Cut before compositing: the same pixels, without touching the rest of a large picture.
    left, top = max(x1, 0), max(y1, 0)
    region = slice(top, max(y2, top)), slice(left, max(x2, left))
    cut, mask = image[:, *region].cpu(), found.mask[region].cpu()
    on_grey = to_pil(torch.where(mask, cut, torch.full_like(cut, GREY)))
    return from_pil(centre_square(on_grey.crop((x1 - left, y1 - top, x2 - left, y2 - top)), size))
