"""Train the sticker detector on pictures cached on the device."""

from __future__ import annotations

import torch
from transformers import Mask2FormerForUniversalSegmentation

from impasto.score.detector import sticker_preprocess
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.data import PictureCache
from impasto.train.loop import Loop, mixed
from impasto.train.mask2former_loss import mask2former_loss
from impasto.train.rough import roughen

__all__ = ["train_mask2former"]


def train_mask2former(
    model: Mask2FormerForUniversalSegmentation, cache: PictureCache, *, steps: int, batch: int,
    lr: float = 6e-4, minutes: float | None = None, compiled: bool = False, seed: int = 0,
    checkpoint: Checkpoint | None = None,
) -> tuple[Mask2FormerForUniversalSegmentation, Loop]:  # fmt: skip
    """`model` trained on `cache`, with its moving-average weights.

    lr: AdamW peak learning rate. minutes overrides steps. compiled: torch.compile the network.
    """
    torch.manual_seed(seed + processes.rank())
    device = cache.images.device
    model = model.to(device).train()
    network = torch.compile(model) if compiled else model
    loop = Loop(model, steps, lr, weight_decay=0.05, minutes=minutes, name="mask2former",
                checkpoint=checkpoint)  # fmt: skip
    while loop.running:
        rows = torch.randint(len(cache), (batch,), device=device)
        images = roughen(cache.images[rows].float() / 255)
        with mixed(device):
            out = network(sticker_preprocess(images), output_auxiliary_logits=True)
        logits = [a["class_queries_logits"] for a in out.auxiliary_logits]
        masks = [a["masks_queries_logits"] for a in out.auxiliary_logits]
        loss, parts = mask2former_loss(
            [*logits, out.class_queries_logits], [*masks, out.masks_queries_logits],
            cache.classes[rows], cache.masks(rows).float(),
        )  # fmt: skip
        loop.update(loss, parts)
    loop.load_average()
    return model.eval(), loop
