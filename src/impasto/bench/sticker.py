"""Prompts of the sticker world: does a model draw combinations that training never showed?

Five of GenEval's tasks (a lone natural object combines nothing), drawn from a seed. Run it once
with split=seen and once with split=held-out; the gap is what a model has only memorised.
"""

from __future__ import annotations

from itertools import count

import numpy as np

from impasto.bench.base import Bench
from impasto.spec import CLASSES, Spec
from impasto.world.splits import Split, meaning
from impasto.world.tasks import GENEVAL_TASKS, sample_spec
from impasto.zoo.registry import BENCHES

__all__ = ["sticker"]

TASKS = tuple(task for task in GENEVAL_TASKS if task != "single_object")


PATIENCE = 1000
"""Draws in a row that show nothing new before a task is taken to have no more."""


def _specs(task: str, n: int, seed: int, split: Split) -> list[Spec]:
    """n specs of a task that mean n different things, each from its own random state; fewer where
    there are fewer, as of numbers held out."""
    found: dict[object, Spec] = {}
    states, idle = count(), 0
    while len(found) < n and idle < PATIENCE:
        rng = np.random.default_rng([seed, TASKS.index(task), next(states)])
        spec = sample_spec(rng, CLASSES, split, {task: 1.0})
        idle = idle + 1 if meaning(spec) in found else 0
        found.setdefault(meaning(spec), spec)
    return list(found.values())


@BENCHES.register("sticker")
def sticker(split: str = "held-out", per_task: int = 40, seed: int = 0) -> Bench:
    """Five tasks over combinations kept from training (split=held-out) or seen in it (split=seen).

    A task has fewer than `per_task` prompts where fewer combinations exist (numbers held out).
    Raises ValueError for another split, or per_task outside 1 to 500.
    """
    if split not in ("seen", "held-out"):
        raise ValueError(f"unknown split {split!r}; allowed: seen, held-out")
    if not isinstance(per_task, int) or not 1 <= per_task <= 500:
        raise ValueError(f"per_task is {per_task!r}; give 1 to 500 prompts per task")
    specs = [spec for task in TASKS for spec in _specs(task, per_task, seed, Split(split))]
    return Bench(name=f"sticker:split={split},per_task={per_task},seed={seed}", specs=tuple(specs))
