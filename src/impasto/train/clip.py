"""Train the sticker CLIP: colours of objects, and captions of whole pictures.

Two losses on one model, each a cross-entropy over cosines times the learnt scale:
crops (mask on #999, as GenEval cuts them) against the texts of all 80 x 10 object-colours, and
pictures against captions of the batch plus, for each, the caption with one fact altered.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from impasto.models.mmdit.text import token_ids
from impasto.score.color import TEMPLATES
from impasto.score.detector import tight_boxes
from impasto.spec import CLASSES, COLORS
from impasto.train import processes
from impasto.train.data import PictureCache
from impasto.train.loop import Loop
from impasto.train.rough import roughen

__all__ = ["crops", "train_clip"]

GREY = 0.6
"""#999, GenEval's background for colour crops."""


def crops(images: Tensor, masks: Tensor, size: int) -> Tensor:
    """(B, 3, size, size): masked objects on grey, the centre square of their boxes.

    images: (B, 3, H, W), masks: (B, H, W) bool. The device-side form of GenEval's crop (resize
    the shorter side, cut the centre); boxes are jittered by a pixel.
    """
    on_grey = torch.where(masks[:, None], images, torch.full_like(images, GREY))
    boxes = tight_boxes(masks) + torch.rand(len(masks), 4, device=masks.device) * 2 - 1
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    side = (boxes[:, 2:] - boxes[:, :2]).amin(1).clamp_min(3)
    span = (torch.arange(size, device=masks.device) + 0.5) / size - 0.5
    x = centre[:, 0, None, None] + side[:, None, None] * span[None, None, :]
    y = centre[:, 1, None, None] + side[:, None, None] * span[None, :, None]
    x, y = torch.broadcast_tensors(x, y)
    grid = torch.stack([2 * x / images.shape[-1] - 1, 2 * y / images.shape[-2] - 1], -1)
    return F.grid_sample(on_grey, grid, align_corners=False, padding_mode="border")


def _jittered(masks: Tensor) -> Tensor:
    """Masks (B, H, W), a third grown by a pixel, a third shrunk: detectors are not exact."""
    soft = masks[:, None].float()
    grown = F.max_pool2d(soft, 3, 1, 1)[:, 0] > 0.5
    shrunk = -F.max_pool2d(-soft, 3, 1, 1)[:, 0] > 0.5
    way = torch.randint(0, 3, (len(masks), 1, 1), device=masks.device)
    out = torch.where(way == 0, grown, torch.where(way == 1, shrunk, masks))
    return torch.where(out.flatten(1).any(1)[:, None, None], out, masks)


def _colored_objects(cache: PictureCache, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One coloured object of each picture that has any: masks, target columns, their rows."""
    able = (cache.classes[rows] >= 0) & (cache.colors[rows] < len(COLORS))
    chance = torch.rand(able.shape, device=rows.device) * able
    slot = chance.argmax(1)
    have = able.any(1)
    picked = torch.arange(len(rows), device=rows.device)[have]
    slot = slot[have]
    masks = cache.owner[rows[picked]] == (slot + 1)[:, None, None].to(torch.uint8)
    target = cache.classes[rows[picked], slot] * len(COLORS) + cache.colors[rows[picked], slot]
    seen = masks.flatten(1).any(1)
    return masks[seen], target[seen], picked[seen]


def _features(model: CLIPModel, pixels: Tensor) -> Tensor:
    out = model.visual_projection(model.vision_model(pixel_values=pixels * 2 - 1).pooler_output)
    return F.normalize(out.float(), dim=-1)


def _words(model: CLIPModel, ids: Tensor) -> Tensor:
    """(B, D) features of (B, L). The text tower is causal and read at <eos>, so what is padding
    in every row is cut off."""
    ids = ids[:, : int((ids != model.config.text_config.pad_token_id).sum(1).max())]
    out = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    return F.normalize(out.float(), dim=-1)


def train_clip(
    config: CLIPConfig, tokenizer: PreTrainedTokenizerFast, cache: PictureCache,
    captions: Sequence[Sequence[str]], wrong: Sequence[str], *,
    steps: int, batch: int, lr: float = 1e-3,
    minutes: float | None = None, compiled: bool = False, seed: int = 0,
) -> tuple[CLIPModel, Loop]:  # fmt: skip
    """A CLIP trained from scratch on `cache` and its captions, with moving-average weights."""
    torch.manual_seed(seed + processes.rank())
    device = cache.images.device
    model = CLIPModel(config).to(device).train()
    loop = Loop(model, steps, lr, weight_decay=0.05, minutes=minutes, name="clip")
    size = config.vision_config.image_size
    names = [(c, x) for x in CLASSES for c in COLORS]
    columns = torch.stack([token_ids(tokenizer, [t.format(color=c, cls=x) for c, x in names])
                           for t in TEMPLATES]).to(device)  # fmt: skip
    right = torch.stack([token_ids(tokenizer, [c[k] for c in captions])
                         for k in (0, 1)]).to(device)  # fmt: skip
    other = token_ids(tokenizer, wrong).to(device)
    features = torch.compile(_features) if compiled else _features
    while loop.running:
        rows = torch.randint(len(cache), (batch,), device=device)
        images = roughen(cache.images[rows].float() / 255)
        masks, target, picked = _colored_objects(cache, rows)
        cut = crops(images[picked], _jittered(masks), size)
        whole = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
        way = torch.randint(2, (batch,), device=device)
        with torch.autocast(device.type, torch.bfloat16):
            seen = features(model, torch.cat([cut, whole]))
            hues = _words(model, columns[loop.step % len(TEMPLATES)])
            texts = _words(model, torch.cat([right[way, rows], other[rows]]))
        scale = model.logit_scale.exp().clamp(max=100)
        color_loss = F.cross_entropy(scale * seen[: len(cut)] @ hues.T, target)
        sims = scale * seen[len(cut) :] @ texts.T
        own = torch.arange(batch, device=device)
        pair = torch.stack([sims[own, own], sims[own, own + batch]], 1)
        fact_loss = F.cross_entropy(pair, torch.zeros_like(own))
        match_loss = (F.cross_entropy(sims, own) + F.cross_entropy(sims[:, :batch].T, own)) / 2
        parts = {"color": color_loss, "match": match_loss, "fact": fact_loss}
        loop.update(color_loss + match_loss + fact_loss,
                    {name: value.detach() for name, value in parts.items()})  # fmt: skip
    loop.load_average()
    return model.eval(), loop
