"""Pictures for free prompts: a folder of numbered PNG files and a manifest.

    OUT/run.json  OUT/00000-00.png  OUT/00000-01.png  …  OUT/manifest.jsonl

Names are ours, never the prompt's. The manifest is written last: it says that all is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from impasto.files import write_text
from impasto.images import write_png
from impasto.run.batches import in_batches
from impasto.run.directory import opened
from impasto.run.prompts import check_prompts
from impasto.run.provenance import default_folder, normal, resolved, versions
from impasto.sample.protocol import Generator, Request, Sampling, generate, row_seed

__all__ = ["draw_prompts", "prompts_record"]

Place = tuple[int, int]
"""(index of the prompt, index of its sample)."""


def prompts_record(
    prompts: Sequence[str],
    generator: Generator,
    *,
    n: int,
    seed: int,
    sampling: Sampling,
    name: str = "",
) -> dict[str, Any]:
    """What decides the pictures of `draw_prompts`: the content of its `run.json`."""
    model = generator.provenance()
    return normal({
        "kind": "generate",
        "texts": list(prompts),
        "rewriter": None,
        "samples_per_prompt": n,
        "seed": seed,
        "model": {"name": name or type(generator).__name__} | model,
        "sampling": resolved(sampling, model),
        "versions": versions(),
    })  # fmt: skip


def draw_prompts(
    prompts: Sequence[str],
    generator: Generator,
    out: str | Path | None = None,
    *,
    n: int = 1,
    seed: int = 0,
    sampling: Sampling | None = None,
    batch_size: int = 8,
    name: str = "",
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Path]:
    """Draw `n` pictures per prompt; returns their paths in order.

    out: the folder; by default one under runs/ named after the settings. Interrupted, the same
    call goes on where it was. name: what the model is called in the record.
    Raises ValueError for an empty prompt, n < 1 or settings that the model refuses, and the errors
    of `impasto.run.directory.opened` for the folder.
    """
    if n < 1:
        raise ValueError(f"the number of pictures per prompt must be at least 1, got {n}")
    check_prompts(prompts, "the prompts")
    sampling = sampling or Sampling()
    record = prompts_record(prompts, generator, n=n, seed=seed, sampling=sampling, name=name)
    folder = Path(out) if out else default_folder("generate", record)
    paths = {(i, sample): folder / f"{i:05d}-{sample:02d}.png"
             for i in range(len(prompts)) for sample in range(n)}  # fmt: skip
    with opened(folder, record) as run:
        left = [place for place, path in paths.items() if not path.is_file()]
        done = len(paths) - len(left)
        progress("drawing", done, len(paths))

        def work(batch: Sequence[Place], size: int) -> None:
            nonlocal done
            seeds = [row_seed(seed, prompts[i], sample) for i, sample in batch]
            requests = [Request.of(prompts[i]) for i, _ in batch]
            images, _ = generate(generator, requests, seeds, sampling)
            for place, image in zip(batch, images, strict=True):
                write_png(paths[place], image)
            done += len(batch)
            progress("drawing", done, len(paths))

        in_batches(left, batch_size, work)
        write_text(run.path / "manifest.jsonl", _manifest(paths, prompts, seed))
    return list(paths.values())


def _manifest(paths: dict[Place, Path], prompts: Sequence[str], seed: int) -> str:
    lines = [{"file": path.name, "prompt": prompts[i], "sample": sample,
              "seed": row_seed(seed, prompts[i], sample)}
             for (i, sample), path in paths.items()]  # fmt: skip
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
