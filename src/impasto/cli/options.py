"""Options that several commands share, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["BatchSize", "Device", "Guidance", "Height", "Json", "Limit", "Model", "OutFolder",
           "RecipeOut", "Samples", "Seed", "Steps", "Tokenizer", "Width", "Workers",
           "flag", "named_after"]  # fmt: skip

Model = Annotated[str, typer.Option(help="Model to draw with; see 'impasto ls models'.")]
Tokenizer = Annotated[
    str, typer.Option(help="Tokenizer: a name of 'impasto ls tokenizers', a folder of one or of a "
                           "generator with one, or a hub id."),
]  # fmt: skip
Seed = Annotated[int, typer.Option(help="Seed; every picture's own seed follows from it.")]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Prompts, spread over the tasks (default: all).")
]
Samples = Annotated[
    int | None, typer.Option(min=1, help="Pictures per prompt (default: the bench's).")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Network steps (default: the model's).")]
Guidance = Annotated[
    float | None,
    typer.Option(min=0, help="Guidance scale; 1 turns it off, 0 draws without the prompt "
                             "(default: the model's)."),
]  # fmt: skip
Height = Annotated[int | None, typer.Option(help="Height in pixels (default: the model's).")]
Width = Annotated[int | None, typer.Option(help="Width in pixels (default: the model's).")]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Pictures drawn together; changes the speed, not the pictures.")
]
Workers = Annotated[
    int, typer.Option(min=1, help="Processes that draw and judge; a GPU each, or where there are "
                                  "fewer, several on one. More than 1 need impasto[ray]."),
]  # fmt: skip
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
OutFolder = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder to write (default: one under runs/, "
                                                  "named after the settings)."),
]  # fmt: skip
RecipeOut = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder to write (default: runs/ and the "
                                                  "recipe's name, with its folders below "
                                                  "recipes/: runs/tts-var-sticker)."),
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]


def flag(key: str) -> str:
    """A function's argument as it is given on the command line."""
    return "--" + key.replace("_", "-")


def named_after(recipe: Path) -> str:
    """What a recipe's results are called: recipes/tts-var/sticker.yaml is "tts-var-sticker".

    Many recipes are called sticker.yaml; their folders tell them apart.
    """
    parts = recipe.with_suffix("").parts
    last = max((i for i, part in enumerate(parts) if part == "recipes"), default=len(parts) - 2)
    return "-".join(parts[last + 1 :])
