"""The "tokenflow" family: two codebooks under one index."""

from impasto.models.tokenflow.config import TOKENIZERS, TokenizerConfig
from impasto.models.tokenflow.tokenizer import TokenFlowTokenizer

__all__ = ["TOKENIZERS", "TokenFlowTokenizer", "TokenizerConfig"]
