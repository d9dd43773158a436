"""Training what turns pictures into latents or tokens."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin

from impasto import files
from impasto.models import infinity, load_generator, tokenflow, var, vq
from impasto.models.mmdit import PRESETS, MMDiTGenerator
from impasto.models.next_scale.maps import Sizes
from impasto.train import processes
from impasto.train.autoencoder import train_autoencoder
from impasto.train.checkpoint import Checkpoint
from impasto.train.codebooks import clip_teacher, start_from_teacher, train_tokenflow, train_vq
from impasto.train.infinity import scale_report, train_tokenizer
from impasto.train.kinds.common import FILE, changed, numbers, pictures, save_plain, unseen
from impasto.train.loop import Loop
from impasto.train.next_scale import codebook_report
from impasto.train.recipe import Recipe, kind
from impasto.train.tokenizers import Objective, cached
from impasto.train.var import train_var_tokenizer
from impasto.zoo.weights import load_weights

__all__: list[str] = []

SHARED = ("objective", "save_every")


def _learning(
    recipe: Recipe, model: ModelMixin, out: Path, checkpoint: Checkpoint
) -> dict[str, Any]:
    """What all tokenizers' trainings are given."""
    def save() -> str:
        save_plain(model, out)
        return str(out)

    return {"freeze_encoder": recipe.freeze_encoder, "on_freeze": save, "on_save": save,
            "save_every": recipe.save_every,
            "objective": Objective.from_dict(recipe.objective),
            **numbers(recipe, checkpoint)}  # fmt: skip


def _report(model: Any, sizes: Sizes, vocabulary: int, device: torch.device, out: Path) -> None:
    """OUT/scales.json: the use of the codebook over scenes that the training had not."""
    if not processes.first():
        return
    size = tuple(side * model.stride for side in sizes[-1])
    images = cached(unseen(device), size)(slice(None))
    files.write_json(out / "scales.json", codebook_report(model, images, sizes, vocabulary))


@kind("autoencoder", keys=("freeze_encoder", "initial", *SHARED))
def _autoencoder(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    cache, _, _ = pictures(recipe, device)
    torch.manual_seed(recipe.seed)
    model = PRESETS[recipe.preset]().build_vae()
    if recipe.initial:
        load_weights(model, Path(recipe.initial) / FILE)
    model, loop = train_autoencoder(model, cache, **_learning(recipe, model, out, checkpoint))
    save_plain(model, out)
    return loop


@kind("infinity-tokenizer", keys=("freeze_encoder", "drop_scales", "initial", *SHARED))
def _infinity_tokenizer(
    recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint
) -> Loop:
    cache, _, _ = pictures(recipe, device)
    torch.manual_seed(recipe.seed)
    config = infinity.PRESETS[recipe.preset]()
    model = infinity.InfinityTokenizer(**asdict(config.tokenizer))
    if recipe.initial and (Path(recipe.initial) / FILE).is_file():
        load_weights(model, Path(recipe.initial) / FILE)
    elif recipe.initial:
        other = load_generator(recipe.initial)
        if isinstance(other, infinity.InfinityGenerator):
            model = infinity.from_tokenizer(model, other.vae)
        elif isinstance(other, MMDiTGenerator):
            moments = (other.defaults.latent_mean, other.defaults.latent_std)
            model = infinity.from_autoencoder(model, other.vae, *map(torch.tensor, moments))
        else:
            raise ValueError(f"initial {recipe.initial!r} has no tokenizer that this one can "
                             f"start from; allowed: an infinity or an mmdit model")  # fmt: skip
    sizes, dropped = config.schedule.sizes, recipe.drop_scales
    model, loop = train_tokenizer(model, cache, sizes, **_learning(recipe, model, out, checkpoint),
                                  **({} if dropped is None else {"drop_scales": dropped})
                                  )  # fmt: skip
    save_plain(model, out)
    if processes.first():
        files.write_json(out / "scales.json", scale_report(model, cache, sizes))
    return loop


@kind("var-tokenizer", keys=("freeze_encoder", "initial", *SHARED))
def _var_tokenizer(
    recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint
) -> Loop:
    cache, _, _ = pictures(recipe, device)
    torch.manual_seed(recipe.seed)
    config = var.PRESETS[recipe.preset]()
    model = var.VARTokenizer(**asdict(config.tokenizer))
    if recipe.initial:
        load_weights(model, Path(recipe.initial) / FILE)
    loop = train_var_tokenizer(model, cache, config.sizes,
                               **_learning(recipe, model, out, checkpoint))  # fmt: skip
    save_plain(model, out)
    _report(model, config.sizes, config.tokenizer.vocabulary, device, out)
    return loop


@kind("vq-tokenizer", presets=("sticker", "sticker-fsq", "tiny"),
      keys=("freeze_encoder", "initial", "model", "sides", *SHARED))  # fmt: skip
def _vq_tokenizer(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    torch.manual_seed(recipe.seed)
    model = vq.VQTokenizer(**asdict(changed(vq.PRESETS[recipe.preset](), recipe)))
    for side in recipe.sides:
        model.sizes_of(side, side)
    cache, _, _ = pictures(recipe, device)
    if recipe.initial:
        load_weights(model, Path(recipe.initial) / FILE)
    loop = train_vq(model, cache, sides=recipe.sides,
                    **_learning(recipe, model, out, checkpoint))  # fmt: skip
    save_plain(model, out)
    side = max(recipe.sides, default=cache.images.shape[-1])
    _report(model, model.sizes_of(side, side), model.vocabulary, device, out)
    return loop


@kind("tokenflow-tokenizer",
      keys=("freeze_encoder", "initial", "teacher", "start", "model", *SHARED))  # fmt: skip
def _tokenflow_tokenizer(
    recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint
) -> Loop:
    """A decoder is fine-tuned alone with initial, freeze_encoder: 0 and no teacher."""
    if recipe.teacher is None and not (recipe.initial and recipe.freeze_encoder == 0):
        raise ValueError("tokenflow's tokenizer needs a teacher: the folder that "
                         "recipes/sticker/tokenflow-teacher.yaml made; without one only a decoder "
                         "can be trained further (initial, freeze_encoder: 0)")  # fmt: skip
    torch.manual_seed(recipe.seed)
    config = changed(tokenflow.TOKENIZERS[recipe.preset](), recipe)
    model = tokenflow.TokenFlowTokenizer(**asdict(config))
    teacher = None if recipe.teacher is None else clip_teacher(recipe.teacher, model)
    if recipe.initial:
        load_weights(model, Path(recipe.initial) / FILE)
    elif teacher is not None and recipe.start:
        start_from_teacher(model, teacher)
    cache, _, _ = pictures(recipe, device)
    loop = train_tokenflow(model, teacher, cache, **_learning(recipe, model, out, checkpoint))
    save_plain(model, out)
    _report(model, model.scales, model.vocabulary, device, out)
    return loop
