"""The command line. Commands are thin: they build objects by name and call the library."""

from __future__ import annotations

import importlib.metadata
import signal
import sys
import warnings
from typing import Annotated, Any

import typer

from impasto.cli.compare import compare
from impasto.cli.convert import convert
from impasto.cli.demo import demo
from impasto.cli.doctor import doctor
from impasto.cli.draw import generate
from impasto.cli.errors import EXIT_CODES
from impasto.cli.evaluate import EvalCommand, evaluate
from impasto.cli.graft import graft
from impasto.cli.measure import measure_distance, measure_locality, measure_reconstruction
from impasto.cli.prune import prune
from impasto.cli.quantize import quantize
from impasto.cli.serve import serve
from impasto.cli.show import bench_export, ls, scorers_check
from impasto.cli.stack import run
from impasto.cli.tokenize import detokenize, tokenize
from impasto.cli.train import train
from impasto.cli.world import world_export

__all__ = ["app", "main"]

EPILOG = "Exit codes: " + "; ".join(f"{code} {text}" for code, text in EXIT_CODES.items()) + "."

app = typer.Typer(
    name="impasto",
    help="Make text-to-image models draw what the prompt says: measure, search, train.",
    epilog=EPILOG,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench_app = typer.Typer(help="Sets of prompts with their demands.", no_args_is_help=True)
world_app = typer.Typer(help="The sticker world.", no_args_is_help=True)
scorers_app = typer.Typer(help="The judges of pictures.", no_args_is_help=True)
measure_app = typer.Typer(help="Pictures without prompts: what an autoencoder loses, how far two "
                               "sets are apart.", no_args_is_help=True)  # fmt: skip

app.command("demo")(demo)
app.command("generate")(generate)
app.command("eval", cls=EvalCommand)(evaluate)
app.command("compare")(compare)
app.command("run")(run)
app.command("train")(train)
app.command("convert")(convert)
app.command("graft")(graft)
app.command("prune")(prune)
app.command("quantize")(quantize)
app.command("tokenize")(tokenize)
app.command("detokenize")(detokenize)
app.command("serve")(serve)
app.command("ls")(ls)
app.command("doctor")(doctor)
bench_app.command("export")(bench_export)
scorers_app.command("check")(scorers_check)
world_app.command("export")(world_export)
measure_app.command("reconstruction")(measure_reconstruction)
measure_app.command("distance")(measure_distance)
measure_app.command("locality")(measure_locality)
app.add_typer(bench_app, name="bench")
app.add_typer(scorers_app, name="scorers")
app.add_typer(world_app, name="world")
app.add_typer(measure_app, name="measure")


@bench_app.callback()
@scorers_app.callback()
@world_app.callback()
def _group() -> None:
    """Keep a group of one command a group."""


def _version(asked: bool) -> None:
    if asked:
        print(importlib.metadata.version("impasto"))
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Options before the command."""


def _print_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """One line on stderr for our own warnings; nothing of where in the code they arose."""
    print(f"warning: {message}", file=sys.stderr)


def _terminate(number: int, frame: object) -> None:
    """SIGTERM ends the command as Ctrl-C does: cleaning up, with its own code."""
    raise SystemExit(128 + number)


def main() -> None:
    """The entry point of `impasto` and `python -m impasto`."""
    warnings.showwarning = _print_warning
    signal.signal(signal.SIGTERM, _terminate)
    app()
