"""Training what draws, over a trained autoencoder or tokenizer."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from impasto.models import infinity, tokenflow, var
from impasto.models.mmdit import PRESETS, MMDiTGenerator
from impasto.models.mmdit import train_tokenizer as learn_words
from impasto.models.storage import network_from
from impasto.models.tokenflow import reader
from impasto.models.tokenflow.config import READERS
from impasto.models.tokenflow.initialise import initialise
from impasto.models.tokenflow.reader_folder import save_reader
from impasto.score import features  # registers patch features
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.generator import cache_latents, train_generator
from impasto.train.infinity import cache_features, train_infinity
from impasto.train.kinds.common import FILE, Captions, changed, numbers, one_start, pictures
from impasto.train.loop import Loop
from impasto.train.recipe import Recipe, kind
from impasto.train.tokenflow import cache_codes, cache_questions, train_drawing, train_reading
from impasto.train.var import cache_tokens, train_var
from impasto.zoo.registry import PATCHES
from impasto.zoo.weights import load_weights

__all__ = ["features"]


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


@kind("tokenflow", keys=("autoencoder", "initial", "model", "save_every"))
def _tokenflow(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    one_start(recipe)
    cache, captions, _ = pictures(recipe, device)
    if recipe.initial:
        pipe = tokenflow.TokenFlowGenerator.from_pretrained(recipe.initial)
    else:
        pipe = _new_tokenflow(recipe, captions)
    pipe.to(device)
    codes = cache_codes(pipe, cache, [texts[:2] for texts in captions])
    del cache
    save = _saving(pipe, out)
    loop = train_drawing(pipe, codes, on_save=save, save_every=recipe.save_every or 2000,
                         **numbers(recipe, checkpoint))  # fmt: skip
    if processes.first():
        save()
    return loop


def _new_tokenflow(recipe: Recipe, captions: Captions) -> tokenflow.TokenFlowGenerator:
    """Random weights over a trained tokenizer, whose codes and scales are taken over; its words
    learnt."""
    vae: Any = network_from(tokenflow.TokenFlowTokenizer, Path(str(recipe.autoencoder))).eval()
    config = changed(tokenflow.PRESETS[recipe.preset]().transformer, recipe)
    words = [text for texts in captions for text in texts[:2]]
    # Behind the learnt words come the three that mark a text and a picture.
    tokenizer = processes.shared(tokenflow.train_words(words, config.text_vocabulary - 3))
    sizes = asdict(config) | {"vocabulary": vae.vocabulary, "channels": vae.channels,
                              "patches": tuple(side for side, _ in vae.scales)}  # fmt: skip
    torch.manual_seed(recipe.seed)
    transformer = initialise(tokenflow.TokenFlowTransformer(**sizes)).eval()
    return tokenflow.TokenFlowGenerator(transformer=transformer, vae=vae, tokenizer=tokenizer,
                                        defaults=tokenflow.Defaults())  # fmt: skip


@kind("reader", keys=("autoencoder", "features", "model"))
def _reader(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    """What reads a tokenizer's codes, or continuous features (`impasto ls patches`)."""
    seen = _features(recipe, device)
    workers = recipe.workers or max(1, os.cpu_count() or 1)
    cache = cache_questions(seen, recipe.scenes, recipe.data_seed, device, workers=workers)
    words = [text for asked in cache.asked for pair in asked for text in pair]
    tokenizer = processes.shared(tokenflow.train_words([*words, "question:", "answer:"]))
    config = changed(READERS[recipe.preset](), recipe)
    config = replace(config, channels=cache.features.shape[2])
    network = reader.ReaderNetwork.from_config(config, recipe.seed).to(device)
    made = reader.Reader(network, seen, tokenizer, chat=config.chat)
    loop = train_reading(made, cache, **numbers(recipe, checkpoint))
    if processes.first():
        save_reader(made, out, "int8")
    return loop


def _features(recipe: Recipe, device: torch.device) -> Any:
    """Raises ValueError unless the recipe names one thing to read."""
    if (recipe.autoencoder is None) == (recipe.features is None):
        raise ValueError(f"a reader's recipe must name either a tokenizer's folder in autoencoder "
                         f"or patch features in features; given autoencoder "
                         f"{recipe.autoencoder!r}, features {recipe.features!r}")  # fmt: skip
    if recipe.features is not None:
        return PATCHES.create(recipe.features, device=str(device))
    vae: Any = network_from(tokenflow.TokenFlowTokenizer, Path(str(recipe.autoencoder)))
    return reader.CodeFeatures(vae.eval().to(device))
