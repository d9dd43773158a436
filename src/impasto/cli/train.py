"""`impasto train RECIPE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from impasto.cli import build, options
from impasto.cli.errors import guarded
from impasto.cli.progress import progress

__all__ = ["pair", "train"]


@guarded
def train(
    *,
    recipe: Annotated[Path, typer.Argument(help="A YAML file; see 'impasto ls recipes'.")],
    out: options.RecipeOut = None,
    device: options.Device = "auto",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE",
                     help="Override a key, of a stack STEP.KEY; repeatable."),
    ] = None,
) -> None:
    """Train what a recipe describes; prints the folder of the model.

    Of a stack, a recipe with several steps, its train steps only, in their order: each model goes
    into OUT/STEP, where 'impasto run' of the same recipe finds it and does not train it again.
    """
    from impasto.stack import is_stack
    from impasto.train.run import run_recipe

    overrides = dict(pair(text) for text in set_ or ())
    folder = out or Path("runs") / options.named_after(recipe)
    if is_stack(recipe):
        _train_stack(recipe, folder, build.device_of(device), overrides)
    else:
        print(run_recipe(recipe, folder, build.device_of(device), overrides))


def _train_stack(recipe: Path, folder: Path, device: str, overrides: dict[str, Any]) -> None:
    from impasto.stack import Tools, load_stack, run_stack, trainings

    with progress() as report:
        tools = Tools(folder, build, device, progress=report)
        done = run_stack(trainings(load_stack(recipe, overrides)), tools)
    for one in done.values():
        print(one.model)


def pair(text: str) -> tuple[str, Any]:
    """"steps=10" as ("steps", 10); the value is YAML, as in the recipe."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"--set takes KEY=VALUE, got {text!r}")
    return key, yaml.safe_load(value)
