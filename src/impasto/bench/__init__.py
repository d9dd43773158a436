"""Sets of specs, how their pictures lie on disk, and how verdicts are summed up."""

from impasto.bench.base import Bench
from impasto.bench.dpg import dpg
from impasto.bench.edits import gedit, imgedit
from impasto.bench.flat import scan_flat
from impasto.bench.geneval2 import geneval2
from impasto.bench.geneval_plus import geneval_plus, sticker_plus
from impasto.bench.geneval_prompts import geneval, geneval_specs
from impasto.bench.gqa import gqa
from impasto.bench.imagine import imagine
from impasto.bench.layout import IncompleteError, Picture, is_geneval, scan
from impasto.bench.mmbench import mmbench
from impasto.bench.mme import mme
from impasto.bench.pope import pope
from impasto.bench.results import Record, outcomes, read_results, write_results
from impasto.bench.rewritten import geneval_rewritten, rewritten
from impasto.bench.sticker import sticker
from impasto.bench.sticker_edits import sticker_edits, sticker_imagine
from impasto.bench.sticker_questions import sticker_questions
from impasto.bench.sticker_tifa import sticker_tifa
from impasto.bench.summary import summarise, summary_text

__all__ = [
    "Bench",
    "IncompleteError",
    "Picture",
    "Record",
    "dpg",
    "gedit",
    "geneval",
    "geneval2",
    "geneval_plus",
    "geneval_rewritten",
    "geneval_specs",
    "gqa",
    "imagine",
    "imgedit",
    "is_geneval",
    "mmbench",
    "mme",
    "outcomes",
    "pope",
    "read_results",
    "rewritten",
    "scan",
    "scan_flat",
    "sticker",
    "sticker_edits",
    "sticker_imagine",
    "sticker_plus",
    "sticker_questions",
    "sticker_tifa",
    "summarise",
    "summary_text",
    "write_results",
]
