"""Golden pictures: is this scorer working at all? Asked before every scoring.

The pictures are drawn from the world by fixed seeds: four true scenes of each of GenEval's six
tasks, and each of them with one fact altered. A working scorer is right on some 98 of 100, so one
or two of 24 may be wrong by its nature; `MINIMUM` lies below that and far above what broken
weights reach. True and altered scenes count apart: a scorer that accepts or rejects everything is
right on half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from impasto.score.base import Scorer, ScorerBroken
from impasto.spec import Spec
from impasto.world import Scene, Sprites, alter, alterations, compose, render, sample_spec
from impasto.world.tasks import GENEVAL_TASKS

__all__ = ["MINIMUM", "PREFERRED", "Golden", "check_captions", "check_pairs", "check_verdicts",
           "golden"]  # fmt: skip

SEED = 20231017
PER_TASK = 4
MINIMUM = 0.9
"""Share of the golden pictures that must be judged right, of the true and of the altered."""

PREFERRED = 0.75
"""Share of the golden pairs whose true picture must have the higher value: chance gets as many in
one try of a hundred."""


@dataclass(frozen=True)
class Golden:
    """B pictures with known verdicts. images: (B, 3, 128, 128). broken: what is altered, "" for
    a true scene."""

    images: Tensor
    specs: tuple[Spec, ...]
    broken: tuple[str, ...]


def _pair(task: str, k: int, sprites: Sprites) -> tuple[Scene, tuple[Scene, str]]:
    """Scene k of a task, and the same with one fact altered; kinds of facts take turns."""
    rng = np.random.default_rng([SEED, list(GENEVAL_TASKS).index(task), k])
    spec = sample_spec(rng, sprites.classes, weights={task: 1.0})
    scene = compose(spec, rng, sprites)
    kinds = alterations(spec)
    return scene, alter(scene, rng, sprites, kinds[k % len(kinds)])


@cache
def golden() -> Golden:
    """The golden pictures, true ones first; drawn once per process."""
    sprites = Sprites.load()
    pairs = [_pair(task, k, sprites) for task in GENEVAL_TASKS for k in range(PER_TASK)]
    scenes = [scene for scene, _ in pairs] + [scene for _, (scene, _) in pairs]
    broken = [""] * len(pairs) + [kind for _, (_, kind) in pairs]
    return Golden(render(scenes, sprites).images, tuple(s.spec for s in scenes), tuple(broken))


def _demand(right: list[bool], what: str, failures: list[str], least: float = MINIMUM) -> None:
    if sum(right) < least * len(right):
        lines = "\n  ".join(failures[:6])
        raise ScorerBroken(
            f"the scorer failed its self-test: {sum(right)} of {len(right)} {what}, at least "
            f"{least:.0%} are needed; its weights are damaged or do not belong to it. Wrong:"
            f"\n  {lines}"
        )


def check_verdicts(scorer: Scorer) -> None:
    """Judge the golden pictures.

    Raises ScorerBroken when fewer than `MINIMUM` of the true ones are accepted or of the altered
    ones rejected; the message names the first six that are judged wrong.
    """
    pictures = golden()
    scores = scorer.score(pictures.images, pictures.specs)
    for altered in (False, True):
        rows = [(spec, kind, score) for spec, kind, score
                in zip(pictures.specs, pictures.broken, scores, strict=True)
                if bool(kind) == altered]  # fmt: skip
        right = [score.correct is (not altered) for _, _, score in rows]
        failures = [f"{spec.prompt!r} " + (f"accepted with another {kind}" if altered else
                                           f"rejected: {score.reason}")
                    for (spec, kind, score), good in zip(rows, right, strict=True)
                    if not good]  # fmt: skip
        _demand(right, f"golden pictures {'rejected' if altered else 'accepted'}", failures)


def check_captions(scorer: Scorer) -> None:
    """Compare, for each true golden picture, its own prompt's value with another one's.

    Raises ScorerBroken when the own prompt wins on fewer than `MINIMUM`, or a value is not
    finite.
    """
    pictures = golden()
    n = len(pictures.specs) // 2
    images, specs = pictures.images[:n], pictures.specs[:n]
    # The other prompt is of another task: half the pictures away in the list.
    others = [specs[(i + n // 2) % n] for i in range(n)]
    scores = scorer.score(torch.cat([images, images]), [*specs, *others])
    if not all(math.isfinite(score.value) for score in scores):
        raise ScorerBroken("the scorer failed its self-test: a value is not finite; its weights "
                           "are damaged")  # fmt: skip
    right = [own.value > other.value for own, other in zip(scores[:n], scores[n:], strict=True)]
    failures = [f"{spec.prompt!r} is scored below {other.prompt!r}"
                for spec, other, good in zip(specs, others, right, strict=True)
                if not good]  # fmt: skip
    _demand(right, "golden pictures prefer their own prompt", failures)


def check_pairs(scorer: Scorer) -> None:
    """Compare, for each golden prompt, its true picture's value with the altered one's.

    Raises ScorerBroken when the true one wins on fewer than `PREFERRED`.
    """
    pictures = golden()
    n = len(pictures.specs) // 2
    values = [score.value for score in scorer.score(pictures.images, pictures.specs)]
    right = [true > altered for true, altered in zip(values[:n], values[n:], strict=True)]
    failures = [f"{spec.prompt!r} is scored above with another {kind}"
                for spec, kind, good in zip(pictures.specs[n:], pictures.broken[n:], right,
                                            strict=True) if not good]  # fmt: skip
    _demand(right, "true golden pictures above the altered ones", failures, PREFERRED)
