"""Train what turns pictures into latents or tokens: one loop for all of them.

    L = R(x, y) + w_p P(x, y) + w_a L_G(y) + what the family adds (commitment, KL, meaning, ...)

R: `reconstruction_loss` ("edges"), or the mean squared error ("l2", as
published); P: a perceptual distance (`zoo.registry.PERCEPTUAL`); L_G: `train.adversary`, from its
start on. What tokens depend on can be frozen part of the way, after which only the decoder learns.

The trap of codebooks is collapse: training stops when, after its first tenth, `LOOKS` looks in a
row find less than `FLOOR` of the codes used in the `LOOK_EVERY` steps before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.score import perceptual  # registers what an objective may name
from impasto.train import processes
from impasto.train.adversary import Adversary, adaptive_weight
from impasto.train.checkpoint import Carried, Checkpoint
from impasto.train.data import PictureCache
from impasto.train.loop import CodebookCollapse, Loop, learning_rate, mixed
from impasto.train.recipe import check_keys
from impasto.zoo.registry import PERCEPTUAL, nearest

__all__ = ["Attempt", "Objective", "cached", "last_weight", "perceptual", "psnr",
           "reconstruction_loss", "train_tokenizer"]  # fmt: skip

BETAS = (0.9, 0.98)
LOOK_EVERY, LOOKS, FLOOR, WARM_UP = 100, 3, 0.01, 0.1


def reconstruction_loss(x: Tensor, y: Tensor) -> Tensor:
    """|x - y| + 2 (x - y)^2 + |grad x - grad y|, a scalar, of (B, 3, H, W) in [-1, 1].

    The last term keeps outlines sharp: the drawings are flat fills between black lines.
    """
    d = y - x
    edges = d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean()
    return d.abs().mean() + 2 * d.square().mean() + edges


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Decibels, for pictures in [-1, 1]."""
    return -10 * (F.mse_loss(x, y) / 4).log10()


RECONSTRUCTION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "edges": reconstruction_loss, "l2": F.mse_loss}


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a tokenizer learns beside its family's losses: a recipe's `objective`.

    reconstruction: "edges" or "l2". perceptual: a name of `impasto ls perceptual`.
    adversarial_weight: 0 for no adversary. adversarial_start: share of the training before it.
    adaptive: whether that weight is multiplied by VQGAN's adaptive one. filters, layers: of the
    discriminator.
    """

    reconstruction: str = "edges"
    perceptual: str | None = None
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.0
    adversarial_start: float = 0.25
    adaptive: bool = False
    filters: int = 64
    layers: int = 3

    def __post_init__(self) -> None:
        if self.reconstruction not in RECONSTRUCTION:
            raise ValueError(f"objective: reconstruction {self.reconstruction!r}: "
                             f"{nearest(self.reconstruction, list(RECONSTRUCTION))}")  # fmt: skip
        name = (self.perceptual or "").partition(":")[0]
        if name and name not in PERCEPTUAL:
            raise ValueError(f"objective: perceptual {name!r}: {nearest(name, list(PERCEPTUAL))}")
        for name in ("perceptual_weight", "adversarial_weight"):
            if not (value := getattr(self, name)) >= 0 or not math.isfinite(value):
                raise ValueError(f"objective: {name} must be a number >= 0, given {value!r}")
        if not 0 <= self.adversarial_start <= 1:
            raise ValueError(f"objective: adversarial_start is a share of the training, 0 to 1, "
                             f"given {self.adversarial_start!r}")  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Objective:
        """Raises ValueError naming an unknown key and the nearest ones."""
        check_keys(cls, values, "objective")
        return cls(**values)


class Attempt(NamedTuple):
    """What a family makes of pictures. y: reconstructions (B, 3, H, W), about [-1, 1]. added: to
    the loss. shown: scalars. ids: of a codebook, any shape, None where there is none."""

    y: Tensor
    added: Tensor
    shown: Mapping[str, Tensor]
    ids: Tensor | None = None


class _Usage:
    """Counts codes, and looks every `LOOK_EVERY` steps."""

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        self.hits = torch.zeros(vocabulary, device=device)
        self.low, self.share = 0, torch.zeros((), device=device)

    def state_dict(self) -> dict[str, Any]:
        return {"hits": self.hits, "low": self.low, "share": self.share}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.low = state["low"]
        self.hits, self.share = (state[name].to(self.hits.device) for name in ("hits", "share"))

    def see(self, loop: Loop, ids: Tensor) -> None:
        """Raises CodebookCollapse."""
        flat = ids.flatten()
        self.hits.index_add_(0, flat, torch.ones_like(flat, dtype=self.hits.dtype))
        if (loop.step + 1) % LOOK_EVERY:
            return
        self.share = (self.hits > 0).float().mean()
        self.hits.zero_()
        low = loop.progress > WARM_UP and float(self.share) < FLOOR
        self.low = self.low + 1 if low else 0
        if self.low == LOOKS:
            raise CodebookCollapse(
                f"{loop.name}: in {LOOKS} looks in a row under {FLOOR:.0%} of the codes were used "
                f"({float(self.share):.2%} in the last {LOOK_EVERY} steps) at step {loop.step}; "
                f"{loop.last_good}"
            )


class _Losses:
    """The picture's losses of an objective."""

    def __init__(
        self, objective: Objective, lr: float, device: torch.device, seed: int = 0, *,
        compiled: bool = False,
    ) -> None:  # fmt: skip
        self.objective, self.device = objective, device
        self.reconstruction = RECONSTRUCTION[objective.reconstruction]
        self.perceptual: Any = None
        if objective.perceptual and objective.perceptual_weight:
            near = PERCEPTUAL.create(objective.perceptual, device=str(device)).distance
            # By itself it is hundreds of small kernels, for which a GPU waits.
            self.perceptual = torch.compile(near, dynamic=False) if compiled else near
        self.adversary: Adversary | None = None
        if objective.adversarial_weight:
            self.adversary = Adversary(objective.filters, objective.layers, lr, BETAS, device,
                                       seed=seed)  # fmt: skip

    def begun(self, loop: Loop) -> bool:
        return self.adversary is not None and loop.progress >= self.objective.adversarial_start

    def __call__(
        self, loop: Loop, x: Tensor, y: Tensor, last: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """x, y: (B, 3, H, W), about [-1, 1]. last: weights of the decoder's last layer."""
        loss, shown = self.reconstruction(x, y), {}
        if self.perceptual is not None:
            with mixed(self.device):
                near = self.perceptual(x / 2 + 0.5, y / 2 + 0.5).mean()
            loss, shown["perceptual"] = loss + self.objective.perceptual_weight * near, near
        if self.adversary is not None and self.begun(loop):
            with mixed(self.device):
                against = self.adversary.generator_loss(y).float()
            weight: Tensor | float = self.objective.adversarial_weight
            if self.objective.adaptive and last is not None:
                weight = weight * adaptive_weight(loss, against, last)
            loss, shown["adversarial"] = loss + weight * against, against
        return loss, {name: value.detach() for name, value in shown.items()}


def train_tokenizer(
    model: Any, pictures: Callable[[Tensor], Tensor], attempt: Callable[[Loop, Tensor], Attempt],
    *, token_parts: Sequence[nn.Module], count: int, device: torch.device, steps: int, batch: int,
    lr: float = 6e-4, minutes: float | None = None, seed: int = 0, freeze_encoder: float = 1.0,
    on_freeze: Callable[[], None] | None = None, on_save: Callable[[], str] | None = None,
    save_every: int = 0, objective: Objective | None = None, vocabulary: int | None = None,
    last_layer: Tensor | None = None, name: str = "tokenizer", compiled: bool = False,
    checkpoint: Checkpoint | None = None, carried: Mapping[str, Carried] | None = None,
) -> Loop:  # fmt: skip
    """Train `model`; it ends with its moving-average weights, in evaluation mode.

    token_parts: what tokens depend on. pictures: rows (B,) of `count` -> (B, 3, H, W) in [0, 1].
    attempt: of pictures (B, 3, H, W) in [0, 1]. freeze_encoder: share of the training after which
    `token_parts`, set to their average, stay as they are and only the rest learns on; on_freeze:
    called then. on_save: saves the averaged weights every `save_every` steps and says where.
    vocabulary: of the codebook whose use is watched. last_layer: the decoder's weights that an
    adaptive objective measures by. compiled: whether the perceptual distance is. carried: what
    `attempt` changes from step to step.

    Raises CodebookCollapse, NonFiniteLoss; ValueError for an adaptive objective and no last_layer.
    """
    objective = objective or Objective()
    if objective.adaptive and last_layer is None:
        raise ValueError(f"objective: adaptive needs the decoder's last layer, and {name} names "
                         f"none; give last_layer, or leave adaptive out")  # fmt: skip
    torch.manual_seed(seed + processes.rank())
    model.to(device, memory_format=torch.channels_last).train()
    loop = Loop(model, steps, lr, weight_decay=0.0, minutes=minutes, name=name,
                checkpoint=checkpoint)  # fmt: skip
    losses = _Losses(objective, lr, device, seed, compiled=compiled)
    usage = None if vocabulary is None else _Usage(vocabulary, device)
    frozen = torch.tensor(False)
    loop.carried = _carried(frozen, usage, losses.adversary) | dict(carried or {})
    while loop.running:
        if loop.progress >= freeze_encoder and not frozen:
            frozen.fill_(True)
            _freeze(loop, token_parts, on_freeze)
        x = pictures(torch.randint(count, (batch,), device=device))
        x = x.to(memory_format=torch.channels_last)
        with mixed(device):
            made = attempt(loop, x)
        x, y = 2 * x - 1, made.y.float()
        loss, shown = losses(loop, x, y, last_layer)
        against = losses.begun(loop)
        if usage is not None and made.ids is not None:
            usage.see(loop, made.ids)
            shown["used"] = usage.share
        loop.update(loss + made.added, {"psnr": psnr(x, y.detach()), **shown, **made.shown})
        if losses.adversary is not None and against:
            losses.adversary.learn(x, y, learning_rate(loop.progress))
        if on_save is not None:
            loop.save_if_due(on_save, save_every)
    loop.load_average()
    model.eval()
    return loop


def _carried(*parts: Any) -> dict[str, Carried]:
    names = ("frozen", "usage", "adversary")
    return {name: part for name, part in zip(names, parts, strict=True) if part is not None}


def _freeze(
    loop: Loop, parts: Sequence[nn.Module], on_freeze: Callable[[], None] | None
) -> None:
    loop.load_average()
    for part in parts:
        part.requires_grad_(False)
    if on_freeze is not None:
        on_freeze()


def last_weight(decoder: nn.Module) -> Tensor:
    """Of a decoder's `conv_out`: what an adaptive objective measures by."""
    return next(p for p in decoder.get_submodule("conv_out").parameters() if p.ndim > 1)


def cached(
    cache: PictureCache, size: tuple[int, ...]
) -> Callable[[Tensor | slice], Tensor]:
    """Rows of a cache as pictures (B, 3, *size) in [0, 1]."""
    def pictures(rows: Tensor | slice) -> Tensor:
        images = cache.images[rows].float() / 255
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size=size, mode="bilinear", antialias=True)

    return pictures
