"""Train the sticker detector on pictures cached on the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Mask2FormerForUniversalSegmentation

from impasto.score.detector import sticker_preprocess
from impasto.train.data import PictureCache
from impasto.train.loop import Loop
from impasto.train.mask2former_loss import mask2former_loss

__all__ = ["roughen", "train_detector"]


def roughen(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1], some blurred, noisy or of changed contrast: a generator's
    pictures are not as clean as the world's."""
    b = len(images)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)

    def amount(high: float) -> Tensor:
        return torch.rand(b, 1, 1, 1, device=images.device) * high

    use = (torch.rand(b, 1, 1, 1, device=images.device) < 0.6).float()
    rough = torch.lerp(images, blurred, amount(0.8))
    rough = rough + torch.randn_like(rough) * amount(0.03)
    rough = (rough - 0.5) * (1 + amount(0.2) - 0.1) + 0.5 + amount(0.08) - 0.04
    return torch.lerp(images, rough, use).clamp(0, 1)


def train_detector(
    model: Mask2FormerForUniversalSegmentation, cache: PictureCache, *, steps: int, batch: int,
    lr: float = 6e-4, minutes: float | None = None, compiled: bool = False, seed: int = 0,
) -> tuple[Mask2FormerForUniversalSegmentation, Loop]:  # fmt: skip
    """`model` trained on `cache`, with its moving-average weights.

    lr: AdamW peak learning rate. minutes overrides steps. compiled: torch.compile the network.
    """
    torch.manual_seed(seed)
    device = cache.images.device
    model = model.to(device).train()
    network = torch.compile(model) if compiled else model
    loop = Loop(model, steps, lr, weight_decay=0.05, minutes=minutes, name="detector")
    half = device.type == "cuda"
    while loop.running:
        rows = torch.randint(len(cache), (batch,), device=device)
        images = roughen(cache.images[rows].float() / 255)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            out = network(sticker_preprocess(images), output_auxiliary_logits=True)
        logits = [a["class_queries_logits"] for a in out.auxiliary_logits]
        masks = [a["masks_queries_logits"] for a in out.auxiliary_logits]
        loss, parts = mask2former_loss(
            [*logits, out.class_queries_logits], [*masks, out.masks_queries_logits],
            cache.classes[rows], cache.masks(rows).float(),
        )  # fmt: skip
        loop.update(loss, lambda parts=parts: " ".join(f"{k} {v:.4f}" for k, v in parts.items()))
    loop.load_average()
    return model.eval(), loop
