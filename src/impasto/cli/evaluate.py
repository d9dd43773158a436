"""`impasto eval`: a score for a model, or for pictures drawn elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from impasto.cli import build, options
from impasto.cli.errors import guarded
from impasto.cli.progress import progress

__all__ = ["evaluate"]


@guarded
def evaluate(
    *,
    bench: Annotated[str, typer.Argument(help="Bench; see 'impasto ls benches'.")],
    model: Annotated[
        str | None, typer.Option(help="Model to draw with; see 'impasto ls models'.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Judge this folder's pictures instead: GenEval's "
                                   "layout, or flat with a prompt file."),
    ] = None,
    search: Annotated[str, typer.Option(help="Search; see 'impasto ls searches'.")] = "none",
    scorer: Annotated[
        str | None, typer.Option(help="Scorer of the pictures (default: the bench's own).")
    ] = None,
    second: Annotated[
        str | None, typer.Option(help="Second, independent scorer, or none (default: the bench's "
                                      "own).")
    ] = None,
    limit: options.Limit = None,
    samples: options.Samples = None,
    seed: options.Seed = 0,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    height: options.Height = None,
    width: options.Width = None,
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 1,
    device: options.Device = "auto",
    out: options.OutFolder = None,
    allow_incomplete: Annotated[
        bool,
        typer.Option("--allow-incomplete", help="With --images: score a part, and say so."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Draw a bench's pictures, judge them, and write a run folder with its report.

    The same command again goes on where it was interrupted.
    """
    _check(model, images, allow_incomplete, search, (steps, guidance, height, width))
    from impasto.cli.page import show, write_page
    from impasto.run.evaluate import evaluate as run_model
    from impasto.run.evaluate import evaluate_images
    from impasto.run.settings import Settings
    from impasto.sample.protocol import Sampling

    at = build.device_of(device)
    what = build.bench(bench)
    if model is not None and what.sources is not None:
        raise ValueError(f"{what.name} is about given pictures, which no model here takes yet: "
                         f"judge a folder with --images; 'impasto bench export' gives the "
                         f"pictures and instructions")  # fmt: skip
    scorer, second = build.judges_of(what, scorer, second)
    crew = build.workers(workers, at, model_name=model, search_name=search,
                         scorers=(scorer, second))  # fmt: skip
    names = {"model": model, "search": search, "scorer": scorer, "second": second}
    settings = Settings(
        bench=what,
        scorer=build.scorer(scorer, at),
        second=build.second(second, at),
        limit=limit,
        samples=samples,
        seed=seed,
        sampling=Sampling(steps=steps, guidance=guidance, height=height, width=width),
        names={role: name for role, name in names.items() if name is not None},
    )
    with progress(quiet=as_json) as report:
        if images is not None:
            run = evaluate_images(settings, images, out, batch_size=batch_size, progress=report,
                                  workers=crew, allow_incomplete=allow_incomplete)  # fmt: skip
        else:
            run = run_model(settings, build.model(str(model), at), build.search(search, at), out,
                            batch_size=batch_size, workers=crew, progress=report)  # fmt: skip
    page = run.path / "report.html"
    show([run.path], write_page([run.path], page), page, as_json)


def _check(
    model: str | None,
    images: Path | None,
    allow_incomplete: bool,
    search: str,
    sampling: tuple[float | None, ...],
) -> None:
    """Options that contradict each other. Raises ValueError."""
    if (model is None) == (images is None):
        raise ValueError("give either --model NAME or --images DIR")
    if model is not None and allow_incomplete:
        raise ValueError("--allow-incomplete goes with --images; a model's unfinished run is "
                         "finished by the same command")  # fmt: skip
    if images is not None and (search != "none" or any(v is not None for v in sampling)):
        raise ValueError("--images are judged as they are: --search, --steps, --guidance, "
                         "--height and --width do not go with it")  # fmt: skip
