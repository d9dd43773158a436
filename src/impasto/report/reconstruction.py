"""The page of tokenizers: figures side by side, use and meaning of codes, pictures.

One HTML file as a run's page is (`impasto.report.page`), of one reconstruction run or of several
over the same pictures. What it shows was kept by the runs (`impasto.run.shown`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from impasto.files import write_text
from impasto.images import read_image
from impasto.report import provenance
from impasto.report.bars import curves, level
from impasto.report.page import environment, source
from impasto.report.pictures import Embedded, embed, embedded
from impasto.report.reconstruction_words import figures, meant, result
from impasto.report.words import size
from impasto.run.reconstructions import Reconstructed, differences, read_reconstructions
from impasto.run.shown import PATCHES, image_name
from impasto.run.tokens import difference

__all__ = ["write_reconstruction_report"]

KINDS = {"worst": "worst", "best": "best", "random": "at random"}
"""Why a picture is shown -> the filter's words."""


@dataclass(frozen=True)
class Shot:
    """picture, what it is in words, and a line of figures below."""

    picture: Embedded
    title: str
    figure: str = ""
    run: int | None = None


@dataclass(frozen=True)
class Row:
    """A picture: its name, why it is shown, and its shots."""

    name: str
    kind: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class Code:
    """An id of a run's last map, with patches that have it in one picture."""

    id: int
    count: str
    shown: str
    strip: Embedded
    patches: int


def write_reconstruction_report(
    runs: Sequence[Path], page: Path, labels: Sequence[str] | None = None
) -> Path:
    """Write the page of finished reconstruction runs, the first the base, whole or not at all.

    labels: what the runs are called; default their tokenizers' names. The same runs give the same
    bytes. Raises ValueError for folders that are no such runs or are of other pictures, and what
    `impasto.report.pictures.embed` raises.
    """
    read = read_reconstructions(runs, labels)
    text = environment().get_template("reconstruction.html").render(
        **source("page.css", "style"), **source("page.js", "script"), runs=read,
        version=version("impasto"), kicker=_kicker(read[0]), result=result(read),
        figures=figures(read, [differences(read[0], run) for run in read[1:]]),
        uses=[_use(number, run) for number, run in enumerate(read) if run.codes],
        cover=_cover(read), codes=[_codes(number, run) for number, run in enumerate(read)
                                   if run.codes],
        rows=_gallery(read), kinds=KINDS, patches=PATCHES, settings=provenance.settings(read),
        records=[(run.label, provenance.whole(run), provenance.files(run, page)) for run in read],
    )  # fmt: skip
    write_text(page, text)
    return Path(page)


def _kicker(run: Reconstructed) -> list[str]:
    height, width = run.summary["size"]
    return ["reconstruction", run.summary["pictures"], size(run.summary["number"], "picture"),
            f"{width} × {height}"]  # fmt: skip


# ---------------------------------------------------------------- codes


def _use(number: int, run: Reconstructed) -> dict[str, Any]:
    """Its maps: size, ids, and how many codes are used, drawn against the most there could be."""
    size_of_all = run.summary["codebook"]["size"]
    lines = []
    for entry in run.summary["maps"]:
        most = min(size_of_all, entry["ids"])
        lines.append({"name": f"{entry['size'][0]} × {entry['size'][1]}",
                      "ids": f"{entry['ids']:,}", "distinct": f"{entry['distinct']:,}",
                      "share": f"{100 * entry['share']:.3g} %",
                      "perplexity": f"{entry['perplexity']:,.1f}",
                      "used": level(entry["distinct"] / most, number),
                      "even": level(entry["perplexity"] / most, number)})  # fmt: skip
    return {"number": number, "label": run.label, "size": f"{size_of_all:,}", "lines": lines}


def _cover(runs: Sequence[Reconstructed]) -> dict[str, Any] | None:
    """Share of the last map's ids that the k most used codes make up, of all runs in one plot."""
    drawn = [(number, run.codes["cover"]) for number, run in enumerate(runs) if run.codes]
    if not drawn:
        return None
    end = max(points[-1][0] for _, points in drawn)
    ticks = sorted({round(end ** (i / 4)) for i in range(5)})
    half = [(runs[number].label, number,
             next(k for k, share in points if share >= 0.5)) for number, points in drawn]
    return {"svg": curves([([(_place(k, end), share) for k, share in points], number)
                           for number, points in drawn]),
            "ticks": [f"{tick:,}" for tick in ticks], "half": half}  # fmt: skip


def _place(k: int, end: int) -> float:
    """Of k codes on the axis, 0 to 1."""
    return math.log(k) / math.log(end) if end > 1 else 1.0


def _codes(number: int, run: Reconstructed) -> dict[str, Any]:
    assert run.codes is not None
    high, wide = run.codes["patch"]
    sheet = read_image(run.folder.path / "codes.png")
    groups: dict[str, list[Code]] = {}
    for line, code in enumerate(run.codes["codes"]):
        strip = sheet[:, line * high : (line + 1) * high, : code["patches"] * wide]
        shown = f"{code['class']} {code['class_share']:.0%}" if "class" in code else ""
        groups.setdefault(code["why"], []).append(
            Code(code["id"], f"{code['count']:,}", shown, embedded(strip), code["patches"]))
    h, w = run.codes["map"]
    return {"number": number, "label": run.label, "groups": groups, "said": meant(run),
            "map": f"{h} × {w}", "patch": f"{wide} × {high}"}  # fmt: skip


# ---------------------------------------------------------------- pictures


def _decibels(line: dict[str, Any]) -> str:
    return "exact" if line["psnr"] is None else f"{line['psnr']:.1f}\N{NO-BREAK SPACE}dB"


def _verdict(line: dict[str, Any]) -> str:
    """What became of the verdict, where it did not stay right."""
    if "before" not in line or line["before"] == line["after"]:
        return ""
    return "verdict lost" if line["before"] else "verdict gained"


def _shots(runs: Sequence[Reconstructed], i: int) -> tuple[Shot, ...]:
    name = image_name(i)
    path = runs[0].folder.path / "originals" / name
    original = read_image(path)
    shots = [Shot(embed(path), "original")]
    for number, run in enumerate(runs):
        line, restored = run.lines[i], run.folder.images / name
        figure = ", ".join(filter(None, (_decibels(line), _verdict(line))))
        shots.append(Shot(embed(restored), "reconstruction", figure, number))
        shots.append(Shot(embedded(difference(original, read_image(restored))), "difference × 4",
                          "", number))  # fmt: skip
    return tuple(shots)


def _gallery(runs: Sequence[Reconstructed]) -> list[Row]:
    return [Row(runs[0].lines[i]["name"], kind, _shots(runs, i))
            for kind in KINDS for i in runs[0].shown[kind]]


