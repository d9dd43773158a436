"""The summaries of `impasto measure` in plain text, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from impasto.report.words import size

__all__ = ["measured_text"]

Row = tuple[str, str, str]
"""What, its value, its interval or spread."""


def _number(value: float) -> str:
    """Four significant digits, or as many as a number above 1,000 has."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _row(name: str, entry: Mapping[str, Any]) -> Row:
    value = "-" if entry["value"] is None else _number(entry["value"])
    spread = ""
    if "low" in entry:
        spread = f"[{_number(entry['low'])}, {_number(entry['high'])}]"
    elif "std" in entry:
        spread = f"± {_number(entry['std'])}"
    return name, value, spread


def _rows(summary: Mapping[str, Any]) -> Iterator[Row]:
    for name, entry in summary.get("means", {}).items():
        yield _row(f"{name} (dB)" if name == "psnr" else name, entry)
    for name, entry in summary["distances"].items():
        yield _row(name, entry)
    if (verdicts := summary.get("verdicts")) is not None:
        for task, entry in verdicts["tasks"].items():
            name, value, spread = _row(f"verdicts kept, {task}", entry)
            yield name, value, f"{spread} {entry['kept']} of {entry['of']}"
        if verdicts["overall"] is not None:
            yield _row("verdicts kept", verdicts["overall"])
    yield from _codes(summary)


def _codes(summary: Mapping[str, Any]) -> Iterator[Row]:
    if (codebook := summary.get("codebook")) is None:
        return
    tokens, (height, width) = summary["tokens"], summary["size"]
    yield "tokens a picture", _number(tokens["per_picture"]), ""
    a_pixel = tokens["bits"] / (height * width)
    yield "bits a picture", _number(tokens["bits"]), f"{a_pixel:.3g} a pixel"
    maps = summary["maps"] if len(summary["maps"]) > 1 else []
    named = [(f", map {entry['size'][0]} x {entry['size'][1]}", entry) for entry in maps]
    for name, entry in [*named, ("", codebook)]:
        yield (f"codes used{name}", _number(entry["distinct"]),
               f"of {codebook['size']:,}, for {entry['ids']:,} ids; perplexity "
               f"{_number(entry['perplexity'])}")  # fmt: skip
    meaning = summary["meaning"]
    if meaning.get("same_class") is not None:
        yield ("same class within a code", _number(meaning["same_class"]),
               f"by chance {_number(meaning['chance'])}")  # fmt: skip
    if meaning["color_left"] is not None:
        yield "colour variance left in a code", _number(meaning["color_left"]), ""


def _notes(summary: Mapping[str, Any]) -> Iterator[str]:
    """What the numbers are of."""
    if "means" in summary:
        height, width = summary["size"]
        yield f"{summary['model']} on {size(summary['number'], 'picture')}, {width} x {height}"
        if exact := summary["means"]["psnr"]["exact"]:
            rest = "PSNR is the mean of the others" if exact < summary["number"] else "no PSNR"
            yield f"{exact:,} came back exactly; {rest}"
        if any("low" in entry for entry in summary["means"].values()):
            yield "[ ]: 95 %, over pictures"
    else:
        samples, reference = (summary[key] for key in ("samples", "reference"))
        height, width = summary["pictures"]
        of = f"{size(reference['pictures'], 'picture')} of {reference['name']}"
        if reference["moments"]:
            more = f" and {of}" if reference["pictures"] else ""
            of = f"the moments in {reference['name']}{more}"
        yield f"{size(samples['pictures'], 'picture')} of {samples['name']}, {width} x {height}"
        yield f"from {of}"
    resized = [f"{name}: {how}" for name, how in summary["features"].items() if how != "none"]
    if resized:
        yield f"resized for their features; {'; '.join(resized)}"
    if summary.get("measured"):
        yield f"compared at {summary['measured']} x {summary['measured']}"


def _speeds(speed: Mapping[str, Any] | None) -> Iterator[Row]:
    if speed is None:
        return
    for what in ("encode", "decode"):
        yield (f"pictures {what}d a second", _number(speed[what]),
               f"{speed['batch']} at once on {speed['device']}")  # fmt: skip


def measured_text(summary: Mapping[str, Any], speed: Mapping[str, Any] | None = None) -> str:
    """Names, values and intervals, then what they are of; without a final line end.

    speed: `cost.json`'s "pictures_per_second", of a GPU.
    """
    rows = [*_rows(summary), *_speeds(speed)]
    widths = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
    lines = [f"{name:<{widths[0]}}  {value:>{widths[1]}}  {spread}".rstrip()
             for name, value, spread in rows]  # fmt: skip
    return "\n".join([*lines, "", *_notes(summary)])
