"""Reconstruction runs in words and in one table: the same figures for the page and the terminal.

    31.24 [30.9, 31.6]      a mean with its 95 % interval over pictures
    +0.52 [+0.4, +0.6] ★    a paired difference whose interval excludes zero
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from impasto.report.sheet import Sheet
from impasto.report.stack import terminal
from impasto.report.words import DASH, size
from impasto.run.reconstructions import Reconstructed

__all__ = ["Figure", "difference_text", "figures", "meant", "reconstruction_table", "result",
           "value_text"]  # fmt: skip

NAMES = {"psnr": "PSNR, dB ↑", "mean_color_error": "mean colour error, of 255 ↓",
         "kept": "verdicts kept ↑"}  # fmt: skip
UP = ("ssim_",)
"""Measures that are better when larger; other means and distances when smaller."""


class Figure(NamedTuple):
    """A line: what it is, its value in each run, and its differences from the first."""

    name: str
    values: list[str]
    differences: list[str]


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign},.0f}" if abs(value) >= 1000 else f"{value:{sign}.4g}"


def value_text(entry: Mapping[str, Any] | None) -> str:
    """Of an entry with value, perhaps low and high; a dash for none."""
    if entry is None or entry["value"] is None:
        return DASH
    spread = f" [{_number(entry['low'])}, {_number(entry['high'])}]" if "low" in entry else ""
    return _number(entry["value"]) + spread


def difference_text(entry: Mapping[str, float] | None) -> str:
    """A paired difference; "" where there is none."""
    if entry is None:
        return ""
    if "low" not in entry:
        return _number(entry["value"], "+")
    star = " ★" if entry["low"] > 0 or entry["high"] < 0 else ""
    low, high = (_number(entry[key], "+") for key in ("low", "high"))
    return f"{_number(entry['value'], '+')} [{low}, {high}]{star}"


def _name(key: str) -> str:
    if key in NAMES:
        return NAMES[key]
    better = "↑" if key.startswith((*UP, "precision_", "recall_", "is_")) else "↓"
    return f"{key.replace('ssim_', 'SSIM ').replace('lpips_', 'LPIPS ')} {better}"


def _measured(runs: Sequence[Reconstructed], part: str) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for run in runs for key in run.summary[part])
    return {key: [run.summary[part].get(key) for run in runs] for key in keys}


def _kept(run: Reconstructed) -> Any:
    return (run.summary.get("verdicts") or {}).get("overall")


def _share(value: float | None) -> str:
    return DASH if value is None else f"{value:.3g}"


def _meaning(run: Reconstructed, key: str) -> float | None:
    return (run.summary.get("meaning") or {}).get(key)


def _speed(run: Reconstructed, key: str) -> str:
    speed = run.cost.get("pictures_per_second")
    return DASH if speed is None else f"{speed[key]:,.0f} ({speed['device']})"


def _same_class(run: Reconstructed) -> str:
    same, chance = _meaning(run, "same_class"), _meaning(run, "chance")
    return DASH if same is None or chance is None else f"{same:.3g} (chance {chance:.3g})"


ABOUT: Mapping[str, Callable[[Reconstructed], str]] = {
    "tokens a picture": lambda run: f"{run.summary['tokens']['per_picture']:,}",
    "bits a picture": lambda run: f"{run.summary['tokens']['bits']:,.0f}",
    "codes used": lambda run: f"{run.summary['codebook']['distinct']:,} of "
                              f"{run.summary['codebook']['size']:,}",
    "perplexity of codes": lambda run: _number(run.summary["codebook"]["perplexity"]),
    "same class within a code ↑": _same_class,
    "colour variance left within a code ↓": lambda run: _share(_meaning(run, "color_left")),
}  # fmt: skip
SPEEDS = {"pictures encoded a second": "encode", "pictures decoded a second": "decode"}


def figures(
    runs: Sequence[Reconstructed], changes: Sequence[Mapping[str, dict[str, float]]] = ()
) -> list[Figure]:
    """All lines. changes: of every further run from the first (`run.reconstructions`)."""
    rows = [Figure(_name(key), [value_text(entry) for entry in entries],
                   [difference_text(change.get(key)) for change in changes])
            for part in ("means", "distances") for key, entries in _measured(runs, part).items()]
    none = ["" for _ in changes]
    if any(_kept(run) for run in runs):
        rows.append(Figure(NAMES["kept"], [value_text(_kept(run)) for run in runs],
                           [difference_text(change.get("kept")) for change in changes]))
    for name, text in ABOUT.items():
        values = [text(run) if run.codes else DASH for run in runs]
        rows += [Figure(name, values, none)] if set(values) != {DASH} else []
    for name, key in SPEEDS.items():
        values = [_speed(run, key) for run in runs]
        rows += [Figure(name, values, none)] if set(values) != {DASH} else []
    return rows


def meant(run: Reconstructed) -> list[str]:
    """What a run's codes stand for, in sentences."""
    repeated, left = _meaning(run, "repeated"), _meaning(run, "color_left")
    lines = [f"{repeated:.0%} of the places have a code that occurs more than once."]
    if left is not None:
        lines.append(f"{left:.1%} of the variance of a place's mean colour is left among places "
                     f"of one code.")  # fmt: skip
    same, chance = _meaning(run, "same_class"), _meaning(run, "chance")
    if same is not None and chance is not None:
        lines.append(f"Two places of one code show the same class (or both background) "
                     f"{100 * same:.0f} times in a hundred, any two {100 * chance:.0f}.")
    return lines


def _alone(run: Reconstructed) -> str:
    psnr = run.summary["means"]["psnr"]
    quality = ("brings every picture back exactly" if psnr["value"] is None else
               f"brings pictures back at {value_text(psnr)} dB")  # fmt: skip
    if run.codes is None:
        return f"{run.label} {quality}, through continuous latents."
    tokens, (height, width) = run.summary["tokens"], run.summary["size"]
    return (f"{run.label} {quality}, from {size(tokens['per_picture'], 'token')} of "
            f"{tokens['bits']:,.0f} bits together ({tokens['bits'] / height / width:.3g} a "
            f"pixel).")  # fmt: skip


def result(runs: Sequence[Reconstructed]) -> list[str]:
    """A sentence for each run."""
    return [_alone(run) for run in runs]


def reconstruction_table(
    runs: Sequence[Reconstructed], changes: Sequence[Mapping[str, dict[str, float]]]
) -> str:
    """The page's table for a terminal."""
    base = runs[0]
    rows = tuple((line.name, *line.values, *line.differences) for line in figures(runs, changes))
    about = (f"{size(base.summary['number'], 'picture')} of {base.summary['pictures']}; 95 % "
             f"intervals over pictures.")  # fmt: skip
    paired = "Differences are paired by picture; ★ the interval excludes zero."
    columns = ("", *(run.label for run in runs),
               *(f"{run.label} − {base.label}" for run in runs[1:]))  # fmt: skip
    return terminal([Sheet("Reconstruction", columns, rows,
                           (about, paired) if changes else (about,))])  # fmt: skip
