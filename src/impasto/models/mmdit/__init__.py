"""The "mmdit" family: flow matching with diffusers' SD3Transformer2DModel."""

import torch

from impasto.models.mmdit.config import PRESETS, Defaults, MMDiTConfig
from impasto.models.mmdit.pipeline import MMDiTGenerator
from impasto.models.mmdit.text import train_tokenizer
from impasto.zoo.registry import MODELS

__all__ = ["PRESETS", "Defaults", "MMDiTConfig", "MMDiTGenerator", "sticker_mmdit",
           "train_tokenizer"]  # fmt: skip


@MODELS.register("sticker-mmdit", trained=("generator",))
def sticker_mmdit(
    *, torch_dtype: torch.dtype | str = torch.float32, device: torch.device | str = "cpu"
) -> MMDiTGenerator:
    """128 px pictures of the sticker world from GenEval prompts, 23 M parameters."""
    return MMDiTGenerator.from_pretrained("sticker-mmdit", torch_dtype=torch_dtype, device=device)
