"""Training Layton's tokenizer: four kinds, each on the folder that the one before left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models import UNet2DConditionModel

from impasto.models import load_generator
from impasto.models.layton import TOKENIZERS, LaytonTokenizer
from impasto.models.mmdit import MMDiTGenerator
from impasto.models.storage import network_from
from impasto.models.vq import VQTokenizer
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.kinds.common import numbers, pictures
from impasto.train.layton import (
    PixelObjective,
    cache_ids,
    cache_latents,
    train_accelerator,
    train_alignment,
    train_base,
    train_pixels,
)
from impasto.train.loop import Loop
from impasto.train.recipe import Recipe, kind
from impasto.zoo.weights import shipped_folder

__all__: list[str] = []


def _save(tokenizer: LaytonTokenizer, out: Path) -> None:
    if processes.first():
        tokenizer.save_parts(out, "bfloat16")


def _initial(recipe: Recipe, device: torch.device) -> LaytonTokenizer:
    """What the step before left. Raises ValueError where the recipe does not say."""
    if recipe.initial is None:
        raise ValueError(f"{recipe.kind} goes on from a Layton tokenizer: name its folder in "
                         f"initial; recipes/layton/sticker.yaml has all steps")  # fmt: skip
    tokenizer: Any = network_from(LaytonTokenizer, Path(recipe.initial))
    return tokenizer.to(device)


def _autoencoder(name: str | None) -> MMDiTGenerator:
    """The generator whose latents are learnt. Raises ValueError for what is none."""
    if name is not None and not Path(name).is_dir() and "/" not in name:
        name = str(shipped_folder(name))
    found = None if name is None else load_generator(name)
    if not isinstance(found, MMDiTGenerator):
        raise ValueError(f"layton-base needs the latents of an mmdit generator, with their "
                         f"moments: name it in autoencoder, such as sticker-mmdit; given "
                         f"{name!r}")  # fmt: skip
    return found


def _front(recipe: Recipe) -> VQTokenizer:
    if recipe.front is None:
        raise ValueError(f"{recipe.kind} needs a trained tokenizer of one codebook: name the "
                         f"folder that kind vq-tokenizer made in front")  # fmt: skip
    front: Any = network_from(VQTokenizer, Path(recipe.front))
    return front


@kind("layton-base", keys=("autoencoder", "min_snr"))
def _base(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    """Base and accelerator know no codes: their folder's front has random weights."""
    config, source = TOKENIZERS[recipe.preset](), _autoencoder(recipe.autoencoder)
    torch.manual_seed(recipe.seed)
    unet = UNet2DConditionModel(**config.unet)
    given: dict[str, Any] = {"vq": VQTokenizer(**config.vq), "vae": source.vae,
                             "latent_mean": source.defaults.latent_mean,
                             "latent_std": source.defaults.latent_std}  # fmt: skip
    made = LaytonTokenizer.assemble(config, unet=unet, **given).to(device)
    cache, _, _ = pictures(recipe, device)
    latents = cache_latents(made, cache)
    del cache
    loop = train_base(unet.to(device), latents, image=made.image, min_snr=recipe.min_snr,
                      **numbers(recipe, checkpoint))  # fmt: skip
    _save(LaytonTokenizer.assemble(config, unet=unet, **given), out)
    return loop


@kind("layton-accelerator", keys=("initial",))
def _accelerator(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    made = _initial(recipe, device)
    cache, _, _ = pictures(recipe, device)
    latents = cache_latents(made, cache)
    del cache
    loop = train_accelerator(made, latents, **numbers(recipe, checkpoint))
    _save(made, out)
    return loop


def _sides(recipe: Recipe, made: LaytonTokenizer) -> Sequence[int]:
    return recipe.sides or (made.tokens_side,)


@kind("layton-alignment", keys=("initial", "front", "sides", "min_snr"))
def _alignment(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    made = _initial(recipe, device)
    made.take_front(_front(recipe))
    cache, _, _ = pictures(recipe, device)
    latents, ids = cache_latents(made, cache), cache_ids(made, cache, _sides(recipe, made))
    del cache
    loop = train_alignment(made, latents, ids, min_snr=recipe.min_snr,
                           **numbers(recipe, checkpoint))  # fmt: skip
    _save(made, out)
    return loop


@kind("layton-pixels", keys=("initial", "sides", "pixels"))
def _pixels(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    objective, made = PixelObjective.from_dict(recipe.pixels), _initial(recipe, device)
    cache, _, _ = pictures(recipe, device)
    ids = cache_ids(made, cache, _sides(recipe, made))
    loop = train_pixels(made, cache, ids, objective, **numbers(recipe, checkpoint))
    made.record(objective.decodings[-1])
    _save(made, out)
    return loop
