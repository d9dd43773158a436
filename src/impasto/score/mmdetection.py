"""mmdetection 2.x's way with pictures: into the network, and masks back out.

    s = min(1333 / long side, 800 / short side)        new side = floor(side * s + 0.5)
    resize: OpenCV's INTER_LINEAR on 8 bits, no antialiasing
    pad right and below to multiples of 32 with 128, then (x - mean) / std on the 0-255 scale

    mask logits (h, w) -> bilinear to the padded size -> cut the padding off -> bilinear to the
    picture's own size

OpenCV's resize of 8-bit pictures is integer arithmetic. With weights a = round(2048 (1 - f)) and
b = round(2048 f) of the two neighbours, across and then down,

    r = x0 a + x1 b             y = ((a' (r0 >> 4) >> 16) + (b' (r1 >> 4) >> 16) + 2) >> 2

and an exact halving of both sides is the mean of 2 x 2 pixels. It is done here by torch on any
device, to the last bit what cv2 gives (tests/test_score_mmdetection.py; 4.5.5 to 5.0.0), so that
no score depends on whether or which OpenCV is installed.

Sources: mmcv 1.7 `imrescale`, `impad`, `imnormalize`; mmdetection 2.28 configs/mask2former and
`mask2former_head`; OpenCV modules/imgproc/src/resize.cpp.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["MEAN", "PAD", "STD", "inputs", "masks_at", "padded_size", "resize", "resized_size"]

SHORT, LONG, MULTIPLE, PAD = 800, 1333, 32, 128
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
UNIT = 2048

Size = tuple[int, int]
"""Height and width in pixels."""


def resized_size(size: Size) -> Size:
    """What the network sees of a picture of `size`, without padding.

    Raises ValueError for a picture so thin that nothing of it would be left.
    """
    scale = min(LONG / max(size), SHORT / min(size))
    height, width = (int(side * scale + 0.5) for side in size)
    if not min(height, width):
        raise ValueError(f"a picture of {size[1]} x {size[0]} is too thin: its long side becomes "
                         f"{LONG} and its short side nothing; give wider ones")  # fmt: skip
    return height, width


def padded_size(size: Size) -> Size:
    """`size` with both sides rounded up to multiples of 32."""
    return -(-size[0] // MULTIPLE) * MULTIPLE, -(-size[1] // MULTIPLE) * MULTIPLE


def _neighbours(old: int, new: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each of `new` samples: the lower neighbour among `old` (may be -1), and the part f."""
    # Positions in double and then float, as OpenCV rounds them.
    at = (torch.arange(new, dtype=torch.float64) + 0.5) * (old / new) - 0.5
    low = at.float().floor()
    return low.int().to(device), (at.float() - low).to(device)


def _weights(part: Tensor) -> tuple[Tensor, Tensor]:
    return ((1 - part) * UNIT).round().int(), (part * UNIT).round().int()


def _across(levels: Tensor, width: int) -> Tensor:
    """(..., H, W) int32 -> (..., H, width), scaled by `UNIT`."""
    last = levels.shape[-1] - 1
    low, part = _neighbours(last + 1, width, levels.device)
    a, b = _weights(torch.where((low < 0) | (low >= last), 0.0, part))
    low = low.clamp(0, last)
    return levels[..., low] * a + levels[..., (low + 1).clamp(max=last)] * b


def resize(levels: Tensor, size: Size) -> Tensor:
    """(..., H, W) uint8 -> (..., h, w) uint8 as cv2.resize(..., INTER_LINEAR) does."""
    height, width = levels.shape[-2:]
    if (height, width) == size:
        return levels
    x = levels.int()
    if (height, width) == (2 * size[0], 2 * size[1]):
        two = x[..., ::2, :] + x[..., 1::2, :]
        return ((two[..., ::2] + two[..., 1::2] + 2) >> 2).to(torch.uint8)
    rows = _across(x, size[1]) >> 4
    low, part = _neighbours(height, size[0], levels.device)
    a, b = _weights(part)
    above = rows[..., low.clamp(0, height - 1), :] * a[:, None] >> 16
    below = rows[..., (low + 1).clamp(0, height - 1), :] * b[:, None] >> 16
    return ((above + below + 2) >> 2).clamp(0, 255).to(torch.uint8)


def inputs(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W), RGB in [0, 1], as the network's input (B, 3, h, w)."""
    size = (images.shape[-2], images.shape[-1])
    small = resize(images.mul(255).round().to(torch.uint8), resized_size(size))
    height, width = padded_size((small.shape[-2], small.shape[-1]))
    padding = (0, width - small.shape[-1], 0, height - small.shape[-2])
    levels = F.pad(small, padding, value=PAD).float()
    mean, std = (levels.new_tensor(v)[:, None, None] for v in (MEAN, STD))
    return (levels - mean) / std


def masks_at(logits: Tensor, size: Size) -> Tensor:
    """Mask logits (N, h, w) at the size (height, width) of the picture that they belong to."""
    inner = resized_size(size)
    padded = F.interpolate(logits[None], size=padded_size(inner), mode="bilinear")
    cut = padded[..., : inner[0], : inner[1]]
    return F.interpolate(cut, size=size, mode="bilinear")[0]
