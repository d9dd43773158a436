"""The "layton" family: few tokens of a small copy, and what draws them after a text."""

from impasto.models.layton.config import (
    GENERATORS,
    TRANSFORMERS,
    GeneratorConfig,
    TransformerConfig,
)
from impasto.models.layton.loading import layton
from impasto.models.layton.model import LaytonTransformer
from impasto.models.layton.pipeline import LaytonGenerator
from impasto.models.layton.sampling import Defaults

__all__ = ["GENERATORS", "TRANSFORMERS", "Defaults", "GeneratorConfig", "LaytonGenerator",
           "LaytonTransformer", "TransformerConfig", "layton"]  # fmt: skip
