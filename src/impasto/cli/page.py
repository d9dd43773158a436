"""What a command shows at its end: the report page, and a table or JSON on stdout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from impasto.report import write_report
from impasto.report.reconstruction import write_reconstruction_report
from impasto.report.reconstruction_words import reconstruction_table
from impasto.report.table import comparison_table
from impasto.run.budget import Budgets
from impasto.run.compare import Difference, compare
from impasto.run.directory import RunDirectory, read_json
from impasto.run.reconstructions import differences, read_reconstructions
from impasto.score.power import Power

__all__ = ["show", "show_reconstructions", "write_page"]


def write_page(
    runs: Sequence[Path], page: Path, budgets: Budgets | None = None, plans: Sequence[Power] = ()
) -> list[Difference]:
    """Write the report of one run, or of several with their differences from the first."""
    differences = compare(runs) if len(runs) > 1 else []
    write_report(runs, page, differences, budgets=budgets, plans=plans)
    return differences


def show(
    runs: Sequence[Path], differences: Sequence[Difference], page: Path, as_json: bool,
    *, budgets: Budgets | None = None, plans: Sequence[Power] = (),
) -> None:  # fmt: skip
    """The table and where the page is; or all of it as one JSON object."""
    if not as_json:
        print(comparison_table(runs, differences, budgets, plans))
        print(f"report: {page}")
        return
    values: dict[str, Any] = {
        "page": str(page),
        "runs": [_run(RunDirectory(path)) for path in runs],
        "differences": [difference.to_dict() for difference in differences],
    }
    if plans:
        values["power"] = [plan.to_dict() for plan in plans]
    if budgets is not None:
        values |= budgets.to_dict()
    print(json.dumps(values, indent=2, ensure_ascii=False))


def show_reconstructions(runs: Sequence[Path], page: Path, as_json: bool) -> None:
    """Write the page of tokenizers' runs, and print their table and where it is; or JSON."""
    write_reconstruction_report(runs, page)
    read = read_reconstructions(runs)
    changes = [differences(read[0], run) for run in read[1:]]
    if not as_json:
        print(reconstruction_table(read, changes))
        print(f"report: {page}")
        return
    print(json.dumps({"page": str(page), "runs": [_run(RunDirectory(path)) for path in runs],
                      "differences": [{"a": str(runs[0]), "b": str(path), "measures": change}
                                      for path, change in zip(runs[1:], changes, strict=True)]},
                     indent=2, ensure_ascii=False))  # fmt: skip


def _run(run: RunDirectory) -> dict[str, Any]:
    return {"run": str(run.path), "summary": read_json(run.summary), "cost": read_json(run.cost)}
