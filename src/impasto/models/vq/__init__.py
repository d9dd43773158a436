"""The "vq" tokenizers: one codebook, one map."""

from impasto.models.vq.config import PRESETS, TokenizerConfig
from impasto.models.vq.tokenizer import Levels, VQTokenizer

__all__ = ["PRESETS", "Levels", "TokenizerConfig", "VQTokenizer"]
