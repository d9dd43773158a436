"""Models of other libraries and servers, drawn with as they are: no steps to hold, no previews."""

from impasto.models.foreign.api import ImageAPI
from impasto.models.foreign.pipelines import DiffusersGenerator

__all__ = ["DiffusersGenerator", "ImageAPI"]
