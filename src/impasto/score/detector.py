"""Objects with masks: transformers' Mask2Former, post-processed as mmdetection 2.x does.

From the last layer's class logits (Q, C + 1) and mask logits (Q, h, w), per picture:

    p = softmax(class)[:, :C]; the Q best of the flattened Q x C scores are kept
    m = mask logits, resized to the picture, > 0
    mask score = sum(sigmoid * m) / (sum(m) + 1e-6);      score = p * mask score
    box = [xmin, ymin, xmax + 1, ymax + 1] of m

One query may appear under several classes. The small detector of the sticker world and the
published ones are the same class with another config and another `Preprocess`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from impasto.score.base import Found
from impasto.spec import CLASSES

__all__ = ["Mask2FormerDetector", "detector_config", "sticker_preprocess", "tight_boxes"]

Preprocess = Callable[[Tensor], Tensor]
STICKER_SIZE = 192
"""The sticker detector looks at pictures enlarged to this side: its objects may be 18 px small."""
MINIMAL_SCORE = 0.05
"""Objects below this are dropped before boxes are computed; every threshold in use is higher."""


def detector_config(name: str = "sticker", **changes: int) -> Mask2FormerConfig:
    """Presets: "sticker" for pictures of 128 px, "tiny" for tests.

    Raises ValueError for another name.
    """
    sizes = {
        "sticker": {"embed_dim": 32, "depths": [2, 2, 4, 2], "heads": [2, 4, 8, 16], "window": 8,
                    "hidden": 128, "ffn": 320, "encoder": 2, "decoder": 5, "queries": 20},
        "tiny": {"embed_dim": 8, "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2], "window": 4,
                 "hidden": 32, "ffn": 32, "encoder": 1, "decoder": 2, "queries": 8},
    }  # fmt: skip
    if name not in sizes:
        raise ValueError(f"unknown detector preset {name!r}; allowed: {', '.join(sizes)}")
    s = sizes[name] | changes
    backbone = SwinConfig(
        image_size=192, patch_size=4, embed_dim=s["embed_dim"], depths=s["depths"],
        num_heads=s["heads"], window_size=s["window"], drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    return Mask2FormerConfig(
        backbone_config=backbone, num_labels=len(CLASSES), feature_size=s["hidden"],
        mask_feature_size=s["hidden"], hidden_dim=s["hidden"], encoder_feedforward_dim=s["ffn"],
        dim_feedforward=s["ffn"], encoder_layers=s["encoder"], decoder_layers=s["decoder"],
        num_attention_heads=4, num_queries=s["queries"], dropout=0.0, use_auxiliary_loss=True,
        id2label=dict(enumerate(CLASSES)), label2id={c: i for i, c in enumerate(CLASSES)},
    )  # fmt: skip


def tight_boxes(masks: Tensor) -> Tensor:
    """(N, H, W) bool -> (N, 4) float end-exclusive xyxy; zeros for an empty mask."""

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        span = torch.arange(line.shape[-1], device=line.device)
        low = torch.where(line, span, line.shape[-1]).amin(-1)
        high = torch.where(line, span + 1, 0).amax(-1)
        return torch.where(high > 0, low, 0), high

    x1, x2 = ends(masks.any(-2))
    y1, y2 = ends(masks.any(-1))
    return torch.stack([x1, y1, x2, y2], -1).float()


def sticker_preprocess(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, 3, h, w) in [-1, 1] with the short side at 192 pixels.

    Raises ValueError when that makes a side that is not a multiple of 32.
    """
    height, width = images.shape[-2:]
    scale = STICKER_SIZE / min(height, width)
    size = round(height * scale), round(width * scale)
    if size[0] % 32 or size[1] % 32:
        raise ValueError(f"this detector takes no pictures of {width} x {height}: with the short "
                         f"side at {STICKER_SIZE} both must be multiples of 32")  # fmt: skip
    return F.interpolate(images, size=size, mode="bilinear") * 2 - 1


class Mask2FormerDetector:
    """A Mask2Former that finds objects in pictures (B, 3, H, W).

    preprocess: picture tensor -> network input (B, 3, h, w); default: the sticker detector's.
    """

    def __init__(
        self, model: Mask2FormerForUniversalSegmentation, preprocess: Preprocess | None = None
    ) -> None:
        self.model = model.eval()
        self.preprocess = preprocess or sticker_preprocess
        self.classes: Sequence[str] = [
            model.config.id2label[i] for i in range(model.config.num_labels)
        ]

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: str | torch.device = "cpu"
    ) -> Mask2FormerDetector:
        """Load a folder written by transformers' `save_pretrained`; runs in float32."""
        model = Mask2FormerForUniversalSegmentation.from_pretrained(path, dtype=torch.float32)
        return cls(model.to(device))

    @torch.inference_mode()
    def detect(self, images: Tensor) -> list[list[Found]]:
        """All objects of each picture with score above 0.05, in no particular order."""
        device = next(self.model.parameters()).device
        out = self.model(pixel_values=self.preprocess(images.to(device)))
        size = tuple(images.shape[-2:])
        logits, masks = out.class_queries_logits.float(), out.masks_queries_logits.float()
        return [self._found(c, m, size) for c, m in zip(logits, masks, strict=True)]

    def _found(self, logits: Tensor, masks: Tensor, size: tuple[int, ...]) -> list[Found]:
        """Post-process one picture: logits (Q, C + 1), masks (Q, h, w)."""
        p, index = logits.softmax(-1)[:, :-1].flatten().topk(len(logits))
        keep = p > MINIMAL_SCORE
        p, index = p[keep], index[keep]
        query, label = index // len(self.classes), index % len(self.classes)
        if not len(p):
            return []
        m = F.interpolate(masks[query][None], size=size, mode="bilinear")[0]
        inside = m > 0
        mask_score = (m.sigmoid() * inside).sum((-2, -1)) / (inside.sum((-2, -1)) + 1e-6)
        score, boxes = p * mask_score, tight_boxes(inside)
        return [
            Found(self.classes[c], tuple(b), s, k)
            for c, b, s, k in zip(label.tolist(), boxes.tolist(), score.tolist(),
                                  inside.cpu(), strict=True)
            if s > MINIMAL_SCORE
        ]  # fmt: skip
