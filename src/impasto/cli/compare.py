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
        typer.Option("--out", "-o",
                     help="Page to write (default: beside the first run, named after all)."),
    ] = None,
    power: Annotated[
        float | None,
        typer.Option(help="Overall difference to see, 0.02 unless told: says how many prompts "
                          "show it, also for one run alone."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare finished runs of the same prompts, seeds and judges, or tokenizers; writes a page.

    Differences are paired picture by picture, with 95 % intervals over prompts, each task's p
    adjusted for their number. Also: the runs at equal pictures and equal FLOPs, where the two
    scorers disagree in direction, and how many prompts show a difference.

    Runs of 'impasto eval reconstruction' must be of the same pictures, and are paired by picture.
    """
    from impasto.cli.page import show, show_reconstructions, write_page
    from impasto.run.budget import budgets
    from impasto.run.compare import planned, verdicts_only
    from impasto.run.directory import RunDirectory
    from impasto.run.reconstructions import KIND

    names = "-".join(run.resolve().name for run in runs)
    page = out or runs[0].resolve().parent / f"compare-{names}.html"
    if any(RunDirectory.existing(run).record.get("kind") == KIND for run in runs):
        if power is not None:
            raise ValueError("--power is about prompts; reconstruction runs have none")
        show_reconstructions(runs, page, as_json)
        return
    plans = planned(runs, 0.02 if power is None else power)
    counts = all(verdicts_only(RunDirectory(run)) for run in runs)
    costs = budgets(runs) if len(runs) > 1 and counts else None
    differences = write_page(runs, page, costs, plans)
    show(runs, differences, page, as_json, budgets=costs, plans=plans)
