"""Progress on stderr: bars on a terminal, a line now and then elsewhere, silence on request."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

__all__ = ["Progress", "progress"]

Progress = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)."""

SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def progress(quiet: bool = False, prefix: str = "") -> Iterator[Progress]:
    """Yield the function to call after each step; `prefix` goes before what is being done."""
    if quiet:
        yield lambda what, done, total: None
    elif sys.stderr.isatty():
        with _bars() as report:
            yield lambda what, done, total: report(prefix + what, done, total)
    else:
        lines = _Lines()
        yield lambda what, done, total: lines(prefix + what, done, total)


@contextlib.contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn(elapsed_when_finished=True))  # fmt: skip
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report


class _Lines:
    """One line at the start of each phase, at its end, and every ten seconds between."""

    def __init__(self) -> None:
        self.what = ""
        self.printed = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        fresh = what != self.what
        if fresh or done == total or now - self.printed >= SECONDS_BETWEEN_LINES:
            print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)
            self.what, self.printed = what, now
