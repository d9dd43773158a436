"""What a recipe of a training says: one YAML file, checked before anything is made.

Which keys a recipe may have beside those of all is its kind's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml

from impasto.train.checkpoint import Checkpoint
from impasto.train.data import split_of
from impasto.train.loop import Loop
from impasto.zoo.registry import nearest

__all__ = ["KINDS", "Kind", "Recipe", "check_keys", "kind", "load_recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """kind: what to train. scenes: how many are drawn (a multiple of 1,000), from `data_seed`.
    Scenes and batch are shared out evenly where several processes train.

    preset: size of the network, "sticker" or "tiny". minutes: train for a time instead of
    `steps`. split: "train" leaves out held-out combinations and the evaluation's meanings, "all"
    leaves nothing out (scorers judge everything). autoencoder: folder of a trained one, for the
    generator and dit (or the name of a generator that ships); of a trained tokenizer, for infinity
    and var. initial: folder of weights to start from (detector, autoencoder, tokenizer, generator,
    dit, infinity and var: with all that belongs to them); infinity's tokenizer may start from an
    mmdit generator, whose autoencoder it takes, or an infinity generator, whose bits it takes.
    freeze_encoder: share of an autoencoder's or a tokenizer's training after which only its
    decoder learns. drop_scales: share of the steps in which infinity's tokenizer decodes fewer
    scales than all, default `train.infinity.DROP_SCALES`. workers: processes that lay out scenes,
    default `train.processes.cores()`. weights: of tasks, over `train.data.TASK_WEIGHTS`, such as
    {single_object: 2.0}. time_mean, time_std: of the logit-normal times that a generator is shown.
    flips: largest share of bits that infinity's self-correction flips. place_weight: of the loss
    by which a CLIP's single patches learn what is at them. objective: what a tokenizer learns
    beside its family's losses (`train.tokenizers.Objective`). teacher: folder of the CLIP that
    tokenflow's tokenizer is distilled from; start: whether its encoder begins as that. front: of
    layton-alignment, the folder of a trained vq tokenizer. sides: pixels a side of pictures'
    copies, one a step: that layton's decoder is shown codes of, or that a vq tokenizer learns to
    code. min_snr: gamma of the Min-SNR weights of layton-base and layton-alignment, which have
    none if it is left out. pixels: what layton-pixels learns (`train.layton.PixelObjective`).
    teacher: also the host of a graft-regression or a prune-distillation, whose initial is the
    edited network; regression, distillation, tuning: how these and finetune learn
    (`train.kinds.surgery`).
    model: values of the preset's configuration to override. save_every: steps between two of
    its saved models.
    checkpoint_every: steps between two checkpoints, from which the same command goes on
    (`train.checkpoint`).
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
    place_weight: float = 0.0
    objective: Mapping[str, Any] = field(default_factory=dict)
    teacher: str | None = None
    start: bool = True
    front: str | None = None
    sides: Sequence[int] = field(default_factory=list)
    min_snr: float | None = None
    pixels: Mapping[str, Any] = field(default_factory=dict)
    regression: Mapping[str, Any] = field(default_factory=dict)
    distillation: Mapping[str, Any] = field(default_factory=dict)
    tuning: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    save_every: int = 0
    features: str | None = None
    checkpoint_every: int = 1000
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}: {nearest(self.kind, list(KINDS))}")
        own = KINDS[self.kind]
        if self.preset not in own.presets:
            known = nearest(self.preset, list(own.presets))
            raise ValueError(f"unknown preset {self.preset!r}: {known}")
        split_of(self.split)
        some = set[str]().union(*(other.keys for other in KINDS.values()))
        for name in sorted(some - own.keys):
            default = _default(name)
            if getattr(self, name) != default:
                kinds = [each for each, other in KINDS.items() if name in other.keys]
                raise ValueError(f"{name} is of {' and '.join(kinds)} only, and this recipe's "
                                 f"kind is {self.kind}; leave it out")  # fmt: skip
        for name in ("scenes", "steps", "batch", "lr", "minutes", "time_std", "min_snr"):
            value = getattr(self, name)
            if name in ("minutes", "min_snr") and value is None:
                continue
            if not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name} must be a positive number, given {value!r}; YAML reads "
                                 f"6e-4 as text, write 0.0006 or 6.0e-4")  # fmt: skip
        share = self.drop_scales
        if share is not None and not (isinstance(share, int | float) and 0 <= share <= 1):
            raise ValueError(f"drop_scales is a share, 0 to 1, given {share!r}")


def _default(name: str) -> Any:
    own = next(f for f in fields(Recipe) if f.name == name)
    return own.default if own.default_factory is MISSING else own.default_factory()


def check_keys(kind: Any, values: Mapping[str, Any], where: str) -> None:
    """Raises ValueError for a key that the dataclass `kind` has not, with the nearest ones.
    where: the recipe's key that holds the values."""
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            raise ValueError(f"{where} has no {key!r}: {nearest(key, known)}")


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


Trainer = Callable[[Recipe, torch.device, Path, Checkpoint], Loop]
"""Trains what a recipe says, on a device, and writes the model's folder."""


@dataclass(frozen=True)
class Kind:
    """A kind of training. presets: sizes that it has. keys: those of `Recipe` that some kinds
    alone read, this one among them."""

    train: Trainer
    presets: Sequence[str]
    keys: frozenset[str]


KINDS: dict[str, Kind] = {}


def kind(
    name: str, *, presets: Sequence[str] = ("sticker", "tiny"), keys: Sequence[str] = ()
) -> Callable[[Trainer], Trainer]:
    """Register a function as the training of this name."""
    def register(train: Trainer) -> Trainer:
        KINDS[name] = Kind(train, tuple(presets), frozenset(keys))
        return train

    return register
