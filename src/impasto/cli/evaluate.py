"""`impasto eval`: a score for a model, or for pictures drawn elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from impasto.cli import build, options
from impasto.cli.errors import guarded
from impasto.cli.measure import eval_reconstruction
from impasto.cli.progress import progress

__all__ = ["EvalCommand", "evaluate"]


class EvalCommand(TyperCommand):
    """`eval BENCH`; but `eval reconstruction` is a command with options of its own."""

    @property
    def inner(self) -> dict[str, Any]:
        """Commands by the word that comes first."""
        app = typer.Typer(add_completion=False)
        app.command("reconstruction")(eval_reconstruction)
        return {"reconstruction": typer.main.get_command(app)}

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **more: Any) -> Any:
        if args and args[0] in (inner := self.inner):
            return inner[args[0]].make_context(f"{info_name} {args[0]}", args[1:], *rest, **more)
        return super().make_context(info_name, args, *rest, **more)


@guarded
def evaluate(
    *,
    bench: Annotated[
        str, typer.Argument(help="Bench; see 'impasto ls benches'. Or reconstruction, of a "
                                 "tokenizer: 'impasto eval reconstruction --help'."),
    ],
    model: Annotated[
        str | None, typer.Option(help="Model to draw with; see 'impasto ls models'.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Judge this folder's pictures instead: GenEval's "
                                   "layout, or flat with a prompt file."),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Of a bench that asks: judge this file's answers, JSON "
                                       "Lines of key and answer."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Of a bench that asks: the model to ask; see 'impasto ls "
                                      "judges'."),
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
        typer.Option("--allow-incomplete", help="With --images, --answers or --judge: score a "
                                                "part, and say so."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Draw a bench's pictures, judge them, and write a run folder with its report.

    Or judge pictures that were drawn or edited elsewhere, or answers to a bench's questions. The
    same command again goes on where it was interrupted.
    """
    if bench == "reconstruction":
        raise ValueError("reconstruction comes first: impasto eval reconstruction --tokenizer "
                         "NAME [PICTURES]")  # fmt: skip
    sampling = (steps, guidance, height, width)
    if answers is not None or judge is not None:
        _check_asked(model, images, (scorer, second, samples, *sampling), search, workers)
        _ask(bench, answers=answers, judge=judge, limit=limit, device=device, out=out,
             allow_incomplete=allow_incomplete, as_json=as_json)  # fmt: skip
        return
    _check(model, images, allow_incomplete, search, sampling)
    from impasto.cli.page import show, write_page
    from impasto.run.evaluate import evaluate as run_model
    from impasto.run.evaluate import evaluate_images
    from impasto.run.settings import Settings
    from impasto.sample.protocol import Sampling

    at = build.device_of(device)
    what = build.bench(bench)
    if what.asks is not None:
        raise ValueError(f"{what.name} asks questions: give --answers FILE or --judge NAME")
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


def _check_asked(
    model: str | None, images: Path | None, drawing: tuple[object, ...], search: str, workers: int
) -> None:  # fmt: skip
    """Options that do not go with answers. Raises ValueError."""
    if model is not None or images is not None:
        raise ValueError("--answers and --judge answer questions about the bench's own pictures: "
                         "--model and --images do not go with them")  # fmt: skip
    if search != "none" or workers != 1 or any(value is not None for value in drawing):
        raise ValueError("nothing is drawn for --answers and --judge: --scorer, --second, "
                         "--samples, --search, --workers, --steps, --guidance, --height and "
                         "--width do not go with them")  # fmt: skip


def _ask(
    bench: str, *, answers: Path | None, judge: str | None, limit: int | None, device: str,
    out: Path | None, allow_incomplete: bool, as_json: bool,
) -> None:  # fmt: skip
    """Judge a file's answers, or ask a judge."""
    if answers is not None and judge is not None:
        raise ValueError("give either --answers FILE or --judge NAME")
    from impasto.cli.page import show, write_page
    from impasto.run.answer import Answerer, FileAnswers, JudgeAnswers, evaluate_answers

    what = build.bench(bench)
    if limit is not None:
        what = what.stratified(limit)
    who: Answerer = (FileAnswers(answers) if answers is not None else
                     JudgeAnswers(build.judge(str(judge), build.device_of(device))))  # fmt: skip
    with progress(quiet=as_json) as report:
        run = evaluate_answers(what, who, judge or str(answers and answers.name), out,
                               progress=report,
                               allow_incomplete=allow_incomplete)  # fmt: skip
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
        raise ValueError("give either --model NAME or --images DIR (or, for a bench that asks, "
                         "--answers FILE or --judge NAME)")  # fmt: skip
    if model is not None and allow_incomplete:
        raise ValueError("--allow-incomplete goes with --images; a model's unfinished run is "
                         "finished by the same command")  # fmt: skip
    if images is not None and (search != "none" or any(v is not None for v in sampling)):
        raise ValueError("--images are judged as they are: --search, --steps, --guidance, "
                         "--height and --width do not go with it")  # fmt: skip
