"""`impasto demo`: the tour. Draw, judge, improve by search, look."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from impasto.cli import build, options
from impasto.cli.errors import guarded
from impasto.cli.progress import progress

__all__ = ["demo"]

MODEL, SCORER, SECOND = "sticker-mmdit", "sticker", "sticker-clip"
SEARCHES = {"base": "none", "best-of-4": "best-of-n:n=4"}
LIMIT = 24
"""24 prompts are 24 + 96 pictures: about three minutes at the 1.5 s a picture of two cores."""


@guarded
def demo(
    *,
    limit: Annotated[
        int, typer.Option(min=1, help="Prompts, spread over GenEval's tasks.")
    ] = LIMIT,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("runs/demo"),
    device: options.Device = "auto",
) -> None:
    """Draw a sample of GenEval's prompts, judge it, improve it by best-of-4, write a report."""
    from impasto.cli.page import show, write_page
    from impasto.run.evaluate import evaluate
    from impasto.run.settings import Settings

    at = build.device_of(device)
    settings = Settings(
        bench=build.bench("geneval"),
        scorer=build.scorer(SCORER, at),
        second=build.scorer(SECOND, at),
        limit=limit,
        samples=1,
        names={"model": MODEL, "scorer": SCORER, "second": SECOND},
    )
    model = build.model(MODEL, at)
    runs = []
    for folder, search in SEARCHES.items():
        named = replace(settings, names={**settings.names, "search": search})
        with progress(prefix=f"{folder}: ") as report:
            runs.append(evaluate(named, model, build.search(search, at), out / folder,
                                 progress=report).path)  # fmt: skip
    page = out / "report.html"
    show(runs, write_page(runs, page), page, as_json=False)
