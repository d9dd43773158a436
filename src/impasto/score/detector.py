"""Objects with masks: transformers' Mask2Former, post-processed as mmdetection 2.x does.

From the last layer's class logits (Q, C + 1) and mask logits (Q, h, w), per picture:

    p = softmax(class)[:, :C]; the Q best of the flattened Q x C scores are kept
    m = mask logits, resized to the picture, > 0
    mask score = sum(sigmoid * m) / (sum(m) + 1e-6);      score = p * mask score
    box = [xmin, ymin, xmax + 1, ymax + 1] of m

One query may appear under several classes. The small detector of the sticker world and the
published ones are the same class with another config, another `Preprocess` and another `MasksAt`.

Masks of rows with p <= t, for a threshold t in use, are not computed, and no object is lost: with
k pixels inside, sum(sigmoid * m) is a float32 sum of k numbers <= 1. Rounding is monotonic and
whole numbers up to 2^24 are exact, so in any order of summing it is at most k <= k + 1e-6; the
quotient is at most 1 and the score at most p <= t, whereas an object counts at a score > t. (No
picture has more than 2^24 pixels: `images.MAX_PIXELS`.) The Q best are chosen before, among all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from impasto.score.base import Found, Wanted
from impasto.spec import CLASSES

__all__ = ["Mask2FormerDetector", "detector_config", "sticker_preprocess", "tight_boxes"]

Preprocess = Callable[[Tensor], Tensor]
"""Pictures (B, 3, H, W) in [0, 1] to the network's input (B, 3, h, w)."""
MasksAt = Callable[[Tensor, tuple[int, int]], Tensor]
"""Mask logits (N, h', w') to a picture's height and width."""
STICKER_SIZE = 192
"""The sticker detector looks at pictures enlarged to this side: its objects may be 18 px small."""
MINIMAL_SCORE = 0.05
"""Objects below this are dropped before boxes are computed; every threshold in use is higher."""
EVERYTHING = Wanted(above=MINIMAL_SCORE)
PIXELS = 2**25
"""Of the masks of several pictures that are post-processed together."""

Key = tuple[int, int]
"""Number of a picture, and of a query."""
Plane = tuple[tuple[float, float, float, float], float, Tensor | None]
"""Box, mask score and, where it is looked at, the mask on the CPU."""


SIZES: dict[str, dict[str, Any]] = {
    "sticker": {"image": 192, "embed_dim": 32, "depths": [2, 2, 4, 2], "heads": [2, 4, 8, 16],
                "window": 8, "hidden": 128, "encoder_ffn": 320, "ffn": 320, "encoder": 2,
                "decoder": 5, "attention": 4, "queries": 20},
    "tiny": {"image": 192, "embed_dim": 8, "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2],
             "window": 4, "hidden": 32, "encoder_ffn": 32, "ffn": 32, "encoder": 1, "decoder": 2,
             "attention": 4, "queries": 8},
    "official": {"image": 224, "embed_dim": 96, "depths": [2, 2, 18, 2],
                 "heads": [3, 6, 12, 24], "window": 7, "hidden": 256, "encoder_ffn": 1024,
                 "ffn": 2048, "encoder": 6, "decoder": 10, "attention": 8, "queries": 100},
}  # fmt: skip
"""Of the presets; "decoder" counts the first prediction, which has no layer of its own."""


def detector_config(name: str = "sticker", **changes: int) -> Mask2FormerConfig:
    """Presets: "sticker" for pictures of 128 px, "tiny" for tests, "official" for GenEval's.

    "official" is mmdetection's mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco. Raises ValueError
    for another name.
    """
    if name not in SIZES:
        raise ValueError(f"unknown detector preset {name!r}; allowed: {', '.join(SIZES)}")
    s = SIZES[name] | changes
    backbone = SwinConfig(
        image_size=s["image"], patch_size=4, embed_dim=s["embed_dim"], depths=s["depths"],
        num_heads=s["heads"], window_size=s["window"], drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    return Mask2FormerConfig(
        backbone_config=backbone, num_labels=len(CLASSES), feature_size=s["hidden"],
        mask_feature_size=s["hidden"], hidden_dim=s["hidden"], dim_feedforward=s["ffn"],
        encoder_feedforward_dim=s["encoder_ffn"], encoder_layers=s["encoder"],
        decoder_layers=s["decoder"], num_attention_heads=s["attention"], num_queries=s["queries"],
        dropout=0.0, use_auxiliary_loss=True,
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


def bilinear(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits (N, h, w) at `size`, straight away."""
    return F.interpolate(logits[None], size=size, mode="bilinear")[0]


def _mask_scores(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(m, mask score) of mask logits (N, H, W): (N, H, W) bool and (N,)."""
    inside = logits > 0
    sums = (logits.sigmoid() * inside).sum((-2, -1))
    return inside, sums / (inside.sum((-2, -1)) + 1e-6)


class Mask2FormerDetector:
    """A Mask2Former that finds objects in pictures (B, 3, H, W).

    preprocess, masks_at: default the sticker detector's. classes: by index, default the config's.
    batch: pictures in one pass of the network, at most.
    """

    def __init__(
        self, model: Mask2FormerForUniversalSegmentation, preprocess: Preprocess | None = None,
        masks_at: MasksAt = bilinear, *, classes: Sequence[str] | None = None, batch: int = 64,
    ) -> None:  # fmt: skip
        self.model = model.eval()
        self.preprocess, self.masks_at = preprocess or sticker_preprocess, masks_at
        self.batch = batch
        labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
        self.classes: Sequence[str] = classes or labels

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: str | torch.device = "cpu"
    ) -> Mask2FormerDetector:
        """Load a folder written by transformers' `save_pretrained`; runs in float32."""
        model = Mask2FormerForUniversalSegmentation.from_pretrained(path, dtype=torch.float32)
        return cls(model.to(device))

    def detect(self, images: Tensor) -> list[list[Found]]:
        """All objects of each picture with score above 0.05, in no particular order."""
        return self.detect_wanted(images, [EVERYTHING] * len(images))

    @torch.inference_mode()
    def detect_wanted(self, images: Tensor, wanted: Sequence[Wanted]) -> list[list[Found]]:
        """The objects of each picture that `wanted` names, in no particular order."""
        return self.detect_parts(images.split(self.batch), wanted)

    @torch.inference_mode()
    def detect_parts(self, parts: Iterable[Tensor], wanted: Sequence[Wanted]
                     ) -> list[list[Found]]:  # fmt: skip
        """`detect_wanted` of pictures of one size that come in parts, each for one pass."""
        if self.device.type == "cuda":
            return self._beside(parts, wanted)
        found: list[list[Found]] = []
        for part in parts:
            size = (part.shape[-2], part.shape[-1])
            found += [self._found(c, m, size, one) for (c, m), one
                      in zip(self.predict(part), wanted[len(found) :], strict=False)]  # fmt: skip
        return found

    def _beside(self, parts: Iterable[Tensor], wanted: Sequence[Wanted]) -> list[list[Found]]:
        """On a GPU: all passes are launched, and each is post-processed while later ones run."""
        passes = []
        for part in parts:
            logits, masks = (torch.stack(rows) for rows in zip(*self.predict(part), strict=True))
            done = torch.cuda.Event()
            done.record()
            passes.append((logits, masks, (part.shape[-2], part.shape[-1]), done))
        found: list[list[Found]] = []
        # What is read here is waited for here, so no pass can be given its memory too early.
        beside = torch.cuda.Stream(self.device, priority=-1)
        with torch.cuda.stream(beside):
            for logits, masks, size, done in passes:
                beside.wait_event(done)
                own = wanted[len(found) : len(found) + len(logits)]
                found += self._together(logits, masks, size, own)
        return found

    @torch.inference_mode()
    def predict(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Class logits (Q, C + 1) and mask logits (Q, h, w) of each picture, one pass for all.

        On a GPU nothing is waited for.
        """
        out = self.model(pixel_values=self.preprocess(images.to(self.device)))
        return list(zip(out.class_queries_logits.float(), out.masks_queries_logits.float(),
                        strict=True))  # fmt: skip

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _best(self, logits: Tensor) -> list[list[tuple[float, int]]]:
        """(p, place among Q x C) of each picture's Q best, best first; logits (B, Q, C + 1)."""
        p, index = logits.softmax(-1)[..., :-1].flatten(1).topk(logits.shape[1])
        both = torch.stack([p.double(), index.double()]).cpu()
        return [[(value, int(i)) for value, i in zip(*rows, strict=True)]
                for rows in zip(*both.tolist(), strict=True)]  # fmt: skip

    def _rows(self, best: Sequence[tuple[float, int]], wanted: Wanted
              ) -> list[tuple[float, int, str]]:  # fmt: skip
        """(p, query, class) of a picture's best that may become an object."""
        count = len(self.classes)
        rows = [(value, i // count, self.classes[i % count])
                for value, i in best if value > wanted.above]  # fmt: skip
        return [row for row in rows if wanted.classes is None or row[2] in wanted.classes]

    def _found(
        self, logits: Tensor, masks: Tensor, size: tuple[int, int], wanted: Wanted = EVERYTHING
    ) -> list[Found]:
        """Post-process one picture: logits (Q, C + 1), masks (Q, h, w)."""
        return self._together(logits[None], masks[None], size, [wanted])[0]

    def _together(
        self, logits: Tensor, masks: Tensor, size: tuple[int, int], wanted: Sequence[Wanted]
    ) -> list[list[Found]]:
        """Post-process pictures: logits (B, Q, C + 1), masks (B, Q, h, w)."""
        rows = [self._rows(best, one)
                for best, one in zip(self._best(logits), wanted, strict=True)]  # fmt: skip
        keys = [(k, query) for k, own in enumerate(rows)
                for query in sorted({query for _, query, _ in own})]  # fmt: skip
        shown = {(k, query) for k, own in enumerate(rows) for _, query, c in own
                 if (of := wanted[k].masks) is None or c in of}  # fmt: skip
        planes: dict[Key, Plane] = {}
        count = len(keys) if len(rows) == 1 else max(16, PIXELS // (size[0] * size[1]))
        for at in range(0, len(keys), max(count, 1)):
            planes |= self._planes(masks, keys[at : at + count], size, shown)
        return [_objects(k, own, one.above, planes)
                for k, (own, one) in enumerate(zip(rows, wanted, strict=True))]  # fmt: skip

    def _planes(
        self, masks: Tensor, keys: Sequence[Key], size: tuple[int, int], shown: Collection[Key]
    ) -> dict[Key, Plane]:
        """The masks `keys` at `size`; kept where they are `shown`."""
        index = torch.tensor([k * masks.shape[1] + query for k, query in keys])
        chosen = masks.flatten(0, 1)[index.to(masks.device)]
        inside, mask_score = _mask_scores(self.masks_at(chosen, size))
        numbers = torch.cat([tight_boxes(inside), mask_score[:, None]], 1).tolist()
        kept = [i for i, key in enumerate(keys) if key in shown]
        own = dict(zip(kept, inside[torch.tensor(kept, device=inside.device)].cpu(), strict=True)
                   if kept else ())  # fmt: skip
        return {key: ((x1, y1, x2, y2), sure, own.get(i))
                for i, (key, (x1, y1, x2, y2, sure))
                in enumerate(zip(keys, numbers, strict=True))}  # fmt: skip


def _objects(
    picture: int, rows: Sequence[tuple[float, int, str]], above: float,
    planes: Mapping[Key, Plane],
) -> list[Found]:  # fmt: skip
    """A picture's rows (p, query, class) with a score above."""
    found = [planes[picture, query] for _, query, _ in rows]
    scores = torch.tensor([p for p, _, _ in rows]) * torch.tensor([sure for _, sure, _ in found])
    return [Found(c, box, score, mask) for (_, _, c), (box, _, mask), score
            in zip(rows, found, scores.tolist(), strict=True) if score > above]  # fmt: skip
