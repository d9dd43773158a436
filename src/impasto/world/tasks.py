"""Random specs of GenEval's six tasks and GenEval++'s, over the whole world.

The procedure is not GenEval's own (that one is `impasto.bench`): here specs are drawn one by one,
each from its own random state, and only those that a `Split` allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from impasto.spec import COLORS, NUMBER_WORDS, RELATIONS, Item, Spec, article, plural
from impasto.world.splits import Split

__all__ = ["GENEVAL_PLUS_TASKS", "GENEVAL_TASKS", "sample_spec"]

Rng = np.random.Generator


def _pick(rng: Rng, values: Sequence[str], n: int = 1) -> list[str]:
    return [values[int(i)] for i in rng.choice(len(values), n, replace=False)]


def _colorable(classes: Sequence[str]) -> list[str]:
    """GenEval never asks for a coloured person."""
    return [c for c in classes if c != "person"]


def single_object(rng: Rng, classes: Sequence[str]) -> Spec:
    (a,) = _pick(rng, classes)
    return Spec(tag="single_object", include=(Item(cls=a),), prompt=f"a photo of {article(a)}")


def region(rng: Rng, classes: Sequence[str]) -> Spec:
    """One object in a half of the picture: how training shows single natural objects."""
    (a,), side = _pick(rng, classes), str(rng.choice(["left", "right", "above", "below"]))
    words = {"left": "on the left", "right": "on the right", "above": "at the top",
             "below": "at the bottom"}  # fmt: skip
    item = Item(cls=a, region=side)
    return Spec(tag="region", include=(item,), prompt=f"a photo of {article(a)} {words[side]}")


def two_object(rng: Rng, classes: Sequence[str]) -> Spec:
    a, b = _pick(rng, classes, 2)
    return Spec(tag="two_object", include=(Item(cls=a), Item(cls=b)),
                prompt=f"a photo of {article(a)} and {article(b)}")  # fmt: skip


def counting(rng: Rng, classes: Sequence[str], low: int = 2, high: int = 4) -> Spec:
    (a,), k = _pick(rng, classes), int(rng.integers(low, high + 1))
    return Spec(tag="counting", include=(Item(cls=a, count=k),),
                exclude=(Item(cls=a, count=k + 1),),
                prompt=f"a photo of {NUMBER_WORDS[k]} {plural(a)}")  # fmt: skip


def colors(rng: Rng, classes: Sequence[str]) -> Spec:
    (a,), (color,) = _pick(rng, _colorable(classes)), _pick(rng, COLORS)
    return Spec(tag="colors", include=(Item(cls=a, color=color),),
                prompt=f"a photo of {article(color)} {a}")  # fmt: skip


def position(rng: Rng, classes: Sequence[str]) -> Spec:
    (a, b), (relation,) = _pick(rng, classes, 2), _pick(rng, RELATIONS)
    return Spec(tag="position", include=(Item(cls=b), Item(cls=a, position=(relation, 0))),
                prompt=f"a photo of {article(a)} {relation} {article(b)}")  # fmt: skip


def color_attr(rng: Rng, classes: Sequence[str], n: int = 2) -> Spec:
    names, hues = _pick(rng, _colorable(classes), n), _pick(rng, COLORS, n)
    things = [f"{article(c)} {a}" for a, c in zip(names, hues, strict=True)]
    words = " and ".join(things) if n == 2 else f"{', '.join(things[:-1])}, and {things[-1]}"
    items = tuple(Item(cls=a, color=c) for a, c in zip(names, hues, strict=True))
    return Spec(tag="color_attr", include=items, prompt=f"a photo of {words}")


def many(rng: Rng, classes: Sequence[str]) -> Spec:
    return counting(rng, classes, 4, 7)


def three_colors(rng: Rng, classes: Sequence[str]) -> Spec:
    return color_attr(rng, classes, 3)


def color_count(rng: Rng, classes: Sequence[str]) -> Spec:
    (a, b), hues = _pick(rng, _colorable(classes), 2), _pick(rng, COLORS, 2)
    counts = [int(k) for k in rng.integers(1, 4, 2)]
    words = [f"{NUMBER_WORDS[k]} {c} {plural(x)}"
             for k, c, x in zip(counts, hues, (a, b), strict=True)]  # fmt: skip
    items = tuple(Item(cls=x, count=k, color=c)
                  for k, c, x in zip(counts, hues, (a, b), strict=True))  # fmt: skip
    return Spec(tag="color_count_attr", include=items, prompt=f"a photo of {' and '.join(words)}")


def _sides(rng: Rng) -> tuple[str, str]:
    """GenEval++'s pairs of regions; always in this order."""
    return [("left", "right"), ("above", "below")][int(rng.integers(2))]


def spatial_count(rng: Rng, classes: Sequence[str]) -> Spec:
    names, sides = _pick(rng, classes, 2), _sides(rng)
    counts = [int(k) for k in rng.integers(1, 4, 2)]
    words = [f"{NUMBER_WORDS[k]} {plural(x)} on the {s}"
             for k, x, s in zip(counts, names, sides, strict=True)]  # fmt: skip
    items = tuple(Item(cls=x, count=k, region=s)
                  for k, x, s in zip(counts, names, sides, strict=True))  # fmt: skip
    return Spec(tag="spatial_count_attr", include=items,
                prompt=f"a photo of {' and '.join(words)}")  # fmt: skip


def multi_object_count(rng: Rng, classes: Sequence[str]) -> Spec:
    names = _pick(rng, classes, int(rng.integers(2, 4)))
    counts = [int(k) for k in rng.integers(1, 4, len(names))]
    things = [f"{NUMBER_WORDS[k]} {x if k == 1 else plural(x)}"
              for k, x in zip(counts, names, strict=True)]  # fmt: skip
    words = (" and ".join(things) if len(things) == 2
             else f"{', '.join(things[:-1])}, and {things[-1]}")  # fmt: skip
    items = tuple(Item(cls=x, count=k) for k, x in zip(counts, names, strict=True))
    return Spec(tag="multi_object_count_attr", include=items, prompt=f"a photo of {words}")


def size_region(rng: Rng, classes: Sequence[str]) -> Spec:
    (a, b), (one, other) = _pick(rng, classes, 2), _sides(rng)
    return Spec(tag="size_spatial_attr",
                include=(Item(cls=a, size="larger", region=one),
                         Item(cls=b, size="smaller", region=other)),
                prompt=f"a photo of a larger {a} on the {one} and a smaller {b} on the {other}"
                )  # fmt: skip


def color_region(rng: Rng, classes: Sequence[str]) -> Spec:
    (a, b), hues = _pick(rng, _colorable(classes), 2), _pick(rng, COLORS, 2)
    sides = _sides(rng)
    words = [f"{c} {x} on the {s}" for c, x, s in zip(hues, (a, b), sides, strict=True)]
    items = tuple(Item(cls=x, color=c, region=s)
                  for c, x, s in zip(hues, (a, b), sides, strict=True))  # fmt: skip
    return Spec(tag="color_spatial_attr", include=items,
                prompt=f"a photo of {' and '.join(words)}")  # fmt: skip


Task = Callable[[Rng, Sequence[str]], Spec]
GENEVAL_TASKS: dict[str, Task] = {
    "single_object": single_object, "two_object": two_object, "counting": counting,
    "colors": colors, "position": position, "color_attr": color_attr,
}  # fmt: skip
GENEVAL_PLUS_TASKS: dict[str, Task] = {
    "region": region, "counting_many": many, "three_colors": three_colors,
    "color_count_attr": color_count, "color_spatial_attr": color_region,
    "spatial_count_attr": spatial_count, "multi_object_count_attr": multi_object_count,
    "size_spatial_attr": size_region,
}  # fmt: skip
_ALL = GENEVAL_TASKS | GENEVAL_PLUS_TASKS


def sample_spec(
    rng: Rng, classes: Sequence[str], split: Split | None = None,
    weights: Mapping[str, float] | None = None, attempts: int = 1000,
) -> Spec:  # fmt: skip
    """A random spec that `split` allows; task frequencies proportional to `weights`.

    weights: task name -> weight, default the six GenEval tasks equally. Raises ValueError for an
    unknown task, or when the split allows none of `attempts` draws.
    """
    weights = dict.fromkeys(GENEVAL_TASKS, 1.0) if weights is None else weights
    if unknown := sorted(set(weights) - set(_ALL)):
        raise ValueError(f"unknown task(s) {unknown}; allowed: {', '.join(_ALL)}")
    names = list(weights)
    chances = np.array([weights[n] for n in names]) / sum(weights.values())
    task = _ALL[names[int(rng.choice(len(names), p=chances))]]
    for _ in range(attempts):
        spec = task(rng, classes)
        if split is None or spec in split:
            return spec
    name = split.name if split else "any"
    raise ValueError(f"split {name!r} allows none of {attempts} specs of task {task.__name__!r}")
