"""`impasto run RECIPE`: several steps, one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from impasto.cli import build, options
from impasto.cli.errors import guarded
from impasto.cli.progress import progress

if TYPE_CHECKING:
    from impasto.report.sheets import Sheet

__all__ = ["run"]


@guarded
def run(
    *,
    recipe: Annotated[
        Path, typer.Argument(help="A YAML file with steps; see 'impasto ls recipes'.")
    ],
    out: options.RecipeOut = None,
    device: options.Device = "auto",
    workers: options.Workers = 1,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1,
                          help="Processes that train, draw and judge side by side what does not "
                               "need one another; they share the GPUs."),
    ] = 1,
    batch_size: options.BatchSize = 8,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE",
                     help="Override a key of the recipe: KEY beside its steps, STEP.KEY of one "
                          "step, grid.KEY of its grid; repeatable."),
    ] = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Run a stack: the steps of a recipe, in order, with tables of the results at the end.

    Steps are train, prune, graft, quantise, contributions, pool, eval, compare, costs, distances,
    ask, tokenizers, diversity, reliability, subsets; docs/stacks.md has their keys. All is checked
    before anything runs. The same command again goes on where it was interrupted. A folder that
    another version of the recipe has filled is refused.
    """
    from impasto.cli.train import pair
    from impasto.stack import Tools, load_stack, run_stack

    stack = load_stack(recipe, dict(pair(text) for text in set_ or ()))
    name = options.named_after(recipe)
    folder = out or Path("runs") / name
    with progress(quiet=as_json) as report:
        tools = Tools(folder, build, build.device_of(device), batch_size, workers, report)
        done = run_stack(stack, tools, jobs)
    tables = [dict(one.table) for one in done.values() if one.table is not None]
    _show(name, folder, tables, as_json)


def _show(title: str, folder: Path, tables: list[dict[str, Any]], as_json: bool) -> None:
    """Write table.json, table.md with its figures, and the pages; print the tables, or JSON."""
    from impasto.files import write_json, write_text
    from impasto.report.sheets import sheets
    from impasto.report.stack import drawings, markdown, terminal, write_stack_page

    # What was asked first, then the studies; on a terminal the last is what is seen.
    read: list[Sheet] = sheets(sorted(tables, key=lambda table: table["kind"] != "compare"))
    write_json(folder / "table.json", {"tables": tables})
    write_text(folder / "table.md", markdown(read))
    for file, drawing in drawings(read).items():
        write_text(folder / file, drawing)
    page = write_stack_page(title, read, _pages(folder, tables), folder / "report.html")
    if as_json:
        print(json.dumps({"page": str(page), "tables": tables}, indent=2, ensure_ascii=False))
        return
    if shown := sheets(tables):
        print(terminal(shown))
    print(f"tables: {folder / 'table.md'}, {folder / 'table.json'}")
    print(f"report: {page}")


def _pages(folder: Path, tables: list[dict[str, Any]]) -> dict[str, Path]:
    """The pages with pictures, of comparisons that ask for one and of tokenizers, written: name ->
    where it is."""
    from impasto.cli.page import write_page
    from impasto.report.reconstruction import write_reconstruction_report
    from impasto.run.budget import budgets

    pages = {}
    for table in tables:
        if runs := [Path(path) for path in table.get("page", ())]:
            page = pages[table["title"]] = folder / table["name"] / "report.html"
            if table["kind"] == "tokenizers":
                write_reconstruction_report(runs, page, [row["name"] for row in table["rows"]])
            else:
                write_page(runs, page, budgets(runs))
    return pages
