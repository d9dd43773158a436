"""What all kinds of training share: scenes on the device, a recipe's numbers, files."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin

from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.data import (
    CHUNK,
    TASK_WEIGHTS,
    PictureCache,
    cache_pictures,
    chunks,
    split_of,
)
from impasto.train.recipe import Recipe, check_keys
from impasto.world import Renderer, Sprites
from impasto.zoo.weights import save_weights

__all__ = ["FILE", "Captions", "changed", "numbers", "one_start", "pictures", "save_plain",
           "unseen"]  # fmt: skip

FILE = "diffusion_pytorch_model.safetensors"
UNSEEN_SEED = 4040
Captions = list[tuple[str, str, str]]
Config = TypeVar("Config")


def pictures(recipe: Recipe, device: torch.device) -> tuple[Any, Captions, list[str]]:
    begun, many = time.monotonic(), processes.count()
    if many > 1 and (recipe.scenes % (many * CHUNK) or recipe.batch % many):
        raise ValueError(f"{many} processes cannot share {recipe.scenes} scenes and a batch of "
                         f"{recipe.batch} evenly: scenes must be a multiple of {many * CHUNK}, "
                         f"batch of {many}")  # fmt: skip
    weights, share = TASK_WEIGHTS | dict(recipe.weights), recipe.scenes // many
    source = chunks(share, recipe.data_seed, weights, split=split_of(recipe.split),
                    workers=recipe.workers, start=share * processes.rank(),
                    twins=recipe.kind == "match")  # fmt: skip
    out = cache_pictures(source, share, device, Renderer(Sprites.load(), device))
    print(f"{share} scenes in {time.monotonic() - begun:.0f} s", flush=True)
    return out


def numbers(recipe: Recipe, checkpoint: Checkpoint) -> dict[str, Any]:
    batch = recipe.batch // processes.count()
    return {"steps": recipe.steps, "batch": batch, "lr": recipe.lr, "seed": recipe.seed,
            "minutes": recipe.minutes, "compiled": recipe.compiled,
            "checkpoint": checkpoint}  # fmt: skip


def changed(config: Config, recipe: Recipe) -> Config:
    """A preset with the recipe's `model`. Raises ValueError for an unknown key."""
    check_keys(config, recipe.model, "model")
    values = {key: tuple(value) if isinstance(value, list) else value
              for key, value in recipe.model.items()}  # fmt: skip
    return replace(config, **values)  # type: ignore[type-var]


def unseen(device: torch.device) -> PictureCache:
    """Scenes of a seed that no recipe has: to measure by."""
    source = chunks(CHUNK, UNSEEN_SEED, workers=1)
    return cache_pictures(source, CHUNK, device, Renderer(Sprites.load(), device))[0]


def save_plain(model: ModelMixin, out: Path) -> None:
    """A diffusers network as its config and one file of weights."""
    if processes.first():
        model.save_config(out)
        save_weights(out / FILE, model.state_dict(), "bfloat16")


def one_start(recipe: Recipe) -> None:
    """Raises ValueError unless the recipe names one thing to start from."""
    if (recipe.autoencoder is None) == (recipe.initial is None):
        raise ValueError(f"a generator's recipe must name either a trained autoencoder's folder "
                         f"or, in initial, that of a generator to go on from; given autoencoder "
                         f"{recipe.autoencoder!r}, initial {recipe.initial!r}")  # fmt: skip
