"""Training what turns pictures into latents or tokens."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from impasto import files
from impasto.models import infinity, load_generator, var
from impasto.models.mmdit import PRESETS, MMDiTGenerator
from impasto.train import processes
from impasto.train.autoencoder import train_autoencoder
from impasto.train.infinity import scale_report, train_tokenizer
from impasto.train.kinds.common import FILE, numbers, pictures, save_plain
from impasto.train.loop import Loop
from impasto.train.recipe import Recipe, kind
from impasto.train.var import codebook_report, train_var_tokenizer
from impasto.zoo.weights import load_weights

__all__: list[str] = []


@kind("autoencoder", keys=("freeze_encoder", "initial"))
def _autoencoder(recipe: Recipe, device: torch.device, out: Path) -> Loop:
    cache, _, _ = pictures(recipe, device)
    torch.manual_seed(recipe.seed)
    model = PRESETS[recipe.preset]().build_vae()
    if recipe.initial:
        load_weights(model, Path(recipe.initial) / FILE)

    model, loop = train_autoencoder(model, cache, freeze_encoder=recipe.freeze_encoder,
                                    on_freeze=partial(save_plain, model, out),
                                    **numbers(recipe))  # fmt: skip
    save_plain(model, out)
    return loop


@kind("infinity-tokenizer", keys=("freeze_encoder", "drop_scales", "initial"))
def _infinity_tokenizer(recipe: Recipe, device: torch.device, out: Path) -> Loop:
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
    model, loop = train_tokenizer(model, cache, sizes, freeze_encoder=recipe.freeze_encoder,
                                  on_freeze=partial(save_plain, model, out),
                                  **({} if dropped is None else {"drop_scales": dropped}),
                                  **numbers(recipe))  # fmt: skip
    save_plain(model, out)
    if processes.first():
        files.write_json(out / "scales.json", scale_report(model, cache, sizes))
    return loop


@kind("var-tokenizer", keys=("freeze_encoder", "initial"))
def _var_tokenizer(recipe: Recipe, device: torch.device, out: Path) -> Loop:
    cache, _, _ = pictures(recipe, device)
    torch.manual_seed(recipe.seed)
    config = var.PRESETS[recipe.preset]()
    model = var.VARTokenizer(**asdict(config.tokenizer))
    if recipe.initial:
        load_weights(model, Path(recipe.initial) / FILE)
    loop = train_var_tokenizer(model, cache, config.sizes, freeze_encoder=recipe.freeze_encoder,
                               on_freeze=partial(save_plain, model, out),
                               **numbers(recipe))  # fmt: skip
    save_plain(model, out)
    if processes.first():
        files.write_json(out / "scales.json", codebook_report(model, cache, config.sizes))
    return loop
