"""Train the matching network: pictures against their own caption, their twin's and another's.

A picture and its twin are a fact apart (`world.twins`). Per picture three captions:

    own      right                                                   of the batch's loss 1/2
    twin     wrong, but where the picture shows that one as well                      7/20
    other    of another scene with as many objects and coloured ones, wrong           3/20

by cross-entropy on the log-odds. One bit a caption says little of where a picture went wrong, so
two further questions, by heads that are not kept, are asked of what lies between:

    patch   of the ViT's patches: class or nothing, colour, offset to the object's middle
    word    of the nouns, before the text encoder's last layer: how many of this class there are
            in the picture, in which colour and where (as MDETR grounds words; Kamath et al. 2021)

    loss = match + patch + word

Pictures are made worse (`train.rough`): the reward looks at generated ones, also at coarse scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BlipConfig, BlipForImageTextRetrieval, PreTrainedTokenizerFast

from impasto.score.match import marked_ids, matched, patches
from impasto.spec import CLASSES, COLORS, plural
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.data import SLOTS, PictureCache
from impasto.train.loop import Loop, mixed
from impasto.train.rough import coarse, roughen, warped
from impasto.world.words import english_plural

__all__ = ["Groups", "match_loss", "noun_classes", "patch_loss", "patch_targets",
           "train_match", "word_loss", "word_targets"]  # fmt: skip

SHARES = (0.5, 0.35, 0.15)
"""Of own, twin and other in the loss."""
NOTHING = len(CLASSES)
HUES = len(COLORS) + 1
"""Colours and natural."""


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


class Shown(NamedTuple):
    """What pictures show at the middles of their P = grid x grid patches, of K objects.

    owner: (B, P) 1 + slot, 0 where there is no object. classes, colors: (B, K). middles: (B, K, 2)
    of the objects' patches, x and y, in patches from the picture's corner.
    """

    owner: Tensor
    classes: Tensor
    colors: Tensor
    middles: Tensor
    grid: int


def shown_by(cache: PictureCache, rows: Tensor, grid: int) -> Shown:
    """What the cache knows of some rows, at grid x grid patches."""
    step = cache.owner.shape[-1] // grid
    owner = cache.owner[rows, step // 2 :: step, step // 2 :: step].flatten(1).long()
    mine = F.one_hot(owner, SLOTS + 1).float()[..., 1:]
    place = places(grid, rows.device)
    middles = mine.transpose(1, 2) @ place / mine.sum(1).clamp_min(1)[..., None]
    return Shown(owner, cache.classes[rows], cache.colors[rows], middles, grid)


def places(grid: int, device: torch.device) -> Tensor:
    """(P, 2) middles of patches, x and y, in patches."""
    steps = torch.arange(grid, device=device) + 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def patch_targets(shown: Shown) -> tuple[Tensor, Tensor, Tensor]:
    """What each patch shows.

    class (B, P), `NOTHING` where there is no object; colour (B, P), -100 there; offset (B, P, 2)
    from the patch to the object's middle.
    """
    empty, slot = shown.owner == 0, (shown.owner - 1).clamp_min(0)
    classes = shown.classes.gather(1, slot).masked_fill(empty, NOTHING)
    colors = shown.colors.gather(1, slot).masked_fill(empty, -100)
    middles = shown.middles.gather(1, slot[..., None].expand(-1, -1, 2))
    return classes, colors, middles - places(shown.grid, slot.device)


def word_targets(shown: Shown, nouns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the picture says of each noun. nouns: (k, B, L) class, -1 for other words.

    how many of the class (k, B, L), -100 for other words; colour, -100 where there is none or
    they differ; where (k, B, L, 2), the mean of their middles, -1 to 1, 0 where there is none.
    """
    match = (shown.classes[:, None] == nouns[..., None]) & (nouns >= 0)[..., None]
    count, match = match.sum(-1), match.float()
    hues = shown.colors[:, None].float()
    color = (match * hues).sum(-1) / count.clamp_min(1)
    spread = (match * (hues - color[..., None]).abs()).sum(-1)
    color = color.round().long().masked_fill((count == 0) | (spread > 0), -100)
    half = shown.grid / 2
    where = match @ (shown.middles / half - 1)[None] / count.clamp_min(1)[..., None]
    return count.masked_fill(nouns < 0, -100), color, where


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over targets that are not -100; 0 without any."""
    total = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum")
    return total / (targets != -100).sum().clamp_min(1)


def _answers_loss(logits: Tensor, kinds: Tensor, colors: Tensor, places: Tensor, there: Tensor
                  ) -> Tensor:  # fmt: skip
    """Of logits (..., kinds + 11 + 2): cross-entropies, and a smooth L1 where `there`."""
    kind, hue, place = logits.float().split([logits.shape[-1] - HUES - 2, HUES, 2], -1)
    there = there.float()[..., None]
    apart = F.smooth_l1_loss(place * there, places * there, reduction="sum")
    return (_cross_entropy(kind, kinds) + _cross_entropy(hue, colors)
            + apart / there.sum().clamp_min(1))  # fmt: skip


def patch_loss(logits: Tensor, shown: Shown) -> Tensor:
    """The patches' loss. logits: (B, P, 80 + 1 + 11 + 2)."""
    classes, colors, offset = patch_targets(shown)
    return _answers_loss(logits, classes, colors, offset, classes != NOTHING)


def word_loss(logits: Tensor, shown: Shown, nouns: Tensor) -> Tensor:
    """The nouns' loss. logits: (k, B, L, 9 + 11 + 2); nouns: (k, B, L)."""
    count, color, where = word_targets(shown, nouns)
    return _answers_loss(logits, count, color, where, count > 0)


def _share(good: Tensor, of: Tensor) -> Tensor:
    """The share of `of` that is good; both (B,) bool."""
    return (good & of).sum() / of.sum().clamp_min(1)


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
    swapped = odds[1].view(-1, 2).flip(1).flatten()  # the twin's picture by this one's caption
    apart = ~shown.view(-1, 2).flip(1).flatten()
    parts = {"hard": _share(odds[1] < 0, ~shown), "right": _share(odds[0] > swapped, apart)}
    return (each * weight).sum() / weight.sum(), parts


def caption_ids(tokenizer: PreTrainedTokenizerFast, captions: Sequence[Sequence[str]]) -> Tensor:
    """(2, N, L): GenEval's wordings and the paraphrases; padding of all rows is cut off."""
    ids = torch.stack([marked_ids(tokenizer, [texts[k] for texts in captions]) for k in (0, 1)])
    return ids[..., : int((ids != tokenizer.pad_token_id).sum(-1).max())]


def noun_classes(tokenizer: PreTrainedTokenizerFast, table: Tensor, cache: PictureCache
                 ) -> Tensor:  # fmt: skip
    """(2, N, L) class that a caption's token ends the name of, -1 for other tokens.

    table: `caption_ids`. Names of classes that the caption's own scene does not have are not
    taken for them: "orange" is a colour too.
    """
    out = torch.full_like(table, -1)
    names = {form: i for i, name in enumerate(CLASSES)
             for form in (name, plural(name), english_plural(name))}  # fmt: skip
    forms = {tuple(ids[:-1]): names[form]
             for form, ids in zip(names, tokenizer(list(names)).input_ids, strict=True)}
    for ids, i in sorted(forms.items(), key=lambda one: len(one[0])):  # longer names last
        width = table.shape[-1] - len(ids) + 1
        if width < 1:
            break
        found = torch.stack([table[..., k : k + width] == x for k, x in enumerate(ids)]).all(0)
        found &= (cache.classes == i).any(1)[:, None]
        for k in range(len(ids)):
            out[..., k : k + width][found] = i if k == len(ids) - 1 else -1
    return out


class Heads(nn.Module):
    """What patches and words are asked by; not kept."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.patch = nn.Linear(config.vision_config.hidden_size, NOTHING + 1 + HUES + 2)
        self.word = nn.Linear(config.text_config.hidden_size, SLOTS + 1 + HUES + 2)


def _forward(model: BlipForImageTextRetrieval, heads: Heads, images: Tensor, ids: Tensor
             ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Log-odds (k, B) of B pictures by ids (k, B, L), and what their patches and words answer."""
    seen = patches(model, images)
    odds, before = matched(model, seen.repeat(len(ids), 1, 1), ids.flatten(0, 1))
    return (odds.view(len(ids), -1), heads.patch(seen[:, 1:]),
            heads.word(before).unflatten(0, ids.shape[:2]))  # fmt: skip


def train_match(
    config: BlipConfig, tokenizer: PreTrainedTokenizerFast, cache: PictureCache,
    captions: Sequence[Sequence[str]], wrong: Sequence[str], *,
    steps: int, batch: int, lr: float = 1e-3,
    minutes: float | None = None, compiled: bool = False, seed: int = 0,
    checkpoint: Checkpoint | None = None,
) -> tuple[BlipForImageTextRetrieval, Loop]:  # fmt: skip
    """A matching network trained from scratch on twins, with moving-average weights.

    cache, captions, wrong: of `chunks(..., twins=True)`. Raises ValueError for an odd batch.
    """
    if batch % 2:
        raise ValueError(f"twins come in pairs: batch must be even, given {batch}")
    torch.manual_seed(seed + processes.rank())
    device = cache.images.device
    model, heads = BlipForImageTextRetrieval(config).to(device).train(), Heads(config).to(device)
    for unused in (model.vision_proj, model.text_proj):
        unused.requires_grad_(False)
    loop = Loop(nn.ModuleList([model, heads]), steps, lr, weight_decay=0.05, minutes=minutes,
                name="match", checkpoint=checkpoint)  # fmt: skip
    grid = config.vision_config.image_size // config.vision_config.patch_size
    table = caption_ids(tokenizer, captions).to(device)
    nouns = noun_classes(tokenizer, table, cache)
    both = torch.tensor([not text for text in wrong], device=device)
    groups = Groups(cache)
    forward = torch.compile(_forward) if compiled else _forward
    while loop.running:
        first = torch.randint(len(cache) // 2, (batch // 2,), device=device) * 2
        rows = torch.stack([first, first + 1], 1).flatten()
        way = torch.randint(2, (batch // 2,), device=device).repeat_interleave(2)
        others, known = groups.others(rows)
        of = torch.stack([rows, rows ^ 1, others])
        images = roughen(coarse(warped(cache.images[rows].float() / 255)))
        with mixed(device):
            odds, patch_says, word_says = forward(model, heads, images, table[way, of])
        shown = shown_by(cache, rows, grid)
        match, parts = match_loss(odds, both[rows], known)
        patch = patch_loss(patch_says, shown)
        word = word_loss(word_says, shown, nouns[way, of])
        told = {"match": match, "patch": patch, "word": word} | parts
        loop.update(match + patch + word, {name: part.detach() for name, part in told.items()})
    loop.load_average()
    return model.eval(), loop
