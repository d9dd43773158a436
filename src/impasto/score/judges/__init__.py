"""Judges: models that look at pictures and answer questions in words or probabilities."""

from impasto.score.judges.base import Judge, NoProbabilities, Question, Unanswered, variants_of
from impasto.score.judges.cache import CachedJudge
from impasto.score.judges.make import make_judge
from impasto.score.judges.prompts import fill

__all__ = [
    "CachedJudge",
    "Judge",
    "NoProbabilities",
    "Question",
    "Unanswered",
    "fill",
    "make_judge",
    "variants_of",
]
