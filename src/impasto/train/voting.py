"""Train the sticker detector: foreground, centres, votes and classes of cells.

    L = BCE(foreground) + 2 focal(centre heat) + 4 |offset - target| + CE(class)

offsets and classes on foreground only. The heat's target is a Gaussian at the centre of each
object's visible box; its loss is CenterNet's penalty-reduced focal loss (Zhou et al. 2019, eq. 1
with alpha 2, beta 4).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers.models import UNet2DModel
from torch import Tensor
from torch.nn import functional as F

from impasto.score.detector import tight_boxes
from impasto.score.voting import CELL, OFFSET_SCALE, PART, Maps, read_maps
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.data import PictureCache
from impasto.train.loop import Loop, mixed
from impasto.train.rough import roughen

__all__ = ["Wanted", "targets", "train_voting", "voting_loss"]

SIGMA = 2.5
"""Width of the heat's Gaussian in pixels."""
STEP = CELL // PART
"""Pixels per quarter of a cell."""


class Wanted(NamedTuple):
    """Targets of `Maps`. foreground, heat: (B, H / 2, W / 2) in [0, 1]; offsets as there;
    classes: (B, H / 4, W / 4) int64, and weight: the share of each cell that is foreground."""

    foreground: Tensor
    heat: Tensor
    offsets: Tensor
    classes: Tensor
    weight: Tensor


def targets(masks: Tensor, classes: Tensor) -> Wanted:
    """masks: (B, K, H, W) bool visible masks. classes: (B, K) int64, -1 = no object."""
    b, k, height, width = masks.shape
    soft = F.avg_pool2d(masks.float(), STEP)
    boxes = tight_boxes(masks.flatten(0, 1)).view(b, k, 4)
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    x = (torch.arange(width // STEP, device=masks.device) + 0.5) * STEP
    y = (torch.arange(height // STEP, device=masks.device) + 0.5) * STEP
    # The peak is put on a quarter's centre, so that the target reaches 1 there.
    peak = (centre / STEP).floor() * STEP + STEP / 2
    across = torch.exp(-((x - peak[..., 0, None]) ** 2) / (2 * SIGMA**2))
    down = torch.exp(-((y - peak[..., 1, None]) ** 2) / (2 * SIGMA**2))
    seen = (classes >= 0) & (boxes[..., 2] > boxes[..., 0])
    heat = (down[..., :, None] * across[..., None, :] * seen[..., None, None]).amax(1)
    owner = soft.argmax(1)
    at = centre.gather(1, owner.flatten(1)[..., None].expand(-1, -1, 2)).unflatten(
        1, owner.shape[1:])  # fmt: skip
    offsets = torch.stack([at[..., 0] - x, at[..., 1] - y[:, None]], 1) / OFFSET_SCALE
    coarse = F.avg_pool2d(soft, PART)
    named = classes.gather(1, coarse.argmax(1).flatten(1)).view(b, *coarse.shape[2:])
    return Wanted(soft.sum(1).clamp(max=1), heat, offsets, named.clamp_min(0),
                  coarse.sum(1).clamp(max=1))  # fmt: skip


def voting_loss(maps: Maps, wanted: Wanted) -> tuple[Tensor, dict[str, Tensor]]:
    """Total loss and its parts."""
    fg = F.binary_cross_entropy_with_logits(maps.foreground, wanted.foreground)
    log_p, log_q = F.logsigmoid(maps.heat), F.logsigmoid(-maps.heat)
    p = log_p.exp()
    peak = (wanted.heat > 0.999).float()
    focal = -(peak * (1 - p) ** 2 * log_p + (1 - peak) * (1 - wanted.heat) ** 4 * p**2 * log_q)
    centre = focal.sum() / peak.sum().clamp_min(1)
    inside = (wanted.foreground > 0.5).float()[:, None]
    vote = ((maps.offsets - wanted.offsets).abs() * inside).sum() / inside.sum().clamp_min(1)
    ce = F.cross_entropy(maps.classes, wanted.classes, reduction="none")
    kind = (ce * wanted.weight).sum() / wanted.weight.sum().clamp_min(1)
    parts = {"fg": fg, "centre": centre, "vote": vote, "class": kind}
    return fg + 2 * centre + 4 * vote + kind, {k: v.detach() for k, v in parts.items()}


def train_voting(
    model: UNet2DModel, cache: PictureCache, *, steps: int, batch: int,
    lr: float = 1e-3, minutes: float | None = None, compiled: bool = False, seed: int = 0,
    checkpoint: Checkpoint | None = None,
) -> tuple[UNet2DModel, Loop]:  # fmt: skip
    """`model` trained on `cache`, half of the pictures mirrored, with moving-average weights."""
    torch.manual_seed(seed + processes.rank())
    device = cache.images.device
    model = model.to(device=device, memory_format=torch.channels_last).train()
    loop = Loop(model, steps, lr, weight_decay=0.02, minutes=minutes, name="detector",
                checkpoint=checkpoint)  # fmt: skip

    def loss_of(images: Tensor, wanted: Wanted) -> tuple[Tensor, dict[str, Tensor]]:
        with mixed(device):
            maps = read_maps(model, images)
        return voting_loss(maps, wanted)

    run = torch.compile(loss_of) if compiled else loss_of
    while loop.running:
        rows = torch.randint(len(cache), (batch,), device=device)
        images, masks = cache.images[rows].float() / 255, cache.masks(rows)
        if loop.step % 2:
            images, masks = images.flip(-1), masks.flip(-1)
        loss, parts = run(roughen(images), targets(masks, cache.classes[rows]))
        loop.update(loss, parts)
    loop.load_average()
    return model.eval(), loop
