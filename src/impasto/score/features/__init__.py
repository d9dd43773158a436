"""Feature extractors: what distances between sets of pictures are computed of, and patches: what a
search tells layouts apart by. Importing this registers them by name."""

from impasto.score.features.base import Extractor
from impasto.score.features.flavours import FLAVOURS, InceptionExtractor
from impasto.score.features.networks import ClipExtractor, DetectorExtractor
from impasto.score.features.patches import Patches

__all__ = ["FLAVOURS", "ClipExtractor", "DetectorExtractor", "Extractor", "InceptionExtractor",
           "Patches"]  # fmt: skip
