"""The tables of the step `distances`: sets of pictures against a reference, by each network."""

from __future__ import annotations

from impasto.report.sheet import Sheet, Values, changed, scored
from impasto.report.words import size

__all__ = ["distances"]

NAMES = {"fd": "Fréchet distance", "kd": "kernel distance", "precision": "precision",
         "recall": "recall"}  # fmt: skip
"""Measure -> its column, where it is not its name."""


def distances(table: Values) -> list[Sheet]:
    """Of each extractor a table, with differences where there is a base."""
    return [_sheet(table, extractor) for extractor in table["features"]]


def _sheet(table: Values, extractor: str) -> Sheet:
    rows, base, network = table["rows"], table["base"], extractor.replace("_", " ")
    keys = [key for key in rows[0]["distances"] if key.endswith(f"_{extractor}")]
    names = [_name(key.removesuffix(f"_{extractor}")) for key in keys]
    more = [f"{name} − {base}'s" for name in names] if base else []
    lines = tuple((row["name"], f"{row['pictures']:,}",
                   *(scored(row["distances"][key], 4) for key in keys),
                   *(changed(row["differences"].get(key), 4) for key in keys if base))
                  for row in rows)  # fmt: skip
    reference = table["reference"]
    paired = ", paired; * the interval excludes zero" if base else ""
    return Sheet(f"{table['title']}: {network}", ("pictures of", "number", *names, *more), lines, (
        f"From {size(reference['pictures'], 'picture')} of {reference['name']}, by features of "
        f"{network}. 95 % intervals over prompts, jackknife of {table['groups']} groups{paired}. "
        f"A distance is larger of fewer pictures: compare rows of one number.",
    ))  # fmt: skip


def _name(measure: str) -> str:
    return NAMES.get(measure, measure)
