"""From a generator, or from pictures on disk, to a score: draw what is missing, judge, sum up."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from impasto.bench import IncompleteError, Picture, scan
from impasto.files import write_json
from impasto.run.cost import Meter
from impasto.run.directory import RunDirectory, opened
from impasto.run.draw import DrawBatch, draw
from impasto.run.judge import JudgeBatch, Verdicts, judge
from impasto.run.provenance import default_folder
from impasto.run.settings import Settings, images_record, run_record
from impasto.run.source import Source
from impasto.run.workers import Workers
from impasto.sample.protocol import Generator
from impasto.search.base import Search

__all__ = ["evaluate", "evaluate_images"]

Progress = Callable[[str, int, int], None]
HERE = Workers()
"""All in this process."""


def silent(what: str, done: int, total: int) -> None:
    """No progress."""


def evaluate(
    settings: Settings,
    generator: Generator,
    search: Search,
    out: str | Path | None = None,
    *,
    batch_size: int = 8,
    workers: Workers = HERE,
    progress: Progress = silent,
) -> RunDirectory:
    """Draw the bench's pictures, judge them and write a run folder with results and summary.

    out: the folder; by default one under runs/ named after the settings. Interrupted at any
    moment, the same call goes on and ends with the same bytes, with however many workers.
    Raises ScorerBroken before anything is drawn; IncompleteError when pictures cannot be read; the
    errors of `impasto.run.directory.opened` for the folder.
    """
    settings.self_test()
    record = run_record(settings, generator, search)
    with opened(out or default_folder("eval", record), record) as run:
        meter = Meter(run, counted=record["model"].get("flops_known", True))
        bench = settings.bench_part
        one = DrawBatch(run, bench.specs, bench.given, settings.seed, settings.sampling,
                        batch_size)  # fmt: skip
        meter.adds |= bool(run.missing([(i, sample) for i in range(len(bench.specs))
                                        for sample in range(bench.samples_per_prompt)]))
        with meter.timing("generate"):
            meter.spent = draw(one, (generator, search), bench.samples_per_prompt,
                               workers=workers, meter=meter, progress=progress)  # fmt: skip
        pictures = scan(run.images, bench.given, bench.samples_per_prompt)
        _judge(run, meter, settings, pictures, batch_size=batch_size, workers=workers,
               progress=progress)  # fmt: skip
    return run


def evaluate_images(
    settings: Settings,
    images: str | Path,
    out: str | Path | None = None,
    *,
    batch_size: int = 8,
    allow_incomplete: bool = False,
    workers: Workers = HERE,
    progress: Progress = silent,
) -> RunDirectory:
    """Judge pictures drawn elsewhere and write a run folder.

    images: in GenEval's layout, or flat with a prompt file (`impasto.bench.flat`). out: as in
    `evaluate`; it refers to the pictures by links below images/. With a limit or fewer samples,
    that part of them is judged. Raises IncompleteError when pictures are missing or
    damaged, unless `allow_incomplete`: the summary then says how many of how many; ValueError for
    prompts that are not the bench's.
    """
    settings.self_test()
    bench = settings.bench_part
    source = Source.found(images, bench, allow_incomplete=allow_incomplete,
                          allow_extra=bench != settings.bench)  # fmt: skip
    record = images_record(settings, images, source.pictures)
    with opened(out or default_folder("eval", record), record) as run:
        pictures = source.link(run, bench.given)
        source.keep_sources(run, bench)
        _judge(run, Meter(run, drawn=False), settings, pictures, batch_size=batch_size,
               workers=workers, progress=progress, allow_incomplete=allow_incomplete)  # fmt: skip
    return run


def _judge(
    run: RunDirectory,
    meter: Meter,
    settings: Settings,
    pictures: Sequence[Picture],
    *,
    batch_size: int,
    workers: Workers,
    progress: Progress,
    allow_incomplete: bool = False,
) -> None:
    """Judge the pictures, write results and summary."""
    bench = settings.bench_part
    second = (None if settings.second is None else
              (settings.name("second", settings.second), settings.second))  # fmt: skip
    judges = settings.scorer, settings.second

    def over(one: JudgeBatch, batches: Sequence[Sequence[Picture]]) -> Iterator[Verdicts]:
        return workers.each("judges", one, batches, judges, meter)

    with meter.timing("score"):
        records, damaged = judge(run, pictures, bench.specs, settings.scorer, second,
                                 batch_size=batch_size, progress=progress,
                                 over=over if workers.several else None)  # fmt: skip
    if damaged and not allow_incomplete:
        note = " Delete the damaged files; a run's own are then drawn again by the same command."
        raise IncompleteError(len(records), len(pictures), [str(error) for error in damaged],
                              what="readable pictures", note=note)  # fmt: skip
    for error in damaged:
        warnings.warn(f"left out: {error}", stacklevel=3)
    write_json(run.summary, bench.summarise(records, allow_incomplete=allow_incomplete))
