"""Training what judges: detectors, CLIP, matching."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Mask2FormerForUniversalSegmentation

from impasto.models.mmdit import train_tokenizer as learn_words
from impasto.score.clip import clip_config
from impasto.score.detector import detector_config
from impasto.score.match import match_config, save_match
from impasto.score.voting import build_network
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.clip import train_clip
from impasto.train.kinds.common import FILE, numbers, pictures, save_plain
from impasto.train.loop import Loop
from impasto.train.mask2former import train_mask2former
from impasto.train.match import train_match
from impasto.train.recipe import Recipe, kind
from impasto.train.voting import train_voting
from impasto.zoo.weights import load_weights, without_bars

__all__: list[str] = []


@kind("mask2former", keys=("initial",))
def _mask2former(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    cache, _, _ = pictures(recipe, device)
    torch.manual_seed(recipe.seed)
    if recipe.initial:
        model = Mask2FormerForUniversalSegmentation.from_pretrained(
            recipe.initial, dtype=torch.float32
        )
    else:
        model = Mask2FormerForUniversalSegmentation(detector_config(recipe.preset))
    model, loop = train_mask2former(model, cache, **numbers(recipe, checkpoint))
    if processes.first():
        with without_bars():
            model.bfloat16().save_pretrained(out)
    return loop


@kind("detector", keys=("initial",))
def _detector(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    cache, _, _ = pictures(recipe, device)
    torch.manual_seed(recipe.seed)
    model = build_network(recipe.preset)
    if recipe.initial:
        load_weights(model, Path(recipe.initial) / FILE)
    model, loop = train_voting(model, cache, **numbers(recipe, checkpoint))
    save_plain(model, out)
    return loop


@kind("clip", presets=("sticker", "patches", "tiny"), keys=("place_weight",))
def _clip(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    cache, captions, wrong = pictures(recipe, device)
    words = [text for texts in captions for text in texts]
    tokenizer = processes.shared(learn_words(words))
    config = clip_config(recipe.preset, vocab_size=len(tokenizer))
    model, loop = train_clip(config, tokenizer, cache, captions, wrong,
                             place_weight=recipe.place_weight,
                             **numbers(recipe, checkpoint))  # fmt: skip
    if processes.first():
        with without_bars():
            model.bfloat16().save_pretrained(out)
        tokenizer.save_pretrained(out)
    return loop


@kind("match")
def _match(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    cache, captions, wrong = pictures(recipe, device)
    words = [text for texts in captions for text in texts[:2]]
    tokenizer = processes.shared(learn_words(words))
    config = match_config(recipe.preset, vocab_size=len(tokenizer))
    model, loop = train_match(config, tokenizer, cache, captions, wrong,
                              **numbers(recipe, checkpoint))  # fmt: skip
    if processes.first():
        save_match(model, tokenizer, out)
    return loop
