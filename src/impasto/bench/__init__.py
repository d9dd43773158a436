"""Sets of specs, how their pictures lie on disk, and how verdicts are summed up."""

from impasto.bench.base import Bench
from impasto.bench.dpg import dpg
from impasto.bench.flat import scan_flat
from impasto.bench.geneval2 import geneval2
from impasto.bench.geneval_plus import geneval_plus, sticker_plus
from impasto.bench.geneval_prompts import geneval, geneval_specs
from impasto.bench.layout import IncompleteError, Picture, is_geneval, scan
from impasto.bench.results import Record, outcomes, read_results, write_results
from impasto.bench.rewritten import geneval_rewritten, rewritten
from impasto.bench.sticker import sticker
from impasto.bench.sticker_tifa import sticker_tifa
from impasto.bench.summary import summarise, summary_text

__all__ = [
    "Bench",
    "IncompleteError",
    "Picture",
    "Record",
    "dpg",
    "geneval",
    "geneval2",
    "geneval_plus",
    "geneval_rewritten",
    "geneval_specs",
    "is_geneval",
    "outcomes",
    "read_results",
    "rewritten",
    "scan",
    "scan_flat",
    "sticker",
    "sticker_plus",
    "sticker_tifa",
    "summarise",
    "summary_text",
    "write_results",
]
