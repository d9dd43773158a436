"""Scorers: pictures and specs in, scores out. Importing this registers them by name."""

from impasto.score.base import Found, Score, Scorer, ScorerBroken, Wanted
from impasto.score.dpg import dpg_scorer
from impasto.score.edits import gedit_scorer
from impasto.score.geneval2 import geneval2_scorer
from impasto.score.imagine import imagine_scorer
from impasto.score.imgedit import imgedit_scorer
from impasto.score.official import OfficialScorer, geneval
from impasto.score.preference import aesthetic_v1, aesthetic_v2, image_reward
from impasto.score.sticker import sticker, sticker_clip, sticker_match
from impasto.score.sticker_edits import sticker_edits
from impasto.score.sticker_imagine import sticker_imagine
from impasto.score.tifa_detector import sticker_tifa

__all__ = [
    "Found",
    "OfficialScorer",
    "Score",
    "Scorer",
    "ScorerBroken",
    "Wanted",
    "aesthetic_v1",
    "aesthetic_v2",
    "dpg_scorer",
    "gedit_scorer",
    "geneval",
    "geneval2_scorer",
    "image_reward",
    "imagine_scorer",
    "imgedit_scorer",
    "sticker",
    "sticker_clip",
    "sticker_edits",
    "sticker_imagine",
    "sticker_match",
    "sticker_tifa",
]
