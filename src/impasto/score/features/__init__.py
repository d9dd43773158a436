"""Feature extractors: what distances between sets of pictures are computed of. Importing this
registers them by name."""

from impasto.score.features.base import Extractor
from impasto.score.features.flavours import FLAVOURS, InceptionExtractor
from impasto.score.features.networks import ClipExtractor, DetectorExtractor

__all__ = ["FLAVOURS", "ClipExtractor", "DetectorExtractor", "Extractor", "InceptionExtractor"]
