"""`impasto generate`: pictures for prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from impasto.cli import build, options
from impasto.cli.errors import guarded
from impasto.cli.progress import progress

__all__ = ["generate"]


@guarded
def generate(
    *,
    prompts: Annotated[
        list[str] | None, typer.Argument(help="What to draw, each in quotes.")
    ] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option("--prompts", help='A file of prompts: one a line, or .jsonl with "prompt".'),
    ] = None,
    model: options.Model = "sticker-mmdit",
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Pictures per prompt.")] = 1,
    seed: options.Seed = 0,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    height: options.Height = None,
    width: options.Width = None,
    batch_size: options.BatchSize = 8,
    device: options.Device = "auto",
    out: options.OutFolder = None,
) -> None:
    """Draw pictures for prompts; prints the path of each.

    Files are numbered (prompt-sample: 00000-00.png) and listed in manifest.jsonl. The same command
    again draws what is missing.
    """
    texts = _prompts(prompts, prompts_file)
    from impasto.run.generate import draw_prompts
    from impasto.sample.protocol import Sampling

    sampling = Sampling(steps=steps, guidance=guidance, height=height, width=width)
    generator = build.model(model, build.device_of(device))
    with progress() as report:
        paths = draw_prompts(texts, generator, out, n=n, seed=seed, sampling=sampling,
                             batch_size=batch_size, name=model, progress=report)  # fmt: skip
    for path in paths:
        print(path)


def _prompts(given: list[str] | None, file: Path | None) -> list[str]:
    """Exactly one of the two sources. Raises ValueError."""
    from impasto.run.prompts import check_prompts, read_prompts

    if given and file:
        raise ValueError("give prompts on the command line or with --prompts FILE, not both")
    if file:
        return read_prompts(file)
    if not given:
        raise ValueError('nothing to draw: give a prompt, as in impasto generate "a red apple", '
                         "or --prompts FILE")  # fmt: skip
    check_prompts(given, "the command line")
    return given
