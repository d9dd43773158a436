"""`impasto world export`: the sticker world as a data set for other people's loaders."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from impasto.cli import build, options
from impasto.cli.errors import guarded
from impasto.cli.progress import progress

__all__ = ["Format", "world_export"]


class Format(StrEnum):
    """Whose loader reads it."""

    imagefolder = "imagefolder"
    webdataset = "webdataset"
    coco = "coco"


@guarded
def world_export(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must not be there, "
                                                          "or be empty.")],
    format_: Annotated[
        Format, typer.Option("--format", help="datasets, webdataset or pycocotools read it.")
    ] = Format.imagefolder,
    scenes: Annotated[int, typer.Option(min=1, help="Pictures.")] = 1000,
    seed: options.Seed = 0,
    split: Annotated[
        str, typer.Option(help="train (nothing that GenEval asks for), seen, held-out or all.")
    ] = "train",
    device: options.Device = "auto",
) -> None:
    """Render scenes of GenEval's and GenEval++'s tasks with captions, boxes and masks."""
    from impasto.train.data import split_of, world_scenes
    from impasto.world import Sprites
    from impasto.world.export import export

    sprites, done = Sprites.load(), 0
    drawn = world_scenes(scenes, seed, split_of(split), sprites)
    with progress() as report:

        def count() -> None:
            nonlocal done
            done += 1
            report("rendering", done, scenes)

        export(drawn, out, sprites, format_.value, device=build.device_of(device),
               on_sample=count)  # fmt: skip
    print(out)
