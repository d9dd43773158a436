"""Models of other libraries, drawn with as they are: no steps to hold, no previews."""

from impasto.models.foreign.pipelines import DiffusersGenerator

__all__ = ["DiffusersGenerator"]
