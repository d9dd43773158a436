"""The "layton" family: few tokens of a small copy, decoded to a large picture by diffusion."""

from impasto.models.layton.config import TOKENIZERS, TokenizerConfig
from impasto.models.layton.sampler import DECODINGS, Decoding
from impasto.models.layton.tokenizer import LaytonTokenizer

__all__ = ["DECODINGS", "TOKENIZERS", "Decoding", "LaytonTokenizer", "TokenizerConfig"]
