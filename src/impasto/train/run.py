"""`impasto train RECIPE`: one YAML file, one model folder.

A recipe names what to train and its numbers; anything can be overridden by key=value. What was
run, with the steps that came out, is written to the model's folder as `training.json`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import ModelMixin
from transformers import Mask2FormerForUniversalSegmentation

from impasto import files
from impasto.models import infinity, load_generator, var
from impasto.models.mmdit import PRESETS, MMDiTGenerator
from impasto.models.mmdit import train_tokenizer as learn_words
from impasto.score.clip import clip_config
from impasto.score.detector import detector_config
from impasto.score.match import match_config, save_match
from impasto.score.voting import build_network
from impasto.train import processes
from impasto.train.autoencoder import train_autoencoder
from impasto.train.clip import train_clip
from impasto.train.data import CHUNK, TASK_WEIGHTS, cache_pictures, chunks, split_of
from impasto.train.generator import cache_latents, train_generator
from impasto.train.infinity import cache_features, scale_report, train_infinity, train_tokenizer
from impasto.train.loop import Loop
from impasto.train.mask2former import train_mask2former
from impasto.train.match import train_match
from impasto.train.var import cache_tokens, codebook_report, train_var, train_var_tokenizer
from impasto.train.voting import train_voting
from impasto.world import Renderer, Sprites
from impasto.zoo.cards import write_card
from impasto.zoo.registry import nearest
from impasto.zoo.weights import load_weights, save_weights, without_bars

__all__ = ["Recipe", "load_recipe", "run_recipe"]

VAE_FILE = "diffusion_pytorch_model.safetensors"
Captions = list[tuple[str, str, str]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """kind: what to train. scenes: how many are drawn (a multiple of 1,000), from `data_seed`.
    Scenes and batch are shared out evenly where several processes train.

    preset: size of the network, "sticker" or "tiny". minutes: train for a time instead of
    `steps`. split: "train" leaves out held-out combinations and the evaluation's meanings, "all"
    leaves nothing out (scorers judge everything). autoencoder: folder of a trained one, for the
    generator; of a trained tokenizer, for infinity and var. initial: folder of weights to start
    from (detector, autoencoder, tokenizer, generator, infinity and var: with all that belongs to
    them); infinity's tokenizer may start from an mmdit generator, whose autoencoder it takes, or
    from an infinity generator, whose bits it takes.
    freeze_encoder: share of an autoencoder's or a tokenizer's training after which only its
    decoder learns. drop_scales: share of the steps in which infinity's tokenizer decodes fewer
    scales than all, default `train.infinity.DROP_SCALES`. workers: processes that lay out scenes,
    default one per core. weights: of tasks, over those of `train.data.TASK_WEIGHTS`, such as
    {single_object: 2.0}. time_mean, time_std: of the logit-normal times that a generator is shown.
    flips: largest share of bits that infinity's self-correction flips.
    """

    kind: str
    scenes: int
    steps: int
    batch: int
    lr: float
    preset: str = "sticker"
    minutes: float | None = None
    split: str = "all"
    data_seed: int = 0
    seed: int = 0
    compiled: bool = False
    autoencoder: str | None = None
    initial: str | None = None
    freeze_encoder: float = 1.0
    drop_scales: float | None = None
    workers: int | None = None
    time_mean: float = 0.0
    time_std: float = 1.0
    flips: float = 0.3
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in TRAINERS:
            raise ValueError(f"unknown kind {self.kind!r}: {nearest(self.kind, list(TRAINERS))}")
        if self.preset not in PRESETS:
            known = nearest(self.preset, list(PRESETS))
            raise ValueError(f"unknown preset {self.preset!r}: {known}")
        split_of(self.split)
        for name, kinds in ONLY.items():
            default = next(f.default for f in fields(self) if f.name == name)
            if self.kind not in kinds and getattr(self, name) != default:
                raise ValueError(f"{name} is of {' and '.join(kinds)} only, and this recipe's "
                                 f"kind is {self.kind}; leave it out")  # fmt: skip
        for name in ("scenes", "steps", "batch", "lr", "minutes", "time_std"):
            value = getattr(self, name)
            if name == "minutes" and value is None:
                continue
            if not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name} must be a positive number, given {value!r}; YAML reads "
                                 f"6e-4 as text, write 0.0006 or 6.0e-4")  # fmt: skip
        share = self.drop_scales
        if share is not None and not (isinstance(share, int | float) and 0 <= share <= 1):
            raise ValueError(f"drop_scales is a share, 0 to 1, given {share!r}")


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe. Raises ValueError naming an unknown key and the nearest valid ones."""
    text = Path(path).read_text()
    values = yaml.safe_load(text)
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold key: value lines")
    lines = {key.value: f", line {key.start_mark.line + 1}"
             for key, _ in yaml.compose(text).value}  # fmt: skip
    values |= dict(overrides or {})
    known = [f.name for f in fields(Recipe)]
    for key in values:
        if key not in known:
            raise ValueError(f"{path}{lines.get(key, '')}: unknown key {key!r}: "
                             f"{nearest(key, known)}")  # fmt: skip
    needed = [f.name for f in fields(Recipe)
              if f.default is MISSING and f.default_factory is MISSING]  # fmt: skip
    if missing := [key for key in needed if key not in values]:
        raise ValueError(f"{path}: missing {', '.join(missing)}; a recipe gives at least "
                         f"{', '.join(needed)}")  # fmt: skip
    return Recipe(**values)


def _pictures(recipe: Recipe, device: torch.device) -> tuple[Any, Captions, list[str]]:
    begun, many = time.monotonic(), processes.count()
    if many > 1 and (recipe.scenes % (many * CHUNK) or recipe.batch % many):
        raise ValueError(f"{many} processes cannot share {recipe.scenes} scenes and a batch of "
                         f"{recipe.batch} evenly: scenes must be a multiple of {many * CHUNK}, "
                         f"batch of {many}")  # fmt: skip
    weights, share = TASK_WEIGHTS | dict(recipe.weights), recipe.scenes // many
    workers = recipe.workers or max(1, (os.cpu_count() or 1) // many)
    source = chunks(share, recipe.data_seed, weights, split=split_of(recipe.split),
                    workers=workers, start=share * processes.rank(),
                    twins=recipe.kind == "match")  # fmt: skip
    out = cache_pictures(source, share, device, Renderer(Sprites.load(), device))
    print(f"{share} scenes in {time.monotonic() - begun:.0f} s", flush=True)
    return out


def _numbers(recipe: Recipe) -> dict[str, Any]:
    batch = recipe.batch // processes.count()
    return {"steps": recipe.steps, "batch": batch, "lr": recipe.lr, "seed": recipe.seed,
            "minutes": recipe.minutes, "compiled": recipe.compiled}  # fmt: skip


def _mask2former(recipe: Recipe, device: torch.device, out: Path) -> Loop:
    cache, _, _ = _pictures(recipe, device)
    torch.manual_seed(recipe.seed)
    if recipe.initial:
        model = Mask2FormerForUniversalSegmentation.from_pretrained(
            recipe.initial, dtype=torch.float32
        )
    else:
        model = Mask2FormerForUniversalSegmentation(detector_config(recipe.preset))
    model, loop = train_mask2former(model, cache, **_numbers(recipe))
    if processes.first():
        with without_bars():
            model.bfloat16().save_pretrained(out)
    return loop


def _detector(recipe: Recipe, device: torch.device, out: Path) -> Loop:
    cache, _, _ = _pictures(recipe, device)
    torch.manual_seed(recipe.seed)
    model = build_network(recipe.preset)
    if recipe.initial:
        load_weights(model, Path(recipe.initial) / VAE_FILE)
    model, loop = train_voting(model, cache, **_numbers(recipe))
    _save_plain(model, out)
    return loop


def _save_plain(model: ModelMixin, out: Path) -> None:
    """A diffusers network as its config and one file of weights."""
    if processes.first():
        model.save_config(out)
        save_weights(out / VAE_FILE, model.state_dict(), "bfloat16")


def _clip(recipe: Recipe, device: torch.device, out: Path) -> Loop:
    cache, captions, wrong = _pictures(recipe, device)
    words = [text for texts in captions for text in texts]
    tokenizer = processes.shared(learn_words(words))
    config = clip_config(recipe.preset, vocab_size=len(tokenizer))
    model, loop = train_clip(config, tokenizer, cache, captions, wrong, **_numbers(recipe))
    if processes.first():
        with without_bars():
            model.bfloat16().save_pretrained(out)
        tokenizer.save_pretrained(out)
    return loop


def _match(recipe: Recipe, device: torch.device, out: Path) -> Loop:
    cache, captions, wrong = _pictures(recipe, device)
    words = [text for texts in captions for text in texts[:2]]
    tokenizer = processes.shared(learn_words(words))
    config = match_config(recipe.preset, vocab_size=len(tokenizer))
    model, loop = train_match(config, tokenizer, cache, captions, wrong, **_numbers(recipe))
    if processes.first():
        save_match(model, tokenizer, out)
    return loop


def _autoencoder(recipe: Recipe, device: torch.device, out: Path) -> Loop:
    cache, _, _ = _pictures(recipe, device)
    torch.manual_seed(recipe.seed)
    model = PRESETS[recipe.preset]().build_vae()
    if recipe.initial:
        load_weights(model, Path(recipe.initial) / VAE_FILE)

    model, loop = train_autoencoder(model, cache, freeze_encoder=recipe.freeze_encoder,
                                    on_freeze=partial(_save_plain, model, out),
                                    **_numbers(recipe))  # fmt: skip
    _save_plain(model, out)
    return loop


def _new_generator(recipe: Recipe, captions: Captions) -> MMDiTGenerator:
    """A generator with random weights over a trained autoencoder, its words learnt."""
    config = PRESETS[recipe.preset]()
    words = [text for texts in captions for text in texts[:2]]
    tokenizer = processes.shared(learn_words(words, max_tokens=config.max_tokens))
    torch.manual_seed(recipe.seed)
    pipe = MMDiTGenerator.from_config(config, tokenizer, recipe.seed)
    load_weights(pipe.vae, Path(str(recipe.autoencoder)) / VAE_FILE)
    return pipe


def _one_start(recipe: Recipe) -> None:
    if (recipe.autoencoder is None) == (recipe.initial is None):
        raise ValueError(f"a generator's recipe must name either a trained autoencoder's folder "
                         f"or, in initial, that of a generator to go on from; given autoencoder "
                         f"{recipe.autoencoder!r}, initial {recipe.initial!r}")  # fmt: skip


def _generator(recipe: Recipe, device: torch.device, out: Path) -> Loop:
    _one_start(recipe)
    cache, captions, _ = _pictures(recipe, device)
    if recipe.initial:
        pipe = MMDiTGenerator.from_pretrained(recipe.initial)
    else:
        pipe = _new_generator(recipe, captions)
    pipe.to(device)
    latents = cache_latents(pipe, cache, [texts[:2] for texts in captions],
                            keep_moments=recipe.initial is not None)  # fmt: skip
    del cache

    save = partial(pipe.save_pretrained, out, "int8")
    loop = train_generator(pipe, latents, on_save=save, save_every=2000,
                           time_mean=recipe.time_mean, time_std=recipe.time_std,
                           **_numbers(recipe))  # fmt: skip
    if processes.first():
        save()
    return loop


def _infinity_tokenizer(recipe: Recipe, device: torch.device, out: Path) -> Loop:
    cache, _, _ = _pictures(recipe, device)
    torch.manual_seed(recipe.seed)
    config = infinity.PRESETS[recipe.preset]()
    model = infinity.InfinityTokenizer(**asdict(config.tokenizer))
    if recipe.initial and (Path(recipe.initial) / VAE_FILE).is_file():
        load_weights(model, Path(recipe.initial) / VAE_FILE)
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
                                  on_freeze=partial(_save_plain, model, out),
                                  **({} if dropped is None else {"drop_scales": dropped}),
                                  **_numbers(recipe))  # fmt: skip
    _save_plain(model, out)
    if processes.first():
        files.write_json(out / "scales.json", scale_report(model, cache, sizes))
    return loop


def _new_infinity(recipe: Recipe, captions: Captions) -> infinity.InfinityGenerator:
    """Random weights over a trained tokenizer, its words learnt."""
    config = infinity.PRESETS[recipe.preset]()
    words = [text for texts in captions for text in texts[:2]]
    tokenizer = processes.shared(learn_words(words, max_tokens=config.max_tokens))
    pipe = infinity.InfinityGenerator.from_config(config, tokenizer, recipe.seed)
    load_weights(pipe.vae, Path(str(recipe.autoencoder)) / VAE_FILE)
    return pipe


def _infinity(recipe: Recipe, device: torch.device, out: Path) -> Loop:
    _one_start(recipe)
    cache, captions, _ = _pictures(recipe, device)
    if recipe.initial:
        pipe = infinity.InfinityGenerator.from_pretrained(recipe.initial)
    else:
        pipe = _new_infinity(recipe, captions)
    pipe.to(device)
    features = cache_features(pipe, cache, [texts[:2] for texts in captions])
    del cache
    save = partial(pipe.save_pretrained, out, "int8")
    loop = train_infinity(pipe, features, on_save=save, save_every=2000, flips=recipe.flips,
                          **_numbers(recipe))  # fmt: skip
    if processes.first():
        save()
    return loop


def _var_tokenizer(recipe: Recipe, device: torch.device, out: Path) -> Loop:
    cache, _, _ = _pictures(recipe, device)
    torch.manual_seed(recipe.seed)
    config = var.PRESETS[recipe.preset]()
    model = var.VARTokenizer(**asdict(config.tokenizer))
    if recipe.initial:
        load_weights(model, Path(recipe.initial) / VAE_FILE)
    loop = train_var_tokenizer(model, cache, config.sizes, freeze_encoder=recipe.freeze_encoder,
                               on_freeze=partial(_save_plain, model, out),
                               **_numbers(recipe))  # fmt: skip
    _save_plain(model, out)
    if processes.first():
        files.write_json(out / "scales.json", codebook_report(model, cache, config.sizes))
    return loop


def _var(recipe: Recipe, device: torch.device, out: Path) -> Loop:
    _one_start(recipe)
    cache, _, _ = _pictures(recipe, device)
    if recipe.initial:
        pipe = var.VARGenerator.from_pretrained(recipe.initial)
    else:
        pipe = var.VARGenerator.from_config(var.PRESETS[recipe.preset](), recipe.seed)
        load_weights(pipe.vae, Path(str(recipe.autoencoder)) / VAE_FILE)
    pipe.to(device)
    tokens = cache_tokens(pipe, cache)
    del cache
    save = partial(pipe.save_pretrained, out, "int8")
    loop = train_var(pipe, tokens, on_save=save, save_every=2000, **_numbers(recipe))
    if processes.first():
        save()
    return loop


GENERATORS = ("generator", "infinity", "var")
TOKENIZERS = ("infinity-tokenizer", "var-tokenizer")
ONLY: dict[str, tuple[str, ...]] = {
    "autoencoder": GENERATORS, "freeze_encoder": ("autoencoder", *TOKENIZERS),
    "drop_scales": ("infinity-tokenizer",),
    "initial": ("detector", "mask2former", "autoencoder", *TOKENIZERS, *GENERATORS),
    "time_mean": ("generator",), "time_std": ("generator",), "flips": ("infinity",),
}  # fmt: skip
"""Keys that some kinds alone read."""
TRAINERS = {"detector": _detector, "mask2former": _mask2former, "clip": _clip, "match": _match,
            "autoencoder": _autoencoder, "generator": _generator,
            "infinity-tokenizer": _infinity_tokenizer, "infinity": _infinity,
            "var-tokenizer": _var_tokenizer, "var": _var}  # fmt: skip


def run_recipe(
    path: str | Path, out: str | Path, device: str = "cpu",
    overrides: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Train what the recipe at `path` says and write the model's folder `out`.

    Under torchrun this is one of its processes (`train.processes`).
    """
    recipe, out = load_recipe(path, overrides), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with processes.together(device) as own:
        loop, many = TRAINERS[recipe.kind](recipe, own, out), processes.count()
        if not processes.first():
            return out
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
    settings = " ".join(f"--set {key}={value}" for key, value in (overrides or {}).items())
    command = f"impasto train {Path(path).as_posix()} {settings}".strip()
    record = {"command": command, "recipe": asdict(recipe), "steps": loop.steps,
              "images": loop.steps * recipe.batch, "seconds": round(time.monotonic() - start),
              "device": name if many == 1 else f"{many} x {name}",
              "torch": torch.__version__}  # fmt: skip
    files.write_json(out / "training.json", record)
    write_card(out, record)
    return out
