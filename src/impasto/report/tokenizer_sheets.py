"""The tables of the step `tokenizers`: what each keeps, differences, what a probe reads."""

from __future__ import annotations

from collections.abc import Sequence

from impasto.report.sheet import Sheet, Values, changed, numbered, scored
from impasto.report.words import DASH

__all__ = ["tokenizers"]

NAMED = {"psnr": "PSNR", "mean_color_error": "mean colour error"}
"""Measures of a picture that are no distances between features, and their columns."""


def _interval(values: Values | None, decimals: int = 3) -> str:
    if not values or "low" not in values:
        return DASH
    return scored([values[key] for key in ("value", "low", "high")], decimals)


def _column(key: str) -> str:
    """"perceptual_sticker_clip" as a column's name."""
    return NAMED.get(key, key.removeprefix("perceptual_").replace("_", " "))


def _decimals(key: str) -> int:
    return 2 if key in NAMED else 4


def tokenizers(table: Values) -> list[Sheet]:
    found = [_kept(table), _together(table)]
    if any(row["differences"] for row in table["rows"]):
        found.append(_kept_differences(table))
    if any(row["probe"] for row in table["rows"]):
        found.append(_probes(table))
    return found


def _near(rows: Sequence[Values]) -> list[str]:
    """Measures of a picture that are distances."""
    means = rows[0]["summary"]["means"]
    return [key for key in means if key.startswith(("perceptual_", "lpips_"))]


def _kept(table: Values) -> Sheet:
    rows = table["rows"]
    measured = (*NAMED, *_near(rows))
    lines = tuple((row["name"], *(_interval(row["summary"]["means"].get(key), _decimals(key))
                                  for key in measured),
                   _interval(row["summary"].get("verdicts", {}).get("overall"))) for row in rows)
    columns = ("tokenizer", *map(_column, measured), "verdicts kept")
    return Sheet(table["title"], columns, lines, (
        f"{table['pictures']}; 95 % intervals over pictures. Mean colour error: how far the mean "
        f"colours of a picture and its reconstruction are apart, of 255. Distances between both "
        f"in the features of the named network, from 0 to 4. Verdicts by {table['scorer']}: of "
        f"the originals that it accepts, the share whose reconstruction it accepts.",
    ))  # fmt: skip


def _together(table: Values) -> Sheet:
    """What is of all pictures together: by itself, or the first table would be too wide."""
    rows, lines = table["rows"], []
    apart = [key for key in rows[0]["summary"]["distances"] if key.startswith(("fd_", "rfid_"))]
    for row in rows:
        summary, use = row["summary"], row["summary"].get("codebook")
        lines.append((
            row["name"],
            *(numbered(summary["distances"].get(key, {}).get("value")) for key in apart),
            DASH if use is None else f"{use['share']:.1%}",
            DASH if use is None else f"{use['perplexity']:,.0f} of {use['size']:,}",
        ))  # fmt: skip
    names = (f"r{key}".replace("_", " ") for key in apart)
    return Sheet(f"{table['title']}: all pictures together",
                 ("tokenizer", *names, "codes used", "perplexity"), tuple(lines),
                 ("rfd: Fréchet distance between the reconstructions and their originals, in the "
                  "features of the named network.",) if apart else ())  # fmt: skip


def _kept_differences(table: Values) -> Sheet:
    rows = [row for row in table["rows"] if row["differences"]]
    keys = list(rows[0]["differences"])
    lines = tuple((row["name"], *(changed(row["differences"].get(key), _decimals(key))
                                  for key in keys)) for row in rows)  # fmt: skip
    return Sheet(f"{table['title']}: difference from {table['base']}",
                 ("tokenizer", *map(_column, keys)), lines,
                 ("Picture by picture; * the interval excludes zero.",))  # fmt: skip


def _probes(table: Values) -> Sheet:
    lines = [(f"{row['name']}, {part} codes" if len(row["probe"]) > 1 else row["name"],
              str(found["channels"]), _interval(found["class"]), _interval(found["color"]))
             for row in table["rows"] for part, found in row["probe"].items()]  # fmt: skip
    asked = next(found for row in table["rows"] for found in row["probe"].values())
    return Sheet(f"{table['title']}: what a linear probe reads off the codes",
                 ("tokenizer", "channels", "class of the object", "its colour"), tuple(lines),
                 (f"Share of the places with an object that ridge regression on the decoders' "
                  f"input tells, learnt from {asked['learnt_from']:,} scenes and asked about "
                  f"{asked['asked']:,} others.",))  # fmt: skip
