"""All judges by name: those of `score.judges`, and our own models that read pictures."""

from impasto.models.tokenflow.reader_folder import reader
from impasto.score.judges.named import endpoint, sticker, vlm

__all__ = ["endpoint", "reader", "sticker", "vlm"]
