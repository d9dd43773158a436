"""Models of other libraries and servers, drawn with as they are: no steps to hold, no previews."""

from impasto.models.foreign.api import ImageAPI
from impasto.models.foreign.pipelines import DiffusersGenerator
from impasto.models.foreign.tokens import Emu3Generator, JanusGenerator
from impasto.models.foreign.tokens_loading import load_tokens

__all__ = ["DiffusersGenerator", "Emu3Generator", "ImageAPI", "JanusGenerator", "load_tokens"]
