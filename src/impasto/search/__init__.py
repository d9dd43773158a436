"""Searches: more of a generator's time for better pictures."""

from impasto.search.base import Candidate, Draw, Drawn, Search
from impasto.search.best_of_n import BestOfN, RewardBroken
from impasto.search.candidates import Candidates
from impasto.search.none import NoSearch

__all__ = ["BestOfN", "Candidate", "Candidates", "Draw", "Drawn", "NoSearch", "RewardBroken",
           "Search"]  # fmt: skip
