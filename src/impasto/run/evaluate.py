"""From a generator, or from pictures on disk, to a score: draw what is missing, judge, sum up."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from impasto.bench import IncompleteError, Picture, scan
from impasto.files import write_json
from impasto.run.batches import in_batches
from impasto.run.cost import Meter
from impasto.run.directory import RunDirectory, opened
from impasto.run.judge import judge
from impasto.run.provenance import default_folder
from impasto.run.settings import Settings, images_record, run_record
from impasto.run.source import Source
from impasto.sample.protocol import Cost, Generator
from impasto.search.base import Draw, Drawn, Search

__all__ = ["evaluate", "evaluate_images"]

Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """No progress."""


def evaluate(
    settings: Settings,
    generator: Generator,
    search: Search,
    out: str | Path | None = None,
    *,
    batch_size: int = 8,
    progress: Progress = silent,
) -> RunDirectory:
    """Draw the bench's pictures, judge them and write a run folder with results and summary.

    out: the folder; by default one under runs/ named after the settings. Interrupted at any
    moment, the same call goes on and ends with the same bytes. Raises ScorerBroken before anything
    is drawn; IncompleteError when pictures cannot be read; the errors of
    `impasto.run.directory.opened` for the folder.
    """
    settings.self_test()
    record = run_record(settings, generator, search)
    with opened(out or default_folder("eval", record), record) as run:
        meter = Meter(run)
        with meter.timing("generate"):
            meter.spent = _draw(run, settings, generator, search, batch_size=batch_size,
                                progress=progress)  # fmt: skip
        bench = settings.bench_part
        pictures = scan(run.images, bench.specs, bench.samples_per_prompt)
        _judge(run, meter, settings, pictures, batch_size=batch_size, progress=progress)
    return run


def evaluate_images(
    settings: Settings,
    images: str | Path,
    out: str | Path | None = None,
    *,
    batch_size: int = 8,
    allow_incomplete: bool = False,
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
        pictures = source.link(run, bench.specs)
        _judge(run, Meter(run, drawn=False), settings, pictures, batch_size=batch_size,
               progress=progress, allow_incomplete=allow_incomplete)  # fmt: skip
    return run


def _draw(
    run: RunDirectory,
    settings: Settings,
    generator: Generator,
    search: Search,
    *,
    batch_size: int,
    progress: Progress,
) -> Cost:
    """Draw and save what is missing; returns what all the pictures cost."""
    bench = settings.bench_part
    places = [(i, s) for i in range(len(bench.specs)) for s in range(bench.samples_per_prompt)]
    left = run.missing(places)
    done = len(places) - len(left)
    progress("drawing", done, len(places))

    def work(batch: Sequence[tuple[int, int]], size: int) -> None:
        nonlocal done
        draws = [Draw(bench.specs[i], settings.seed, sample) for i, sample in batch]

        def within(drawn: int, candidates: int) -> None:
            progress("drawing", done + len(batch) * drawn // candidates, len(places))

        drawn = search.draw(generator, draws, settings.sampling, size, within)
        for (i, sample), one in zip(batch, drawn, strict=True):
            run.save(i, sample, bench.specs[i], one.image, _described(one))
        done += len(batch)
        progress("drawing", done, len(places))

    in_batches(left, batch_size, work, each=search.width)
    return run.total(places)


def _described(drawn: Drawn) -> dict[str, Any]:
    """How a sample was drawn, as its JSON file tells it."""
    return {
        "seed": drawn.candidates[drawn.chosen].seed,
        "candidates": [{"seed": c.seed, "value": c.value} for c in drawn.candidates],
        "chosen": drawn.chosen,
        "flops": drawn.cost.flops,
        "row_steps": drawn.cost.row_steps,
    }


def _judge(
    run: RunDirectory,
    meter: Meter,
    settings: Settings,
    pictures: Sequence[Picture],
    *,
    batch_size: int,
    progress: Progress,
    allow_incomplete: bool = False,
) -> None:
    """Judge the pictures, write results and summary."""
    bench = settings.bench_part
    second = settings.name("second", settings.second), settings.second
    with meter.timing("score"):
        records, damaged = judge(run, pictures, bench.specs, settings.scorer, second,
                                 batch_size=batch_size, progress=progress)  # fmt: skip
    if damaged and not allow_incomplete:
        note = " Delete the damaged files; a run's own are then drawn again by the same command."
        raise IncompleteError(len(records), len(pictures), [str(error) for error in damaged],
                              what="readable pictures", note=note)  # fmt: skip
    for error in damaged:
        warnings.warn(f"left out: {error}", stacklevel=3)
    write_json(run.summary, bench.summarise(records, allow_incomplete=allow_incomplete))
