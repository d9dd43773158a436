"""How good is a scorer? Fresh scenes with known verdicts, and the shares it gets right.

Each true scene has a twin with exactly one fact altered: a count, a colour, a relation or a
class. A scorer with verdicts accepts or rejects. One that gives values only prefers the true scene
of a prompt to its twin (`world.twins`, which also leaves things out and exchanges colours) or does
not; equal values are no preference. Intervals are Wilson's (1927), 95 %:

    (p + z^2 / 2n  +-  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),      z = 1.96
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from impasto.score.base import Scorer
from impasto.world import Renderer, Scene, Sprites, alter, compose
from impasto.world.tasks import GENEVAL_TASKS, PLUS, Task
from impasto.world.twins import twin
from impasto.zoo.registry import SCORERS

__all__ = ["check_scorer", "task_scene", "wilson"]

BATCH = 48
"""Scenes drawn and judged at once, each with its twin."""
MINIMAL_CLASSES = 4
"""Two objects of a spec, another class to alter one to, and person, who has no colour."""

Progress = Callable[[int, int], None]
Pair = tuple[Scene, Scene, str]
"""A true scene, its twin, and what is altered."""


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share `right` of n. Raises ValueError for n < 1."""
    if n < 1:
        raise ValueError(f"an interval needs at least one trial, given {n}")
    z, p = 1.959963984540054, right / n
    middle = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + s * spread) / (1 + z * z / n) for s in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


class _Tally:
    """Verdicts, right and wrong, by name."""

    def __init__(self) -> None:
        self.verdicts: dict[str, list[bool]] = defaultdict(list)

    def rates(self) -> dict[str, float]:
        return {name: sum(v) / len(v) for name, v in self.verdicts.items()}

    def intervals(self) -> dict[str, list[float]]:
        return {name: list(wilson(sum(v), len(v))) for name, v in self.verdicts.items()}


def task_scene(
    i: int, seed: int, sprites: Sprites, tasks: Mapping[str, Task] = GENEVAL_TASKS
) -> tuple[Scene, np.random.Generator]:
    """Scene i, the tasks in turn, and its random state afterwards.

    Depends on (seed, i), tasks and style alone.
    """
    rng = np.random.default_rng([seed, i])
    task = list(tasks.values())[i % len(tasks)]
    return compose(task(rng, sprites.classes), rng, sprites), rng


def _altered(i: int, seed: int, sprites: Sprites, tasks: Mapping[str, Task]) -> Pair:
    """Scene i and the same with a fact altered."""
    scene, rng = task_scene(i, seed, sprites, tasks)
    return scene, *alter(scene, rng, sprites)


def _twins(i: int, seed: int, sprites: Sprites, tasks: Mapping[str, Task]) -> Pair:
    """Scene i and the first twin that does not show it too: of two relations across, both can
    be true."""
    scene, rng = task_scene(i, seed, sprites, tasks)
    other = twin(scene, rng, sprites)
    while other.second_shows:
        other = twin(scene, rng, sprites)
    return scene, other.scene, other.kind


def _batches(
    pair: Callable[..., Pair], scenes: int, seed: int, sprites: Sprites,
    tasks: Mapping[str, Task],
) -> Iterator[list[Pair]]:  # fmt: skip
    for start in range(0, scenes, BATCH):
        end = min(start + BATCH, scenes)
        yield [pair(i, seed, sprites, tasks) for i in range(start, end)]


def _prepared(name: str, device: str, scenes: int, sprites: Sprites
              ) -> tuple[Scorer, Mapping[str, Task]]:  # fmt: skip
    """The scorer, self-tested, and the tasks that its rule judges; raises for what cannot be
    measured."""
    if len(sprites.classes) < MINIMAL_CLASSES:
        raise ValueError(f"the style draws {len(sprites.classes)} of GenEval's classes; scenes "
                         f"need at least {MINIMAL_CLASSES}")  # fmt: skip
    scorer: Scorer = SCORERS.create(name, device=device)
    if scorer.by_key:
        raise ValueError(f"scorer {name!r} judges numbered items, and scenes have prompts only; "
                         f"what it accepts, its bench tells: 'impasto bench export {name} --out "
                         f"DIR', then 'impasto eval {name} --images DIR/targets'"
                         )  # fmt: skip
    tasks = PLUS if scorer.provenance().get("rule") == "GenEval++" else GENEVAL_TASKS
    if scenes < len(tasks):
        raise ValueError(f"scenes must be at least {len(tasks)}, one for each task; given "
                         f"{scenes}")  # fmt: skip
    scorer.self_test()
    return scorer, tasks


class _Seen:
    """What a scorer says of scenes: each picture by the true scene's prompt.

    coarse: pictures are shrunk to this side and enlarged again first.
    """

    def __init__(self, scorer: Scorer, draw: Renderer, coarse: int | None) -> None:
        self.scorer, self.draw, self.coarse = scorer, draw, coarse

    def _pictures(self, scenes: Sequence[Scene]) -> Tensor:
        images = self.draw(scenes).images
        if self.coarse is None:
            return images
        small = F.interpolate(images, size=(self.coarse, self.coarse), mode="bilinear",
                              antialias=True)  # fmt: skip
        return F.interpolate(small, size=images.shape[-2:], mode="bicubic").clamp(0, 1)

    def __call__(self, pairs: Sequence[Pair]) -> Iterator[tuple[str, str, dict[str, bool]]]:
        """Task, kind of difference and what was right, of each pair."""
        specs = [scene.spec for scene, _, _ in pairs]
        true, false = (self.scorer.score(self._pictures(scenes), specs) for scenes
                       in ([one for one, _, _ in pairs], [other for _, other, _ in pairs])
                       )  # fmt: skip
        for (scene, _, kind), kept, passed in zip(pairs, true, false, strict=True):
            if self.scorer.gives_verdict:
                right = {"accept": bool(kept.correct), "reject": not passed.correct}
            else:
                right = {"prefer": kept.value > passed.value}
            yield scene.spec.tag, kind, right


def check_scorer(
    name: str, *, scenes: int = 2000, seed: int = 0, style: str = "openmoji",
    device: str = "cpu", coarse: int | None = None, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Judge `scenes` true scenes, its rule's tasks in turn, and as many with one fact altered.

    style: as for `Sprites.load`; specs ask only for classes that it can draw. coarse: side that
    pictures are shrunk to and enlarged from, as coarse scales look. progress: called with scenes
    done and all. Returns accept and reject (task -> rate) and reject_by (kind of fact -> rate),
    of a scorer without verdicts prefer and prefer_by; intervals (the same, each [low, high]),
    scenes, seed, style, coarse where it was given, classes (how many), scorer (its provenance).
    Raises ValueError for a scorer of numbered items, fewer scenes than tasks or a style with too
    few classes; ScorerBroken when the self-test fails.
    """
    sprites = Sprites.load(style)
    scorer, tasks = _prepared(name, device, scenes, sprites)
    seen = _Seen(scorer, Renderer(sprites, device), coarse)
    keys = ("accept", "reject") if scorer.gives_verdict else ("prefer",)
    tallies = {key: _Tally() for key in (*keys, f"{keys[-1]}_by")}
    done = 0
    pair = _altered if scorer.gives_verdict else _twins
    for pairs in _batches(pair, scenes, seed, sprites, tasks):
        for task, kind, right in seen(pairs):
            for key in keys:
                tallies[key].verdicts[task].append(right[key])
            tallies[f"{keys[-1]}_by"].verdicts[kind].append(right[keys[-1]])
        done += len(pairs)
        if progress is not None:
            progress(done, scenes)
    return {
        **{key: tally.rates() for key, tally in tallies.items()},
        "intervals": {key: tally.intervals() for key, tally in tallies.items()},
        "scenes": scenes, "seed": seed, "style": style, "classes": len(sprites.classes),
        **({} if coarse is None else {"coarse": coarse}), "scorer": scorer.provenance(),
    }  # fmt: skip
