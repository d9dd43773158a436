"""Training what draws, over a trained autoencoder or tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from impasto.models import infinity, var
from impasto.models.mmdit import PRESETS, MMDiTGenerator
from impasto.models.mmdit import train_tokenizer as learn_words
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.generator import cache_latents, train_generator
from impasto.train.infinity import cache_features, train_infinity
from impasto.train.kinds.common import FILE, Captions, numbers, one_start, pictures
from impasto.train.loop import Loop
from impasto.train.recipe import Recipe, kind
from impasto.train.var import cache_tokens, train_var
from impasto.zoo.weights import load_weights

__all__: list[str] = []


def _saving(pipe: Any, out: Path) -> Callable[[], str]:
    """What saves a generator, and says where."""
    def save() -> str:
        pipe.save_pretrained(out, "int8")
        return str(out)

    return save


def _new_generator(recipe: Recipe, captions: Captions) -> MMDiTGenerator:
    """A generator with random weights over a trained autoencoder, its words learnt."""
    config = PRESETS[recipe.preset]()
    words = [text for texts in captions for text in texts[:2]]
    tokenizer = processes.shared(learn_words(words, max_tokens=config.max_tokens))
    torch.manual_seed(recipe.seed)
    pipe = MMDiTGenerator.from_config(config, tokenizer, recipe.seed)
    load_weights(pipe.vae, Path(str(recipe.autoencoder)) / FILE)
    return pipe


@kind("generator", keys=("autoencoder", "initial", "time_mean", "time_std"))
def _generator(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    one_start(recipe)
    cache, captions, _ = pictures(recipe, device)
    if recipe.initial:
        pipe = MMDiTGenerator.from_pretrained(recipe.initial)
    else:
        pipe = _new_generator(recipe, captions)
    pipe.to(device)
    latents = cache_latents(pipe, cache, [texts[:2] for texts in captions],
                            keep_moments=recipe.initial is not None)  # fmt: skip
    del cache

    save = _saving(pipe, out)
    loop = train_generator(pipe, latents, on_save=save, save_every=2000,
                           time_mean=recipe.time_mean, time_std=recipe.time_std,
                           **numbers(recipe, checkpoint))  # fmt: skip
    if processes.first():
        save()
    return loop


def _new_infinity(recipe: Recipe, captions: Captions) -> infinity.InfinityGenerator:
    """Random weights over a trained tokenizer, its words learnt."""
    config = infinity.PRESETS[recipe.preset]()
    words = [text for texts in captions for text in texts[:2]]
    tokenizer = processes.shared(learn_words(words, max_tokens=config.max_tokens))
    pipe = infinity.InfinityGenerator.from_config(config, tokenizer, recipe.seed)
    load_weights(pipe.vae, Path(str(recipe.autoencoder)) / FILE)
    return pipe


@kind("infinity", keys=("autoencoder", "initial", "flips"))
def _infinity(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    one_start(recipe)
    cache, captions, _ = pictures(recipe, device)
    if recipe.initial:
        pipe = infinity.InfinityGenerator.from_pretrained(recipe.initial)
    else:
        pipe = _new_infinity(recipe, captions)
    pipe.to(device)
    features = cache_features(pipe, cache, [texts[:2] for texts in captions])
    del cache
    save = _saving(pipe, out)
    loop = train_infinity(pipe, features, on_save=save, save_every=2000, flips=recipe.flips,
                          **numbers(recipe, checkpoint))  # fmt: skip
    if processes.first():
        save()
    return loop


@kind("var", keys=("autoencoder", "initial"))
def _var(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    one_start(recipe)
    cache, _, _ = pictures(recipe, device)
    if recipe.initial:
        pipe = var.VARGenerator.from_pretrained(recipe.initial)
    else:
        pipe = var.VARGenerator.from_config(var.PRESETS[recipe.preset](), recipe.seed)
        load_weights(pipe.vae, Path(str(recipe.autoencoder)) / FILE)
    pipe.to(device)
    tokens = cache_tokens(pipe, cache)
    del cache
    save = _saving(pipe, out)
    loop = train_var(pipe, tokens, on_save=save, save_every=2000, **numbers(recipe, checkpoint))
    if processes.first():
        save()
    return loop
