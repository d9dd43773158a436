"""Searches: more of a generator's time for better pictures."""

from impasto.search.base import Candidate, Draw, Drawn, Search, Selection
from impasto.search.best_of_n import BestOfN, Importance
from impasto.search.none import NoSearch
from impasto.search.reward import RewardBroken
from impasto.search.tts_var import TTSVar

__all__ = ["BestOfN", "Candidate", "Draw", "Drawn", "Importance", "NoSearch", "RewardBroken",
           "Search", "Selection", "TTSVar"]  # fmt: skip
