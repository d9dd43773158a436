"""The "mmdit" family: flow matching with diffusers' SD3Transformer2DModel."""

from impasto.models.mmdit.config import PRESETS, Defaults, MMDiTConfig
from impasto.models.mmdit.pipeline import MMDiTGenerator, Pictures
from impasto.models.mmdit.text import train_tokenizer

__all__ = ["PRESETS", "Defaults", "MMDiTConfig", "MMDiTGenerator", "Pictures", "train_tokenizer"]
