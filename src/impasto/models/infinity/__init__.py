"""The "infinity" family: next-scale prediction of binary tokens."""

from impasto.models.infinity.config import PRESETS, TOKENIZERS, TRANSFORMERS, InfinityConfig
from impasto.models.infinity.loading import infinity
from impasto.models.infinity.model import InfinityTransformer
from impasto.models.infinity.pipeline import InfinityGenerator
from impasto.models.infinity.sampler import Defaults
from impasto.models.infinity.tokenizer import InfinityTokenizer
from impasto.models.infinity.warm import from_autoencoder

__all__ = [
    "PRESETS", "TOKENIZERS", "TRANSFORMERS", "Defaults", "InfinityConfig", "InfinityGenerator",
    "InfinityTokenizer", "InfinityTransformer", "from_autoencoder", "infinity",
]  # fmt: skip
