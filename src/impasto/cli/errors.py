"""From exceptions to exit codes: a user's error is one clear message, never a traceback."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

__all__ = ["EXIT_CODES", "exit_code", "guarded"]

EXIT_CODES = {
    0: "done",
    1: "a fault found by doctor, or one not listed here",
    2: "usage or bad input",
    3: "incomplete set of pictures",
    4: "file system: disk full, read-only, locked by another process",
    5: "the scorer failed its self-test",
    130: "interrupted (Ctrl-C); run the same command again to go on",
    143: "terminated (SIGTERM); run the same command again to go on",
}


def exit_code(error: BaseException) -> int | None:
    """The documented code for `error`; None for a fault of impasto itself."""
    import torch

    from impasto.bench import IncompleteError
    from impasto.score.base import ScorerBroken

    rules: list[tuple[type[BaseException] | tuple[type[BaseException], ...], int]] = [
        (KeyboardInterrupt, 130),
        (IncompleteError, 3),
        (ScorerBroken, 5),
        ((FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError), 2),
        (ChildProcessError, 1),
        (OSError, 4),
        (torch.OutOfMemoryError, 1),
    ]
    return next((code for kind, code in rules if isinstance(error, kind)), None)


def _text(error: BaseException) -> str:
    """What is wrong, in words; of the system's own errors the file first, without a number."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; run the same command again to go on"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    return str(error)


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a command: print a known error in a line or two and exit with its code.

    With the environment variable IMPASTO_TRACEBACK set, errors pass through unchanged.
    """

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, BrokenPipeError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            code = exit_code(error)
            if code is None or os.environ.get("IMPASTO_TRACEBACK"):
                raise
            print(f"error: {_text(error)}", file=sys.stderr)
            raise typer.Exit(code) from error

    return wrapper
