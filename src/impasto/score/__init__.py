"""Scorers: pictures and specs in, scores out. Importing this registers them by name."""

from impasto.score.base import Found, Score, Scorer, ScorerBroken, Wanted
from impasto.score.official import OfficialScorer, geneval
from impasto.score.sticker import sticker, sticker_clip

__all__ = [
    "Found",
    "OfficialScorer",
    "Score",
    "Scorer",
    "ScorerBroken",
    "Wanted",
    "geneval",
    "sticker",
    "sticker_clip",
]
