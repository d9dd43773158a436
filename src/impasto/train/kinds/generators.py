"""Training what draws, over a trained autoencoder or tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from impasto.models import dit, infinity, layton, tokenflow, var
from impasto.models.layton.loading import tokenizer_from
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
from impasto.train.data import PictureCache
from impasto.train.dit import cache_classes, train_dit
from impasto.train.generator import cache_latents, train_generator
from impasto.train.infinity import cache_features, train_infinity
from impasto.train.kinds.common import FILE, Captions, changed, numbers, one_start, pictures
from impasto.train.layton_gen import cache_ids, train_ids
from impasto.train.loop import Loop
from impasto.train.recipe import Recipe, kind
from impasto.train.tokenflow import cache_codes, cache_questions, train_drawing, train_reading
from impasto.train.var import cache_tokens, train_var
from impasto.world.scenes import SIZE
from impasto.zoo.registry import PATCHES
from impasto.zoo.weights import load_weights, lossless_format, shipped_folder

__all__ = ["features"]

SAVE_EVERY = 2000

def _begun(
    recipe: Recipe, device: torch.device, family: Any, new: Callable[[Recipe, Captions], Any]
) -> tuple[Any, PictureCache, list[tuple[str, ...]]]:
    """(generator on the device, pictures, two wordings of each caption): to go on from
    recipe.initial, or `new`."""
    one_start(recipe)
    cache, captions, _ = pictures(recipe, device)
    pipe = family.from_pretrained(recipe.initial) if recipe.initial else new(recipe, captions)
    return pipe.to(device), cache, [texts[:2] for texts in captions]


def _ended(
    recipe: Recipe, out: Path, pipe: Any, run: Callable[..., Loop], checkpoint: Checkpoint,
) -> Loop:  # fmt: skip
    """Run a generator's training, which is saved now and then, and at the end."""
    formats = dict.fromkeys(pipe.networks, "int8")
    if "vae" in formats:
        # It is not trained: its ids and latents stay those that everything else knows.
        formats["vae"] = lossless_format(pipe.vae.state_dict())

    def save() -> str:
        pipe.save_pretrained(out, formats)
        return str(out)

    loop = run(on_save=save, save_every=recipe.save_every or SAVE_EVERY,
               **numbers(recipe, checkpoint))  # fmt: skip
    if processes.first():
        save()
    return loop


def _words(captions: Captions) -> list[str]:
    return [text for texts in captions for text in texts[:2]]


# ---------------------------------------------------------------- latents


def _new_generator(recipe: Recipe, captions: Captions) -> MMDiTGenerator:
    """A generator with random weights over a trained autoencoder, its words learnt."""
    config = PRESETS[recipe.preset]()
    tokenizer = processes.shared(learn_words(_words(captions), max_tokens=config.max_tokens))
    torch.manual_seed(recipe.seed)
    pipe = MMDiTGenerator.from_config(config, tokenizer, recipe.seed)
    load_weights(pipe.vae, Path(str(recipe.autoencoder)) / FILE)
    return pipe


@kind("generator", keys=("autoencoder", "initial", "time_mean", "time_std", "save_every"))
def _generator(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    pipe, cache, texts = _begun(recipe, device, MMDiTGenerator, _new_generator)
    latents = cache_latents(pipe, cache, texts, keep_moments=recipe.initial is not None)
    del cache
    run = partial(train_generator, pipe, latents, time_mean=recipe.time_mean,
                  time_std=recipe.time_std)  # fmt: skip
    return _ended(recipe, out, pipe, run, checkpoint)


def _new_dit(recipe: Recipe, captions: Captions) -> dit.DiTGenerator:
    """Random weights over an autoencoder, trained or shipped; there are no words."""
    pipe = dit.DiTGenerator.from_config(dit.PRESETS[recipe.preset](), recipe.seed)
    name = str(recipe.autoencoder)
    folder = Path(name) if Path(name).is_dir() or "/" in name else shipped_folder(name) / "vae"
    load_weights(pipe.vae, folder / FILE)
    return pipe


@kind("dit", keys=("autoencoder", "initial", "save_every"))
def _dit(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    pipe, cache, _ = _begun(recipe, device, dit.DiTGenerator, _new_dit)
    latents = cache_classes(pipe, cache, keep_moments=recipe.initial is not None)
    del cache
    return _ended(recipe, out, pipe, partial(train_dit, pipe, latents), checkpoint)


# ---------------------------------------------------------------- scales


def _new_infinity(recipe: Recipe, captions: Captions) -> infinity.InfinityGenerator:
    """Random weights over a trained tokenizer, its words learnt."""
    config = infinity.PRESETS[recipe.preset]()
    tokenizer = processes.shared(learn_words(_words(captions), max_tokens=config.max_tokens))
    pipe = infinity.InfinityGenerator.from_config(config, tokenizer, recipe.seed)
    load_weights(pipe.vae, Path(str(recipe.autoencoder)) / FILE)
    return pipe


@kind("infinity", keys=("autoencoder", "initial", "flips", "save_every"))
def _infinity(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    pipe, cache, texts = _begun(recipe, device, infinity.InfinityGenerator, _new_infinity)
    features = cache_features(pipe, cache, texts)
    del cache
    run = partial(train_infinity, pipe, features, flips=recipe.flips)
    return _ended(recipe, out, pipe, run, checkpoint)


def _new_var(recipe: Recipe, captions: Captions) -> var.VARGenerator:
    """Random weights over a trained tokenizer; there are no words."""
    pipe = var.VARGenerator.from_config(var.PRESETS[recipe.preset](), recipe.seed)
    load_weights(pipe.vae, Path(str(recipe.autoencoder)) / FILE)
    return pipe


@kind("var", keys=("autoencoder", "initial", "save_every"))
def _var(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    pipe, cache, _ = _begun(recipe, device, var.VARGenerator, _new_var)
    tokens = cache_tokens(pipe, cache)
    del cache
    return _ended(recipe, out, pipe, partial(train_var, pipe, tokens), checkpoint)


def _new_tokenflow(recipe: Recipe, captions: Captions) -> tokenflow.TokenFlowGenerator:
    """Random weights over a trained tokenizer, whose codes and scales are taken over; its words
    learnt."""
    vae: Any = network_from(tokenflow.TokenFlowTokenizer, Path(str(recipe.autoencoder))).eval()
    config = changed(tokenflow.PRESETS[recipe.preset]().transformer, recipe)
    # Behind the learnt words come the three that mark a text and a picture.
    tokenizer = processes.shared(tokenflow.train_words(_words(captions),
                                                       config.text_vocabulary - 3))  # fmt: skip
    sizes = asdict(config) | {"vocabulary": vae.vocabulary, "channels": vae.channels,
                              "patches": tuple(side for side, _ in vae.scales)}  # fmt: skip
    torch.manual_seed(recipe.seed)
    transformer = initialise(tokenflow.TokenFlowTransformer(**sizes)).eval()
    return tokenflow.TokenFlowGenerator(transformer=transformer, vae=vae, tokenizer=tokenizer,
                                        defaults=tokenflow.Defaults())  # fmt: skip


@kind("tokenflow", keys=("autoencoder", "initial", "model", "save_every"))
def _tokenflow(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    pipe, cache, texts = _begun(recipe, device, tokenflow.TokenFlowGenerator, _new_tokenflow)
    codes = cache_codes(pipe, cache, texts)
    del cache
    return _ended(recipe, out, pipe, partial(train_drawing, pipe, codes), checkpoint)


# ---------------------------------------------------------------- one map


def _new_layton(recipe: Recipe, captions: Captions) -> layton.LaytonGenerator:
    """Random weights over a trained tokenizer of one map, whose codes and places are taken over;
    its words learnt."""
    vae, config = tokenizer_from(Path(str(recipe.autoencoder))), layton.GENERATORS[recipe.preset]()
    own = changed(config.transformer, recipe)
    pixels = getattr(vae, "image", SIZE)  # a plain codebook takes any size: the world's then
    ((side, _),) = vae.sizes_of(pixels, pixels)
    tokenizer = processes.shared(learn_words(_words(captions), max_tokens=own.text))
    config = replace(config, transformer=replace(own, vocabulary=vae.vocabulary, side=side))
    return layton.LaytonGenerator.from_config(config, vae, tokenizer, recipe.seed)


@kind("layton", keys=("autoencoder", "initial", "model", "save_every"))
def _layton(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    pipe, cache, texts = _begun(recipe, device, layton.LaytonGenerator, _new_layton)
    ids = cache_ids(pipe, cache, texts)
    del cache
    return _ended(recipe, out, pipe, partial(train_ids, pipe, ids), checkpoint)


# ---------------------------------------------------------------- what reads


@kind("reader", keys=("autoencoder", "features", "model"))
def _reader(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    """What reads a tokenizer's codes, or continuous features (`impasto ls patches`)."""
    seen = _features(recipe, device)
    cache = cache_questions(seen, recipe.scenes, recipe.data_seed, device,
                            workers=recipe.workers)  # fmt: skip
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
