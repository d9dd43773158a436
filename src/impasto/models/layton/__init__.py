"""The "layton" family: few tokens of a small copy, decoded to a large picture by diffusion, and
what draws them after a text."""

from impasto.models.layton.config import (
    GENERATORS,
    TOKENIZERS,
    TRANSFORMERS,
    GeneratorConfig,
    TokenizerConfig,
    TransformerConfig,
)
from impasto.models.layton.loading import layton
from impasto.models.layton.model import LaytonTransformer
from impasto.models.layton.pipeline import LaytonGenerator
from impasto.models.layton.sampler import DECODINGS, Decoding
from impasto.models.layton.sampling import Defaults
from impasto.models.layton.tokenizer import LaytonTokenizer

__all__ = ["DECODINGS", "GENERATORS", "TOKENIZERS", "TRANSFORMERS", "Decoding", "Defaults",
           "GeneratorConfig", "LaytonGenerator", "LaytonTokenizer", "LaytonTransformer",
           "TokenizerConfig", "TransformerConfig", "layton"]  # fmt: skip
