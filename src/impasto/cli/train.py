"""`impasto train RECIPE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from impasto.cli import build, options
from impasto.cli.errors import guarded

__all__ = ["pair", "train"]


@guarded
def train(
    *,
    recipe: Annotated[Path, typer.Argument(help="A YAML file; see 'impasto ls recipes'.")],
    out: options.RecipeOut = None,
    device: options.Device = "auto",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key; repeatable."),
    ] = None,
) -> None:
    """Train what a recipe describes; prints the folder of the model."""
    from impasto.train.run import run_recipe

    overrides = dict(pair(text) for text in set_ or ())
    folder = out or Path("runs") / options.named_after(recipe)
    print(run_recipe(recipe, folder, build.device_of(device), overrides))


def pair(text: str) -> tuple[str, Any]:
    """"steps=10" as ("steps", 10); the value is YAML, as in the recipe."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"--set takes KEY=VALUE, got {text!r}")
    return key, yaml.safe_load(value)
