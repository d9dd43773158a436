"""The "infinity" family: next-scale prediction of binary tokens."""

import torch

from impasto.models.infinity.config import PRESETS, TOKENIZERS, TRANSFORMERS, InfinityConfig
from impasto.models.infinity.loading import infinity
from impasto.models.infinity.model import InfinityTransformer
from impasto.models.infinity.pipeline import InfinityGenerator
from impasto.models.infinity.sampler import Defaults
from impasto.models.infinity.tokenizer import InfinityTokenizer
from impasto.models.infinity.warm import from_autoencoder, from_tokenizer
from impasto.zoo.registry import MODELS

__all__ = [
    "PRESETS", "TOKENIZERS", "TRANSFORMERS", "Defaults", "InfinityConfig", "InfinityGenerator",
    "InfinityTokenizer", "InfinityTransformer", "from_autoencoder", "from_tokenizer",
    "infinity", "sticker_infinity",
]  # fmt: skip


@MODELS.register("sticker-infinity", trained=("infinity",))
def sticker_infinity(
    *, torch_dtype: torch.dtype | str = torch.float32, device: torch.device | str = "cpu"
) -> InfinityGenerator:
    """128 px pictures of the sticker world, scale by scale in 7 scales, 11 M parameters."""
    return InfinityGenerator.from_pretrained("sticker-infinity", torch_dtype=torch_dtype,
                                             device=device)  # fmt: skip
