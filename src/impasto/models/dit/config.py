"""Sizes of the "dit" family: DiT by class over latents of a KL autoencoder.

    transformer   diffusers DiTTransformer2DModel    Peebles & Xie 2023, arXiv 2212.09748
    vae           diffusers AutoencoderKL            Stable Diffusion's; the world's in `sticker`

As diffusers has it, each block holds the embedders of time and class by itself; in published
folders they are copies of one, in what is trained here each learns its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from diffusers.models import AutoencoderKL, DiTTransformer2DModel

from impasto.models.dit.sampler import SAMPLERS, times_of
from impasto.models.latents import LatentDefaults, adaln_zero_
from impasto.models.mmdit import config as mmdit
from impasto.spec import CLASSES
from impasto.zoo.registry import nearest

__all__ = ["PRESETS", "Defaults", "DiTConfig", "sticker", "tiny", "xl_2"]

SCALING = 0.18215
"""What Stable Diffusion's latents are multiplied by to have unit variance."""


@dataclass(frozen=True, kw_only=True)
class Defaults(LatentDefaults):
    """sampler: one of `SAMPLERS`. guided: how many of the latent channels, from the first, are
    guided; the others, and the variance, are as the class has them. classes: their names, in
    order; empty where only indices are known."""

    model: ClassVar[str] = "a dit model"
    steps: int = 250
    guidance: float = 4.0
    sampler: str = "ddpm"
    guided: int
    classes: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises ValueError for a value that is out of range."""
        super().check()
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler {self.sampler!r}: {nearest(str(self.sampler), SAMPLERS)}")
        times_of(self.sampler, self.steps)
        channels = len(self.latent_mean)
        if not isinstance(self.guided, int) or not 1 <= self.guided <= channels:
            raise ValueError(f"guided must be 1 to {channels}, the number of latent channels, "
                             f"given {self.guided!r}")  # fmt: skip
        if not isinstance(self.guidance, int | float) or not 0 <= self.guidance < float("inf"):
            raise ValueError(f"guidance must be a finite number >= 0, given {self.guidance!r}")


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Sizes from which a generator is built; a saved one carries its components' own configs.

    latent_size: of a side. classes: their names, or how many where none are known; the null class
    of classifier-free guidance comes after them. vae: builds the autoencoder.
    """

    latent_size: int
    latent_channels: int
    patch_size: int
    width: int
    heads: int
    layers: int
    classes: tuple[str, ...] | int
    vae: Callable[[], AutoencoderKL]
    defaults: Defaults

    def build_transformer(self) -> DiTTransformer2DModel:
        """Of eps and the variance's place in its range, with AdaLN-zero weights."""
        count = self.classes if isinstance(self.classes, int) else len(self.classes)
        transformer = DiTTransformer2DModel(
            sample_size=self.latent_size,
            patch_size=self.patch_size,
            in_channels=self.latent_channels,
            out_channels=2 * self.latent_channels,
            num_layers=self.layers,
            attention_head_dim=self.width // self.heads,
            num_attention_heads=self.heads,
            num_embeds_ada_norm=count,
        )
        adaln_zero_(transformer, ("norm1.linear", "proj_out_1", "proj_out_2"))
        return transformer


def _defaults(channels: int, **values: object) -> Defaults:
    """With latents taken as they are, before their moments are known."""
    return Defaults(**{"latent_mean": (0.0,) * channels, "latent_std": (1.0,) * channels,
                       "guided": channels} | values)  # type: ignore[arg-type]  # fmt: skip


def _stable_diffusion_vae() -> AutoencoderKL:
    n = 4
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=256,
    )


def xl_2() -> DiTConfig:
    """DiT-XL/2 of 256 px: 675 M parameters with one pair of embedders, 256 tokens, ImageNet.

    Guided as published: the first 3 of 4 channels (`forward_with_cfg` of the official code).
    """
    return DiTConfig(latent_size=32, latent_channels=4, patch_size=2, width=1152, heads=16,
                     layers=28, classes=1000, vae=_stable_diffusion_vae,
                     defaults=_defaults(4, guided=3, latent_std=(1 / SCALING,) * 4)
                     )  # fmt: skip


def sticker() -> DiTConfig:
    """128 px pictures of the world's 80 classes: 8 blocks, 64 tokens, 23.9 M parameters."""
    return DiTConfig(latent_size=16, latent_channels=16, patch_size=2, width=384, heads=6,
                     layers=8, classes=CLASSES, vae=mmdit.sticker().build_vae,
                     defaults=_defaults(16, steps=50, guidance=2.0, classes=CLASSES))  # fmt: skip


def tiny() -> DiTConfig:
    """For tests: 32 px, 4 blocks, 16 tokens, random weights, built in no time."""
    return DiTConfig(latent_size=4, latent_channels=4, patch_size=1, width=32, heads=2, layers=4,
                     classes=CLASSES, vae=mmdit.tiny().build_vae,
                     defaults=_defaults(4, steps=10, guidance=2.0, classes=CLASSES))  # fmt: skip


PRESETS = {"xl-2": xl_2, "sticker": sticker, "tiny": tiny}
