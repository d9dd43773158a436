"""Scenes to pictures, in batches, on any device.

Each object is sampled from its sprite by an affine map (pixel centre -> sprite coordinates) and
composited in depth order with premultiplied alpha:  canvas = rgb_k + (1 - alpha_k) * canvas.
Sprites are kept at three sizes, so that an object is never shrunk by more than about 1.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from impasto.spec import CLASSES
from impasto.world.scenes import Scene
from impasto.world.sprites import MARGIN, SIDE, Sprites

__all__ = ["Packed", "Rendered", "Renderer", "pack", "render"]

LEVELS = 3
_CLASS_INDEX = {name: i for i, name in enumerate(CLASSES)}
_KINDS = ("plain", "gradient", "stripes", "dots", "noise")


@dataclass(frozen=True)
class Rendered:
    """B pictures of S px with the truth about up to K objects each.

    images: (B, 3, S, S) float32 in [0, 1], on the 8-bit grid. masks: (B, K, S, S) bool, the
    visible pixels. boxes: (B, K, 4) float32, tight end-exclusive xyxy of the visible pixels.
    classes: (B, K) int64, -1 = no object. colors: (B, K) int64, GenEval's ten then natural.
    """

    images: Tensor
    masks: Tensor
    boxes: Tensor
    classes: Tensor
    colors: Tensor


@dataclass(frozen=True)
class Packed:
    """B scenes as arrays: what crosses process borders instead of objects.

    reals: (N, 5) float32 cx, cy, size, angle, flip (1 or -1), one row per object. wholes: (N, 5)
    int32 scene, slot, drawing, colour, class. backgrounds: (B, 10) float32 colour a, colour b,
    angle, period, phase, kind. size: side of the canvas in pixels.
    """

    reals: NDArray[np.float32]
    wholes: NDArray[np.int32]
    backgrounds: NDArray[np.float32]
    size: int


def pack(scenes: Sequence[Scene]) -> Packed:
    """Raises ValueError for an empty list or scenes of more than one size."""
    if not scenes or len({scene.size for scene in scenes}) != 1:
        raise ValueError("a batch needs at least one scene, and scenes of one size")
    reals, wholes = [], []
    for row, scene in enumerate(scenes):
        for slot, o in enumerate(scene.objects):
            reals.append((o.cx, o.cy, o.size, o.angle, -1.0 if o.flip else 1.0))
            wholes.append((row, slot, o.drawing, o.color_index, _CLASS_INDEX[o.cls]))
    backs = [
        (*s.a, *s.b, s.angle, s.period, s.phase, _KINDS.index(s.kind))
        for s in (scene.background for scene in scenes)
    ]
    return Packed(
        np.array(reals, np.float32).reshape(-1, 5),
        np.array(wholes, np.int32).reshape(-1, 5),
        np.array(backs, np.float32),
        scenes[0].size,
    )


def _tight_boxes(masks: Tensor) -> Tensor:
    """(..., S, S) bool -> (..., 4) float end-exclusive boxes; zeros for an empty mask."""
    size = masks.shape[-1]
    span = torch.arange(size, device=masks.device)

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        low = torch.where(line, span, size).amin(-1)
        high = torch.where(line, span + 1, 0).amax(-1)
        return torch.where(high > 0, low, 0), high

    x1, x2 = ends(masks.any(-2))
    y1, y2 = ends(masks.any(-1))
    return torch.stack([x1, y1, x2, y2], -1).float()


class Renderer:
    """Sprites on a device. `renderer(scenes)` gives a `Rendered` batch."""

    def __init__(self, sprites: Sprites, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        table = sprites.pixels.to(self.device)
        self.levels = [table]
        for _ in range(LEVELS - 1):
            flat = F.avg_pool2d(self.levels[-1].flatten(0, 1).float(), 2)
            self.levels.append(flat.round().byte().unflatten(0, table.shape[:2]))

    def _grid(self, reals: Tensor, size: int) -> Tensor:
        """(N, S, S, 2) sprite coordinates in [-1, 1] of every pixel centre."""
        cx, cy, side, angle, flip = (reals[:, i, None, None] for i in range(5))
        span = torch.arange(size, device=self.device, dtype=torch.float32) + 0.5
        dx, dy = span[None, None, :] - cx, span[None, :, None] - cy
        c, s = angle.cos(), angle.sin()
        inner = 2 * (SIDE - 2 * MARGIN) / SIDE / side
        return torch.stack([flip * (c * dx + s * dy) * inner, (c * dy - s * dx) * inner], -1)

    def _layers(self, reals: Tensor, wholes: Tensor, size: int) -> Tensor:
        """(N, 4, S, S) premultiplied RGBA in [0, 1] of every object on the whole canvas."""
        out = torch.empty(len(reals), 4, size, size, device=self.device)
        shrink = (SIDE - 2 * MARGIN) / reals[:, 2]
        level = (shrink.log2() + 0.05).round().clamp(0, LEVELS - 1).long()
        for i, table in enumerate(self.levels):
            rows = torch.nonzero(level == i)[:, 0]
            if len(rows):
                picked = table[wholes[rows, 2], wholes[rows, 3]].float() / 255
                out[rows] = F.grid_sample(picked, self._grid(reals[rows], size),
                                          align_corners=False)  # fmt: skip
        return out

    def _backgrounds(self, values: Tensor, size: int) -> Tensor:
        """(B, 3, S, S): a + (b - a) * w with a pattern w in [0, 1] per kind."""
        a, b = values[:, :3, None, None], values[:, 3:6, None, None]
        angle, period, phase, kind = (values[:, i, None, None] for i in range(6, 10))
        span = torch.arange(size, device=self.device, dtype=torch.float32) + 0.5 - size / 2
        x, y = span[None, None, :], span[None, :, None]
        u, v = angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x
        wave_u, wave_v = ((2 * np.pi * (t / period + phase)).sin() for t in (u, v))
        slow = (u * 0.11 + phase * 40).sin() * (v * 0.13 + phase * 70).cos()
        patterns = [torch.zeros_like(u), u / (1.5 * size) + 0.5, (wave_u > 0).float(),
                    (wave_u * wave_v > 0.35).float(), slow * 0.5 + 0.5]  # fmt: skip
        weight = sum((kind == i).float() * p for i, p in enumerate(patterns))
        return (a + (b - a) * torch.as_tensor(weight)[:, None]).clamp(0, 1)

    @torch.no_grad()
    def __call__(self, scenes: Sequence[Scene] | Packed) -> Rendered:
        """Draw the scenes, all of one size."""
        packed = scenes if isinstance(scenes, Packed) else pack(scenes)
        size, batch = packed.size, len(packed.backgrounds)
        reals = torch.from_numpy(packed.reals).to(self.device)
        wholes = torch.from_numpy(packed.wholes).to(self.device).long()
        slots = 1 + int(packed.wholes[:, 1].max(initial=0))
        layers = torch.zeros(batch, slots, 4, size, size, device=self.device)
        layers[wholes[:, 0], wholes[:, 1]] = self._layers(reals, wholes, size)
        canvas = self._backgrounds(torch.from_numpy(packed.backgrounds).to(self.device), size)
        solid = layers[:, :, 3] > 0.5
        for k in range(slots):
            canvas = layers[:, k, :3] + (1 - layers[:, k, 3:]) * canvas
        in_front = solid.flip(1).cumsum(1).flip(1) - solid.long()
        masks = solid & (in_front == 0)
        classes = torch.full((batch, slots), -1, device=self.device)
        colors = torch.zeros_like(classes)
        classes[wholes[:, 0], wholes[:, 1]] = wholes[:, 4]
        colors[wholes[:, 0], wholes[:, 1]] = wholes[:, 3]
        images = (canvas.clamp(0, 1) * 255).round() / 255
        return Rendered(images, masks, _tight_boxes(masks), classes, colors)


def render(
    scenes: Sequence[Scene] | Packed, sprites: Sprites, device: str | torch.device = "cpu"
) -> Rendered:
    """`Renderer(sprites, device)(scenes)`: for a batch now and then."""
    return Renderer(sprites, device)(scenes)
