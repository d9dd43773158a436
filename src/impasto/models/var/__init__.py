"""The "var" family: next-scale prediction of a codebook's tokens, by class."""

from impasto.models.var.config import PRESETS, TOKENIZERS, TRANSFORMERS, VARConfig
from impasto.models.var.loading import var
from impasto.models.var.model import VARTransformer
from impasto.models.var.pipeline import VARGenerator
from impasto.models.var.sampler import Defaults
from impasto.models.var.tokenizer import VARTokenizer

__all__ = ["PRESETS", "TOKENIZERS", "TRANSFORMERS", "Defaults", "VARConfig", "VARGenerator",
           "VARTokenizer", "VARTransformer", "var"]  # fmt: skip
