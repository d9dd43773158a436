"""GenEval++ (Ye et al. 2025, arXiv 2508.09987): 7 tasks x 40 prompts, one picture each.

    color_attr                3 or 4 coloured objects
    spatial_count_attr        two counts, in opposite halves of the picture
    color_spatial_attr        two coloured objects, in opposite halves
    color_count_attr          two coloured counts
    multi_object_count_attr   two or three counts
    size_spatial_attr         a larger and a smaller object, in opposite halves
    counting                  4 to 7

Each prompt is a function of its demands, so a file of theirs is checked twice: by its hash and
prompt by prompt. "geneval-plus" reads the official file; "sticker-plus" draws prompts of the same
shape from a seed, over the sticker world and without any file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from impasto.bench.base import Bench
from impasto.bench.results import Record
from impasto.bench.summary import summarise
from impasto.spec import CLASSES, Spec
from impasto.world.splits import meaning
from impasto.world.tasks import PLUS, phrase
from impasto.zoo.registry import BENCHES

__all__ = ["SHA256", "TASKS", "geneval_plus", "prompt", "read_specs", "sticker_plus"]

SHA256 = "9c1216a3f6fe2d99e4ffd63f3a6dba71f3dd7ab30a7c09cb41f03629b35d3e8f"
"""Of the official jsonl file, 280 lines."""
SOURCE = "https://github.com/yejy53/Echo-4o"
TASKS = ("color_attr", "spatial_count_attr", "color_spatial_attr", "color_count_attr",
         "multi_object_count_attr", "size_spatial_attr", "counting")  # fmt: skip
PER_TASK = 40


def prompt(spec: Spec) -> str:
    """The official prompt of a spec's demands. Raises KeyError for a tag of another bench."""
    return f"A photo of {phrase(spec.tag, spec.include)}"


def read_specs(path: str | Path) -> tuple[Spec, ...]:
    """The specs of the official file. Raises ValueError for any other content."""
    data = Path(path).read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != SHA256:
        raise ValueError(f"{path} has sha256 {digest}, GenEval++'s file has {SHA256}; get it "
                         f"from {SOURCE}")  # fmt: skip
    specs = tuple(Spec.from_dict(json.loads(line)) for line in data.decode().splitlines())
    for spec in specs:
        if spec.prompt != prompt(spec):
            raise ValueError(f"{path}: {spec.prompt!r} should be {prompt(spec)!r}")
    return specs


def _rule(records: Sequence[Record]) -> dict[str, Any]:
    return summarise(records, TASKS)


def _bench(name: str, specs: tuple[Spec, ...]) -> Bench:
    return Bench(name=name, specs=specs, samples_per_prompt=1, rule=_rule, scorer="sticker-plus")


@BENCHES.register("geneval-plus")
def geneval_plus(path: str = "") -> Bench:
    """GenEval++'s 280 prompts, from its own file: path=FILE.

    Raises ValueError without a path, or for a file that is not the official one.
    """
    if not path:
        raise ValueError(f"geneval-plus needs the official file: geneval-plus:path=FILE, from "
                         f"{SOURCE}; without one, take sticker-plus")  # fmt: skip
    return _bench("geneval-plus", read_specs(path))


def _drawn(task: str, seed: int, n: int) -> list[Spec]:
    """n specs that mean n different things, in the official wording."""
    found: dict[object, Spec] = {}
    number = 0
    while len(found) < n:
        spec = PLUS[task](np.random.default_rng([seed, TASKS.index(task), number]), CLASSES)
        found.setdefault(meaning(spec), replace(spec, prompt=prompt(spec)))
        number += 1
    return list(found.values())


@BENCHES.register("sticker-plus")
def sticker_plus(seed: int = 0, per_task: int = PER_TASK) -> Bench:
    """Prompts of GenEval++'s seven tasks drawn from a seed: harder than GenEval, no file needed.

    Raises ValueError for per_task outside 1 to 500.
    """
    if not isinstance(per_task, int) or not 1 <= per_task <= 500:
        raise ValueError(f"per_task is {per_task!r}; give 1 to 500 prompts per task")
    specs = tuple(spec for task in TASKS for spec in _drawn(task, seed, per_task))
    return _bench(f"sticker-plus:seed={seed},per_task={per_task}", specs)
