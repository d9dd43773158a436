"""GenEval's 553 prompts, regenerated from their seed (Ghosh, Hajishirzi, Schmidt 2023).

The published files are the output of the official generator with seed 43 and n = 100. One
PCG64 stream is drawn from in a fixed order, task by task; duplicates are dropped at the end.
No data file is shipped: the text is the function's value, and its hash is checked by a test.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from impasto.spec import CLASSES, COLORS, NUMBER_WORDS, RELATIONS, Item, Spec, article, plural

__all__ = ["METADATA_SHA256", "PROMPTS_SHA256", "SEED", "TASKS", "geneval_specs"]

SEED = 43
METADATA_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
PROMPTS_SHA256 = "55b6e3650e980c13daf30569eb666e000faf19bfc2b7b4cbe999fcdb7aa9d680"
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

Rng = np.random.Generator
N = len(CLASSES)


def _single_object(rng: Rng) -> Iterator[Spec]:
    for i in rng.choice(N, size=N, replace=False):
        a = CLASSES[i]
        yield Spec(tag="single_object", include=(Item(cls=a),), prompt=f"a photo of {article(a)}")


def _two_object(rng: Rng) -> Spec:
    a, b = (CLASSES[i] for i in rng.choice(N, size=2, replace=False))
    return Spec(tag="two_object", include=(Item(cls=a), Item(cls=b)),
                prompt=f"a photo of {article(a)} and {article(b)}")  # fmt: skip


def _counting(rng: Rng) -> Spec:
    a = CLASSES[rng.choice(N)]
    k = int(rng.integers(2, 4, endpoint=True))
    return Spec(tag="counting", include=(Item(cls=a, count=k),),
                exclude=(Item(cls=a, count=k + 1),),
                prompt=f"a photo of {NUMBER_WORDS[k]} {plural(a)}")  # fmt: skip


def _colors(rng: Rng) -> Spec:
    a = CLASSES[rng.choice(N - 1) + 1]
    color = COLORS[rng.choice(len(COLORS))]
    return Spec(tag="colors", include=(Item(cls=a, color=color),),
                prompt=f"a photo of {article(color)} {a}")  # fmt: skip


def _position(rng: Rng) -> Spec:
    a, b = (CLASSES[i] for i in rng.choice(N, size=2, replace=False))
    relation = RELATIONS[rng.choice(len(RELATIONS))]
    return Spec(tag="position", include=(Item(cls=b), Item(cls=a, position=(relation, 0))),
                prompt=f"a photo of {article(a)} {relation} {article(b)}")  # fmt: skip


def _color_attr(rng: Rng) -> Spec:
    a, b = (CLASSES[i] for i in rng.choice(N - 1, size=2, replace=False) + 1)
    ca, cb = (COLORS[i] for i in rng.choice(len(COLORS), size=2, replace=False))
    return Spec(tag="color_attr", include=(Item(cls=a, color=ca), Item(cls=b, color=cb)),
                prompt=f"a photo of {article(ca)} {a} and {article(cb)} {b}")  # fmt: skip


@lru_cache(maxsize=8)
def geneval_specs(seed: int = SEED, n: int = 100) -> tuple[Spec, ...]:
    """The specs that GenEval's generator makes from a seed; seed 43 gives the official 553.

    n: draws per task other than single_object, before duplicates are dropped.
    """
    rng = np.random.default_rng(seed)
    drawn = list(_single_object(rng))
    for task in (_two_object, _counting, _colors, _position, _color_attr):
        drawn += [task(rng) for _ in range(n)]
    return tuple(dict.fromkeys(drawn))
