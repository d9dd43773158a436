"""Train the sticker CLIP: colours of objects, and captions of whole pictures.

Losses on one model, each a cross-entropy over cosines times the learnt scale:

    color    crops (mask on #999, as GenEval cuts them) against the texts of all 80 x 10
             object-colours
    match    pictures against captions of the batch plus, for each, the caption with one fact
             altered
    place    where asked for, instead of the crops: single patches against the texts of all
             object-colours and of the 80 objects as they are, so that patches alone tell what is
             where
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from impasto.models.mmdit.text import token_ids
from impasto.score.clip import patch_features
from impasto.score.color import TEMPLATES
from impasto.score.detector import tight_boxes
from impasto.spec import CLASSES, COLORS
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.data import PictureCache
from impasto.train.loop import Loop, mixed
from impasto.train.rough import roughen

__all__ = ["crops", "objects_of_places", "train_clip"]

GREY = 0.6
"""#999, GenEval's background for colour crops."""
PLACES = 2048
"""Patches a step."""


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


def objects_of_places(
    cache: PictureCache, rows: Tensor, patch: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`count` patches with an object at their centre, drawn at random: (picture of `rows`, place,
    object), each (count,). The object is class x 11 + colour, colour 10 being its own."""
    centre = patch // 2
    owner = cache.owner[rows][:, centre::patch, centre::patch].flatten(1).long()
    picture, place = (owner > 0).nonzero(as_tuple=True)
    drawn = torch.randint(len(picture), (count,), device=rows.device)
    picture, place = picture[drawn], place[drawn]
    slot = owner[picture, place] - 1
    classes, colors = cache.classes[rows[picture], slot], cache.colors[rows[picture], slot]
    return picture, place, classes * (len(COLORS) + 1) + colors.clamp(max=len(COLORS))


def _place_texts(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """(80 x 11, L) ids, in the order of `objects_of_places`."""
    texts = [text for cls in CLASSES for text in
             (*(TEMPLATES[0].format(color=color, cls=cls) for color in COLORS),
              f"a photo of a {cls}")]  # fmt: skip
    return token_ids(tokenizer, texts)


class _Places:
    """The loss of single patches."""

    def __init__(
        self, model: CLIPModel, tokenizer: PreTrainedTokenizerFast, cache: PictureCache
    ) -> None:
        self.model, self.cache = model, cache
        self.patch = model.config.vision_config.patch_size
        self.scale = model.config.vision_config.image_size / cache.images.shape[-1]
        if self.scale != 1:
            raise ValueError(f"patches are told apart at the pictures' own size: the CLIP must "
                             f"take {cache.images.shape[-1]} px, it takes "
                             f"{model.config.vision_config.image_size}")  # fmt: skip
        self.texts = _place_texts(tokenizer).to(cache.images.device)

    def __call__(self, images: Tensor, rows: Tensor, scale: Tensor) -> Tensor:
        picture, place, target = objects_of_places(self.cache, rows, self.patch, PLACES)
        seen = patch_features(self.model, images * 2 - 1)[picture, place]
        sims = F.normalize(seen.float(), dim=-1) @ _words(self.model, self.texts).T
        return F.cross_entropy(scale * sims, target)


def _features(model: CLIPModel, pixels: Tensor) -> Tensor:
    out = model.visual_projection(model.vision_model(pixel_values=pixels * 2 - 1).pooler_output)
    return F.normalize(out.float(), dim=-1)


def _words(model: CLIPModel, ids: Tensor) -> Tensor:
    """(B, D) features of (B, L). The text tower is causal and read at <eos>, so what is padding
    in every row is cut off."""
    ids = ids[:, : int((ids != model.config.text_config.pad_token_id).sum(1).max())]
    out = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    return F.normalize(out.float(), dim=-1)


class _Colors:
    """The loss of crops."""

    def __init__(
        self, model: CLIPModel, tokenizer: PreTrainedTokenizerFast, cache: PictureCache,
        features: Callable[[CLIPModel, Tensor], Tensor],
    ) -> None:  # fmt: skip
        self.model, self.cache, self.features = model, cache, features
        self.size = model.config.vision_config.image_size
        names = [(c, x) for x in CLASSES for c in COLORS]
        self.columns = torch.stack([
            token_ids(tokenizer, [t.format(color=c, cls=x) for c, x in names]) for t in TEMPLATES
        ]).to(cache.images.device)  # fmt: skip

    def __call__(self, images: Tensor, rows: Tensor, scale: Tensor, step: int) -> Tensor:
        masks, target, picked = _colored_objects(self.cache, rows)
        cut = crops(images[picked], _jittered(masks), self.size)
        hues = _words(self.model, self.columns[step % len(TEMPLATES)])
        return F.cross_entropy(scale * self.features(self.model, cut) @ hues.T, target)


def _whole(seen: Tensor, texts: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """Losses of pictures (B, D) and texts (2 B, D): each one's own, then the altered ones."""
    sims, own = scale * seen @ texts.T, torch.arange(len(seen), device=seen.device)
    pair = torch.stack([sims[own, own], sims[own, own + len(seen)]], 1)
    match = F.cross_entropy(sims, own) + F.cross_entropy(sims[:, : len(seen)].T, own)
    return {"match": match / 2, "fact": F.cross_entropy(pair, torch.zeros_like(own))}


def train_clip(
    config: CLIPConfig, tokenizer: PreTrainedTokenizerFast, cache: PictureCache,
    captions: Sequence[Sequence[str]], wrong: Sequence[str], *,
    steps: int, batch: int, lr: float = 1e-3,
    minutes: float | None = None, compiled: bool = False, seed: int = 0, place_weight: float = 0.0,
    checkpoint: Checkpoint | None = None,
) -> tuple[CLIPModel, Loop]:  # fmt: skip
    """A CLIP trained from scratch on `cache` and its captions, with moving-average weights.

    place_weight: of the loss of single patches. Raises ValueError when it is asked for of a CLIP
    that takes pictures of another size than the cache's.
    """
    torch.manual_seed(seed + processes.rank())
    device = cache.images.device
    model = CLIPModel(config).to(device).train()
    loop = Loop(model, steps, lr, weight_decay=0.05, minutes=minutes, name="clip",
                checkpoint=checkpoint)  # fmt: skip
    size = config.vision_config.image_size
    right = torch.stack([token_ids(tokenizer, [c[k] for c in captions])
                         for k in (0, 1)]).to(device)  # fmt: skip
    other = token_ids(tokenizer, wrong).to(device)
    features: Any = torch.compile(_features) if compiled else _features
    places = _Places(model, tokenizer, cache) if place_weight else None
    color = None if place_weight else _Colors(model, tokenizer, cache, features)
    while loop.running:
        rows = torch.randint(len(cache), (batch,), device=device)
        images = roughen(cache.images[rows].float() / 255)
        whole = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
        way = torch.randint(2, (batch,), device=device)
        scale = model.logit_scale.exp().clamp(max=100)
        with mixed(device):
            seen = features(model, whole)
            texts = _words(model, torch.cat([right[way, rows], other[rows]]))
            parts = {} if color is None else {"color": color(images, rows, scale, loop.step)}
            if places is not None:
                parts["place"] = place_weight * places(whole, rows, scale)
        parts |= _whole(seen, texts, scale)
        loop.update(torch.stack(list(parts.values())).sum(),
                    {name: value.detach() for name, value in parts.items()})  # fmt: skip
    loop.load_average()
    return model.eval(), loop
