"""Train the object finder of the sticker detector: foreground, centres, votes.

    L = BCE(foreground) + 2 * focal(centre heat) + 4 * |offset - target| on foreground cells

The heat's target is a Gaussian at the centre of each object's visible box; its loss is CenterNet's
penalty-reduced focal loss (Zhou et al. 2019, eq. 1 with alpha 2, beta 4).
"""

from __future__ import annotations

import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.nn import functional as F

from impasto.score.detector import tight_boxes
from impasto.score.segment import CELL, OFFSET_SCALE, segment
from impasto.train.data import PictureCache
from impasto.train.detector import roughen
from impasto.train.loop import Loop

__all__ = ["segmenter_loss", "targets", "train_segmenter"]

SIGMA = 2.5
"""Width of the heat's Gaussian in pixels."""


def targets(masks: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Foreground (B, h, w) in [0, 1], heat (B, h, w) and offsets (B, 2, h, w) at 1 / CELL.

    masks: (B, K, H, W) bool visible masks. present: (B, K) bool.
    """
    b, k, height, width = masks.shape
    soft = F.avg_pool2d(masks.float(), CELL)
    foreground = soft.sum(1).clamp(max=1)
    boxes = tight_boxes(masks.flatten(0, 1)).view(b, k, 4)
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    x = (torch.arange(width // CELL, device=masks.device) + 0.5) * CELL
    y = (torch.arange(height // CELL, device=masks.device) + 0.5) * CELL
    # The peak is put on a cell's centre, so that the target reaches 1 there.
    peak = (centre / CELL).floor() * CELL + CELL / 2
    square = ((x[None, None, None, :] - peak[..., 0, None, None]) ** 2
              + (y[None, None, :, None] - peak[..., 1, None, None]) ** 2)  # fmt: skip
    seen = present & masks.flatten(2).any(2)
    heat = (torch.exp(-square / (2 * SIGMA**2)) * seen[..., None, None]).amax(1)
    owner = soft.argmax(1)
    cx = centre[..., 0].gather(1, owner.flatten(1)).view_as(owner)
    cy = centre[..., 1].gather(1, owner.flatten(1)).view_as(owner)
    offsets = torch.stack([cx - x[None, None, :], cy - y[None, :, None]], 1) / OFFSET_SCALE
    return foreground, heat, offsets


def segmenter_loss(
    logits: Tensor, wanted: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total loss and its parts; logits (B, 4, h, w), `wanted` as `targets` gives."""
    foreground, heat, offsets = wanted
    fg = F.binary_cross_entropy_with_logits(logits[:, 0], foreground)
    log_p, log_q = F.logsigmoid(logits[:, 1]), F.logsigmoid(-logits[:, 1])
    p = log_p.exp()
    peak = (heat > 0.999).float()
    focal = -(peak * (1 - p) ** 2 * log_p + (1 - peak) * (1 - heat) ** 4 * p**2 * log_q)
    centre = focal.sum() / peak.sum().clamp_min(1)
    inside = (foreground > 0.5)[:, None].float()
    vote = ((logits[:, 2:] - offsets).abs() * inside).sum() / inside.sum().clamp_min(1)
    total = fg + 2 * centre + 4 * vote
    return total, {"fg": fg.detach(), "centre": centre.detach(), "vote": vote.detach()}


def train_segmenter(
    model: UNet2DModel, cache: PictureCache, *, steps: int, batch: int,
    lr: float = 1e-3, minutes: float | None = None, compiled: bool = False, seed: int = 0,
) -> tuple[UNet2DModel, Loop]:  # fmt: skip
    """`model` trained on `cache`, half of the pictures mirrored, with moving-average weights."""
    torch.manual_seed(seed)
    device = cache.images.device
    model = model.to(device).train()
    network = torch.compile(model) if compiled else model
    loop = Loop(model, steps, lr, weight_decay=0.02, minutes=minutes, ema_decay=0.995,
                name="segmenter")  # fmt: skip
    half = device.type == "cuda"
    while loop.running:
        rows = torch.randint(len(cache), (batch,), device=device)
        images, masks = cache.images[rows].float() / 255, cache.masks(rows)
        if loop.step % 2:
            images, masks = images.flip(-1), masks.flip(-1)
        images = roughen(images)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = segment(network, images)
        loss, parts = segmenter_loss(logits.float(), targets(masks, cache.classes[rows] >= 0))
        loop.update(loss, lambda parts=parts: " ".join(f"{k} {v:.4f}" for k, v in parts.items()))
    loop.load_average()
    return model.eval(), loop
