"""The "tokenflow" family: two codebooks under one index, and language models over it."""

from impasto.models.tokenflow.config import (
    PRESETS,
    TOKENIZERS,
    TRANSFORMERS,
    TokenFlowConfig,
    TokenizerConfig,
    TransformerConfig,
)
from impasto.models.tokenflow.loading import tokenflow
from impasto.models.tokenflow.model import TokenFlowTransformer
from impasto.models.tokenflow.pipeline import TokenFlowGenerator
from impasto.models.tokenflow.sampler import STRATEGIES, Defaults
from impasto.models.tokenflow.text import train_words
from impasto.models.tokenflow.tokenizer import TokenFlowTokenizer

__all__ = ["PRESETS", "STRATEGIES", "TOKENIZERS", "TRANSFORMERS", "Defaults", "TokenFlowConfig",
           "TokenFlowGenerator", "TokenFlowTokenizer", "TokenFlowTransformer", "TokenizerConfig",
           "TransformerConfig", "tokenflow", "train_words"]  # fmt: skip
