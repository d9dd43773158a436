"""A stack's tables as text, as Markdown and as a page: the same figures in the same words."""

from __future__ import annotations

import io
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from impasto.files import write_text
from impasto.report.page import environment, source
from impasto.report.scatter import standalone
from impasto.report.sheets import Sheet

__all__ = ["drawings", "markdown", "terminal", "write_stack_page"]

WIDTH = 110
"""Longest line on a terminal, where intervals below their values can make it so."""


def terminal(shown: Sequence[Sheet]) -> str:
    """Plain text; intervals go below their values where a line would be longer than WIDTH."""
    return "\n\n".join("\n".join([
        sheet.title, _laid_out(sheet),
        *(line for note in sheet.notes for line in textwrap.wrap(note, WIDTH)),
    ]) for sheet in shown)  # fmt: skip


def _laid_out(sheet: Sheet) -> str:
    text = io.StringIO()
    console = Console(file=text, width=10_000, color_system=None, force_terminal=False)
    table = _table(sheet, stacked=False)
    if console.measure(table).maximum > WIDTH:
        table = _table(sheet, stacked=True)
    console.width = console.measure(table).maximum
    console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().split("\n")).strip("\n")


def _table(sheet: Sheet, stacked: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(sheet.columns):
        table.add_column(Text(column), justify="right" if i else "left")
    for name, *cells in sheet.rows:
        table.add_row(Text(name), *(Text(cell.replace(" [", "\n[") if stacked else cell)
                                    for cell in cells))  # fmt: skip
    return table


def _file(sheet: Sheet, figure: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{sheet.title} {figure}".lower()).strip("-") + ".svg"


def drawings(shown: Sequence[Sheet]) -> dict[str, str]:
    """File names that `markdown` refers to -> SVG."""
    return {_file(sheet, name): standalone(drawing)
            for sheet in shown for name, drawing in sheet.figures}  # fmt: skip


def markdown(shown: Sequence[Sheet]) -> str:
    """The same as GitHub's tables; figures by the names of `drawings`."""
    parts = []
    for sheet in shown:
        head = ["| " + " | ".join(sheet.columns) + " |",
                "|" + "|".join(["---", *["---:"] * (len(sheet.columns) - 1)]) + "|"]
        rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
                for row in sheet.rows]  # fmt: skip
        parts.append("\n".join([f"## {sheet.title}", "", *head, *rows,
                                *(f"\n{note}" for note in sheet.notes),
                                *(f"\n![{name}]({_file(sheet, name)})"
                                  for name, _ in sheet.figures)]))  # fmt: skip
    return "\n\n".join(parts) + "\n"


def write_stack_page(
    title: str, shown: Sequence[Sheet], pages: Mapping[str, Path], page: Path
) -> Path:
    """Write one HTML file with all tables; pages: what further pages are called -> where they
    are, linked. Opens offline, as a run's page does."""
    links = {name: Path(os.path.relpath(path, page.parent)).as_posix()
             for name, path in pages.items()}  # fmt: skip
    text = environment().get_template("stack.html").render(
        **source("page.css", "style"), title=title, sheets=shown, links=links,
        version=version("impasto"),
    )  # fmt: skip
    write_text(page, text)
    return page
