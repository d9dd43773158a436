"""Mask2Former's loss (Cheng et al. 2022, eq. 1-2), batched over pictures and layers.

    L = 2 * CE(class; no-object weight 0.1) + 5 * BCE(mask) + 5 * Dice(mask)

summed over decoder layers. Queries are matched to objects by the Hungarian method on the last
layer's costs, and that match serves all layers: one transfer to the host a step. Masks are small
(a quarter of the picture, doubled), so they are compared whole, not at sampled points.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

__all__ = ["mask2former_loss", "match", "matching_costs"]

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT, NO_OBJECT_WEIGHT = 2.0, 5.0, 5.0, 0.1


def matching_costs(logits: Tensor, masks: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Cost of every query for every object, (B, Q, K).

    logits: (B, Q, C + 1). masks: (B, Q, h, w) logits. labels: (B, K) int64, -1 = no object.
    targets: (B, K, h, w) in [0, 1].
    """
    p = logits.softmax(-1)
    class_cost = -p.gather(2, labels.clamp_min(0)[:, None].expand(-1, logits.shape[1], -1))
    x, y = masks.flatten(2), targets.flatten(2)
    # BCE(x, y) = softplus(x) - x * y, so its mean over pixels is a matrix product.
    bce = (F.softplus(x).sum(-1)[:, :, None] - x @ y.mT) / x.shape[-1]
    s = x.sigmoid()
    dice = 1 - (2 * s @ y.mT + 1) / (s.sum(-1)[:, :, None] + y.sum(-1)[:, None] + 1)
    return CLASS_WEIGHT * class_cost + MASK_WEIGHT * bce + DICE_WEIGHT * dice


def match(costs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Picture, query and object index of each matched pair, three (M,) int64 tensors."""
    host, counts = costs.float().cpu().numpy(), (labels >= 0).sum(1).tolist()
    rows: list[int] = []
    queries: list[int] = []
    objects: list[int] = []
    for b, n in enumerate(counts):
        q, k = linear_sum_assignment(host[b, :, :n])
        rows += [b] * len(q)
        queries += q.tolist()
        objects += k.tolist()
    pairs = torch.tensor([rows, queries, objects], dtype=torch.int64).to(costs.device)
    return pairs[0], pairs[1], pairs[2]


def _layer_loss(
    logits: Tensor, masks: Tensor, labels: Tensor, targets: Tensor,
    pairs: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    b, q, k = pairs
    no_object = logits.shape[-1] - 1
    wanted = torch.full(logits.shape[:2], no_object, device=logits.device)
    wanted[b, q] = labels[b, k]
    weight = torch.ones(logits.shape[-1], device=logits.device)
    weight[no_object] = NO_OBJECT_WEIGHT
    ce = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight)
    if not len(b):
        return ce, ce.new_zeros(()), ce.new_zeros(())
    # Only matched masks are enlarged: there are far fewer objects than queries.
    x = F.interpolate(masks[b, q][:, None].float(), size=targets.shape[-2:], mode="bilinear")
    x, y = x.flatten(1), targets[b, k].flatten(1)
    bce = F.binary_cross_entropy_with_logits(x, y)
    s = x.sigmoid()
    dice = (1 - (2 * (s * y).sum(1) + 1) / (s.sum(1) + y.sum(1) + 1)).mean()
    return ce, bce, dice


def mask2former_loss(
    logits: Sequence[Tensor], masks: Sequence[Tensor], labels: Tensor, targets: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total loss and the last layer's parts.

    logits: per layer (B, Q, C + 1), masks: per layer (B, Q, h, w) logits, last layer last.
    labels: (B, K) int64 with objects first, -1 = none. targets: (B, K, H, W) float in [0, 1].
    """
    size = masks[0].shape[-1] * 2
    targets = F.interpolate(targets, size=(size, size), mode="bilinear", antialias=True)
    with torch.no_grad():
        small = F.avg_pool2d(targets, 2)
        pairs = match(matching_costs(logits[-1].float(), masks[-1].float(), labels, small), labels)
    total = torch.zeros((), device=targets.device)
    for layer, mask in zip(logits, masks, strict=True):
        ce, bce, dice = _layer_loss(layer.float(), mask, labels, targets, pairs)
        total = total + CLASS_WEIGHT * ce + MASK_WEIGHT * bce + DICE_WEIGHT * dice
    return total, {"class": ce.detach(), "mask": bce.detach(), "dice": dice.detach()}
