"""`impasto demo`: the tour. Draw, judge, improve by search, look."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from impasto.cli import build, options
from impasto.cli.errors import guarded
from impasto.cli.progress import progress

__all__ = ["demo"]

MODEL, SCORER, SECOND = "sticker-mmdit", "sticker", "sticker-clip"
SEARCH = "best-of-n:n=4"
LIMIT = 24
"""24 prompts are 24 + 96 pictures: under a minute on two cores that have nothing else to do."""


@guarded
def demo(
    *,
    limit: Annotated[
        int, typer.Option(min=1, help="Prompts, spread over GenEval's tasks.")
    ] = LIMIT,
    model: options.Model = MODEL,
    search: Annotated[str, typer.Option(help="Search; see 'impasto ls searches'.")] = SEARCH,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o",
                     help="Folder to write (default: runs/demo, or runs/demo-MODEL)."),
    ] = None,
    device: options.Device = "auto",
) -> None:
    """Draw a sample of GenEval's prompts, judge it, improve it by a search, write a report."""
    from impasto.cli.page import show, write_page
    from impasto.run.evaluate import evaluate
    from impasto.run.settings import Settings

    at = build.device_of(device)
    out = out or Path("runs") / ("demo" if model == MODEL else f"demo-{_folder(model)}")
    settings = Settings(
        bench=build.bench("geneval"),
        scorer=build.scorer(SCORER, at),
        second=build.scorer(SECOND, at),
        limit=limit,
        samples=1,
        names={"model": model, "scorer": SCORER, "second": SECOND},
    )
    generator = build.model(model, at)
    runs = []
    for folder, text in {"base": "none", _folder(search): search}.items():
        named = replace(settings, names={**settings.names, "search": text})
        with progress(prefix=f"{folder}: ") as report:
            runs.append(evaluate(named, generator, build.search(text, at), out / folder,
                                 progress=report).path)  # fmt: skip
    page = out / "report.html"
    show(runs, write_page(runs, page), page, as_json=False)


def _folder(search: str) -> str:
    """A search's name as a folder's: "best-of-n:n=4" -> "best-of-n-n-4"."""
    return re.sub(r"[^\w.]+", "-", search).strip("-")
