"""Scorers: pictures and specs in, scores out. Importing this registers them by name."""

from impasto.score.base import Found, Score, Scorer, ScorerBroken
from impasto.score.sticker import sticker, sticker_clip

__all__ = ["Found", "Score", "Scorer", "ScorerBroken", "sticker", "sticker_clip"]
