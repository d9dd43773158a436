"""The "dit" family: a diffusion over latents, by class, with diffusers' DiTTransformer2DModel."""

from impasto.models.dit.config import PRESETS, Defaults, DiTConfig
from impasto.models.dit.loading import dit
from impasto.models.dit.pipeline import DiTGenerator

__all__ = ["PRESETS", "Defaults", "DiTConfig", "DiTGenerator", "dit"]
