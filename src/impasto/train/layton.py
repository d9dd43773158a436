"""Train Layton's tokenizer on the sticker world, in the four steps of `models.layton.train`.

    base          the UNet by itself, on an autoencoder's latents
    accelerator   the UNet's low-rank accelerator, distilled from it
    alignment     the copy and its stem, by the error of eps            (published: stage 1)
    pixels        the same, by pictures through consistency steps       (published: stage 2)

Front, codebook and autoencoder are trained before and stay as they are, so latents and ids are
made once and stay on the device. Copies of several sizes are read in turn, one a step, so that one
decoder serves all numbers of tokens.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers.models import UNet2DConditionModel
from torch import Tensor, nn

from impasto.models.layton import Decoding, LaytonTokenizer
from impasto.models.layton.train import (
    Distillation,
    alignment_loss,
    ldm_loss,
    learning,
    pixel_loss,
    sample_times,
)
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.data import PictureCache
from impasto.train.loop import Loop, mixed
from impasto.train.recipe import check_keys
from impasto.train.tokenizers import cached, perceptual, psnr
from impasto.zoo.registry import PERCEPTUAL, nearest

__all__ = ["PixelObjective", "cache_ids", "cache_latents", "perceptual", "train_accelerator",
           "train_alignment", "train_base", "train_pixels"]  # fmt: skip

T = TypeVar("T")

Ids = Mapping[int, Tensor]
"""Pixels a side of the copy -> its ids (N, L), int32."""


@dataclass(frozen=True, kw_only=True)
class PixelObjective:
    """What pixels teach: a recipe's `pixels`.

    steps: consistency steps that a picture is drawn in, 1 or 2, or [1, 2]: one of both a batch.
    Two have a gradient through the second alone; by itself that leaves the first to drift, the
    further the larger the rate (benchmarks/notes/layton-pixels.md). first: the time of a single
    step, where it is not the grid's. perceptual: a name of `impasto ls perceptual`. l1, l2:
    weights of the mean absolute and squared error, 0 in the paper. scale: of what the copy adds.
    """

    steps: int | Sequence[int] = 1
    first: int | None = None
    perceptual: str = "sticker-detector"
    l1: float = 0.0
    l2: float = 0.0
    scale: float = 0.8

    def __post_init__(self) -> None:
        if self.steps not in (1, 2, [1, 2], (1, 2)):
            raise ValueError(f"pixels: steps must be 1, 2 or [1, 2], given {self.steps!r}")
        _ = self.decodings
        name = self.perceptual.partition(":")[0]
        if name not in PERCEPTUAL:
            raise ValueError(f"pixels: perceptual {name!r}: {nearest(name, list(PERCEPTUAL))}")
        for name in ("l1", "l2"):
            if not (value := getattr(self, name)) >= 0 or not math.isfinite(value):
                raise ValueError(f"pixels: {name} must be a number >= 0, given {value!r}")

    @property
    def _steps(self) -> Sequence[int]:
        return self.steps if isinstance(self.steps, Sequence) else [self.steps]

    @property
    def decodings(self) -> list[Decoding]:
        """How pictures are drawn; by the last a folder is decoded."""
        return [Decoding(steps=steps, first=self.first, scale=self.scale) for steps in self._steps]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PixelObjective:
        """Raises ValueError naming an unknown key and the nearest ones."""
        check_keys(cls, values, "pixels")
        return cls(**values)


# ---------------------------------------------------------------- what is made once


@torch.no_grad()
def cache_latents(tokenizer: LaytonTokenizer, cache: PictureCache, batch: int = 250) -> Tensor:
    """z_0 (N, C, h, w), float16, of all pictures."""
    pictures = cached(cache, (tokenizer.image, tokenizer.image))
    return torch.cat([tokenizer.latents(pictures(slice(i, i + batch))).half()
                      for i in range(0, len(cache), batch)])  # fmt: skip


@torch.no_grad()
def cache_ids(
    tokenizer: LaytonTokenizer, cache: PictureCache, sides: Sequence[int], batch: int = 250
) -> Ids:
    """The ids of all pictures' copies. Raises ValueError for a side that there is none of."""
    pictures, found = cached(cache, (tokenizer.image, tokenizer.image)), {}
    for side in sides:
        sizes = tokenizer.sizes_of_side(side)
        found[side] = torch.cat([tokenizer.encode(pictures(slice(i, i + batch)), sizes)[0].int()
                                 for i in range(0, len(cache), batch)])  # fmt: skip
    return found


def _drawn(among: Sequence[T]) -> T:
    return among[int(torch.randint(len(among), ()))]


def _codes(tokenizer: LaytonTokenizer, ids: Ids, rows: Tensor) -> Tensor:
    """C (B, c, h, w) of a copy's size that is drawn anew each time."""
    side = _drawn(list(ids))
    return tokenizer.features_of([ids[side][rows].long()], tokenizer.sizes_of_side(side))


# ---------------------------------------------------------------- the loop of all four


def _train(
    model: nn.Module, count: int, device: torch.device,
    loss_of: Callable[[Tensor], tuple[Tensor, Mapping[str, Tensor]]], *, steps: int, batch: int,
    lr: float, name: str, minutes: float | None = None, seed: int = 0,
    checkpoint: Checkpoint | None = None, compiled: Sequence[nn.Module] = (),
    after: Distillation | None = None,
) -> Loop:  # fmt: skip
    """loss_of: rows (B,) of `count` -> the loss and what to show. compiled: networks whose calls
    go through torch.compile meanwhile. after: what follows every step."""
    torch.manual_seed(seed + processes.rank())
    loop = Loop(model, steps, lr, weight_decay=0.01, minutes=minutes, name=f"layton {name}",
                checkpoint=checkpoint)  # fmt: skip
    if after is not None:
        loop.carried = {"target": after}
    with _compiled(compiled):
        while loop.running:
            rows = torch.randint(count, (batch,), device=device)
            with mixed(device):
                loss, shown = loss_of(rows)
            loop.update(loss, shown)
            if after is not None:
                after.update()
    loop.load_average()
    return loop


@contextlib.contextmanager
def _compiled(networks: Sequence[nn.Module]) -> Iterator[None]:
    for network in networks:
        network.compile()
    try:
        yield
    finally:
        for network in networks:
            network._compiled_call_impl = None  # a compiled call is no part of a model


def _noised(z_0: Tensor) -> tuple[Tensor, Tensor]:
    """Times (B,) and noise for latents."""
    return sample_times(len(z_0), z_0.device), torch.randn_like(z_0)


# ---------------------------------------------------------------- the four


def train_base(
    unet: UNet2DConditionModel, latents: Tensor, *, image: int, compiled: bool = False,
    min_snr: float | None = None, **numbers: Any,
) -> Loop:  # fmt: skip
    """Train a UNet on latents (N, C, h, w) of pictures of `image` pixels; numbers: of `_train`."""
    unet.requires_grad_(True).train()

    def loss_of(rows: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        z_0 = latents[rows].float()
        t, eps = _noised(z_0)
        return ldm_loss(unet, z_0, t, eps, image=image, min_snr=min_snr), {}

    loop = _train(unet, len(latents), latents.device, loss_of, name="base",
                  compiled=[unet] if compiled else [], **numbers)  # fmt: skip
    unet.eval()
    return loop


def train_accelerator(
    tokenizer: LaytonTokenizer, latents: Tensor, *, compiled: bool = False, **numbers: Any
) -> Loop:
    """Distil the base into its accelerator; numbers: of `_train`. Nothing is compiled: teacher,
    student and target are one network in three states."""
    learning(tokenizer, "accelerator")
    distillation = Distillation(tokenizer.decoder)

    def loss_of(rows: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        z_0 = latents[rows].float()
        t = distillation.times(len(z_0), z_0.device)
        return distillation.loss(z_0, t, torch.randn_like(z_0), image=tokenizer.image), {}

    return _train(tokenizer.decoder.unet, len(latents), latents.device, loss_of,
                  name="accelerator", after=distillation, **numbers)  # fmt: skip


def train_alignment(
    tokenizer: LaytonTokenizer, latents: Tensor, ids: Ids, *, compiled: bool = False,
    min_snr: float | None = None, **numbers: Any,
) -> Loop:  # fmt: skip
    """Stage 1. numbers: of `_train`."""
    learning(tokenizer, "copy")

    def loss_of(rows: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        z_0 = latents[rows].float()
        t, eps = _noised(z_0)
        C = _codes(tokenizer, ids, rows)
        return alignment_loss(tokenizer, z_0, C, t, eps, min_snr=min_snr), {}

    return _train(tokenizer.decoder.controlnet, len(latents), latents.device, loss_of,
                  name="alignment", compiled=[tokenizer.decoder] if compiled else [],
                  **numbers)  # fmt: skip


def train_pixels(
    tokenizer: LaytonTokenizer, cache: PictureCache, ids: Ids, objective: PixelObjective, *,
    compiled: bool = False, **numbers: Any,
) -> Loop:  # fmt: skip
    """Stage 2. numbers: of `_train`."""
    learning(tokenizer, "copy")
    device, side = cache.images.device, tokenizer.image
    pictures = cached(cache, (side, side))
    near: Any = PERCEPTUAL.create(objective.perceptual, device=str(device)).distance
    near = torch.compile(near, dynamic=False) if compiled else near
    shape = (tokenizer.decoder.unet.config["in_channels"], *tokenizer.latent_size(side, side))
    ways = objective.decodings

    def loss_of(rows: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        x, C = pictures(rows), _codes(tokenizer, ids, rows)
        loss, y = pixel_loss(
            tokenizer, x, C, lambda _: torch.randn(len(x), *shape, device=device), near,
            decoding=_drawn(ways), l1=objective.l1, l2=objective.l2,
        )  # fmt: skip
        return loss, {"psnr": psnr(2 * x - 1, 2 * y - 1)}

    networks = [tokenizer.decoder, tokenizer.vae.decoder] if compiled else []
    return _train(tokenizer.decoder.controlnet, len(cache), device, loss_of, name="pixels",
                  compiled=networks, **numbers)  # fmt: skip
