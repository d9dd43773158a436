"""Train the matching network: pictures against their own caption, their twin's and another's.

A picture and its twin are a fact apart (`world.twins`). Per picture three captions:

    own      right                                                   of the batch's loss 1/2
    twin     wrong, but where the picture shows that one as well                      7/20
    other    of another scene with as many objects and coloured ones, wrong           3/20

by cross-entropy on the log-odds. Beside it, so that a small ViT learns to see in minutes, every
patch is asked what it shows, by heads that are not kept:

    loss = match + [class of 80 or nothing] + [colour] + |offset to the object's middle|_1 smooth

Some pictures are shrunk and enlarged again: the reward also looks at decoded coarse scales.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BlipConfig, BlipForImageTextRetrieval, PreTrainedTokenizerFast

from impasto.score.match import log_odds, marked_ids, patches
from impasto.spec import CLASSES, COLORS
from impasto.train import processes
from impasto.train.data import SLOTS, PictureCache
from impasto.train.loop import Loop
from impasto.train.rough import roughen

__all__ = ["Groups", "coarse", "patch_loss", "patch_targets", "train_match"]

SHARES = (0.5, 0.35, 0.15)
"""Of own, twin and other in the loss."""
NOTHING = len(CLASSES)
HUES = len(COLORS) + 1
"""Colours and natural."""
SIDES = (16, 24, 32, 48, 64)
COARSE = 0.35
"""Share of pictures that are shrunk to one of `SIDES`."""


def coarse(images: Tensor, share: float = COARSE) -> Tensor:
    """Pictures (B, 3, H, W), a share of them shrunk to one of `SIDES` and enlarged again."""
    side = SIDES[int(torch.randint(len(SIDES), ()))]
    small = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    large = F.interpolate(small, size=images.shape[-2:], mode="bicubic").clamp(0, 1)
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < share
    return torch.where(chosen, large, images)


class Groups:
    """Scenes with as many objects and as many coloured ones as each other."""

    def __init__(self, cache: PictureCache) -> None:
        there = cache.classes >= 0
        colored = there & (cache.colors < len(COLORS))
        key = there.sum(1) * (SLOTS + 1) + colored.sum(1)
        _, inverse, counts = key.unique(return_inverse=True, return_counts=True)
        self.order = inverse.argsort()
        self.count = counts[inverse]
        self.start = (counts.cumsum(0) - counts)[inverse]
        self.classes = cache.classes.sort(1).values

    def others(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """For each row a row of its group, and whether that shows other classes."""
        chance = torch.rand(len(rows), device=rows.device)
        at = self.start[rows] + (chance * self.count[rows]).long()
        found = self.order[at]
        return found, (self.classes[found] != self.classes[rows]).any(1)


def patch_targets(cache: PictureCache, rows: Tensor, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the middles of grid x grid patches show.

    class (B, P), `NOTHING` where there is no object; colour (B, P), -100 there; offset (B, P, 2)
    from the patch to the middle of the object's patches, x and y, in patches.
    """
    step = cache.owner.shape[-1] // grid
    owner = cache.owner[rows, step // 2 :: step, step // 2 :: step].flatten(1).long()
    empty, slot = owner == 0, (owner - 1).clamp_min(0)
    classes = cache.classes[rows].gather(1, slot).masked_fill(empty, NOTHING)
    colors = cache.colors[rows].gather(1, slot).masked_fill(empty, -100)
    y, x = torch.meshgrid(*[torch.arange(grid, device=rows.device).float()] * 2, indexing="ij")
    place = torch.stack([x.flatten(), y.flatten()], 1)
    mine = F.one_hot(owner, SLOTS + 1).float()
    middles = mine.transpose(1, 2) @ place / mine.sum(1).clamp_min(1)[..., None]
    offset = middles.gather(1, owner[..., None].expand(-1, -1, 2)) - place
    return classes, colors, offset


def patch_loss(logits: Tensor, targets: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The patches' loss. logits: (B, P, 80 + 1 + 11 + 2)."""
    classes, colors, offset = targets
    kinds, hues, to_middle = logits.float().split([NOTHING + 1, HUES, 2], -1)
    there = (classes != NOTHING).float()[..., None]
    apart = F.smooth_l1_loss(to_middle * there, offset * there, reduction="sum")
    return (F.cross_entropy(kinds.flatten(0, 1), classes.flatten())
            + F.cross_entropy(hues.flatten(0, 1), colors.flatten())
            + apart / there.sum().clamp_min(1) / 2)  # fmt: skip


def match_loss(odds: Tensor, shown: Tensor, known: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of log-odds (3, B) by own, twin's and other captions, and what to show of it.

    shown: (B,) whether the twin's caption holds too; known: (B,) whether the other's does not.
    hard: accuracy on twin's captions that are wrong. right: of a picture and its twin, rows 2k
    and 2k + 1, by the caption of one, the share in which that one is above the other.
    """
    truth = torch.stack([torch.ones_like(shown), shown, torch.zeros_like(shown)]).float()
    weight = torch.tensor(SHARES, device=odds.device)[:, None].repeat(1, odds.shape[1])
    weight[2] *= known
    each = F.binary_cross_entropy_with_logits(odds, truth, reduction="none")
    wrong = ~shown
    swapped = odds[1].view(-1, 2).flip(1).flatten()  # the twin's picture by this one's caption
    above = (odds[0] > swapped)[~shown.view(-1, 2).flip(1).flatten()]
    parts = {"hard": (odds[1] < 0)[wrong].float().mean(), "right": above.float().mean()}
    return (each * weight).sum() / weight.sum(), parts


def caption_ids(tokenizer: PreTrainedTokenizerFast, captions: Sequence[Sequence[str]]) -> Tensor:
    """(2, N, L): GenEval's wordings and the paraphrases; padding of all rows is cut off."""
    ids = torch.stack([marked_ids(tokenizer, [texts[k] for texts in captions]) for k in (0, 1)])
    return ids[..., : int((ids != tokenizer.pad_token_id).sum(-1).max())]


def _looks_and_odds(model: BlipForImageTextRetrieval, images: Tensor, ids: Tensor
                    ) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Patch states (B, P, D), and log-odds (k, B) of B pictures by ids (k, B, L)."""
    seen = patches(model, images)
    odds = log_odds(model, seen.repeat(len(ids), 1, 1), ids.flatten(0, 1))
    return seen[:, 1:], odds.view(len(ids), -1)


def train_match(
    config: BlipConfig, tokenizer: PreTrainedTokenizerFast, cache: PictureCache,
    captions: Sequence[Sequence[str]], wrong: Sequence[str], *,
    steps: int, batch: int, lr: float = 1e-3,
    minutes: float | None = None, compiled: bool = False, seed: int = 0,
) -> tuple[BlipForImageTextRetrieval, Loop]:  # fmt: skip
    """A matching network trained from scratch on twins, with moving-average weights.

    cache, captions, wrong: of `chunks(..., twins=True)`. Raises ValueError for an odd batch.
    """
    if batch % 2:
        raise ValueError(f"twins come in pairs: batch must be even, given {batch}")
    torch.manual_seed(seed + processes.rank())
    device = cache.images.device
    model = BlipForImageTextRetrieval(config).to(device).train()
    for unused in (model.vision_proj, model.text_proj):
        unused.requires_grad_(False)
    vision = config.vision_config
    grid = vision.image_size // vision.patch_size
    heads = nn.Linear(vision.hidden_size, NOTHING + 1 + HUES + 2).to(device)
    loop = Loop(nn.ModuleList([model, heads]), steps, lr, weight_decay=0.05, minutes=minutes,
                name="match")  # fmt: skip
    table = caption_ids(tokenizer, captions).to(device)
    shown = torch.tensor([not text for text in wrong], device=device)
    groups = Groups(cache)
    forward = torch.compile(_looks_and_odds) if compiled else _looks_and_odds
    while loop.running:
        first = torch.randint(len(cache) // 2, (batch // 2,), device=device) * 2
        rows = torch.stack([first, first + 1], 1).flatten()
        way = torch.randint(2, (batch // 2,), device=device).repeat_interleave(2)
        others, known = groups.others(rows)
        ids = torch.stack([table[way, rows], table[way, rows ^ 1], table[way, others]])
        images = roughen(coarse(cache.images[rows].float() / 255))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
            seen, odds = forward(model, images, ids)
            logits = heads(seen)
        matched, parts = match_loss(odds, shown[rows], known)
        patch = patch_loss(logits, patch_targets(cache, rows, grid))
        loop.update(matched + patch, {"match": matched.detach(), "patch": patch.detach(), **parts})
    loop.load_average()
    return model.eval(), loop
