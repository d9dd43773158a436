"""`impasto compare`: runs side by side, paired by prompt and seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from impasto.cli import options
from impasto.cli.errors import guarded

__all__ = ["compare"]


@guarded
def compare(
    *,
    runs: Annotated[list[Path], typer.Argument(help="Run folders; the first is the base.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Page to write (default: beside the first run, named after all)."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare finished runs of the same prompts, seeds and judges; writes a page.

    Differences are paired picture by picture, with 95 % intervals over prompts.
    """
    from impasto.cli.page import show, write_page

    names = "-".join(run.resolve().name for run in runs)
    page = out or runs[0].resolve().parent / f"compare-{names}.html"
    show(runs, write_page(runs, page), page, as_json)
