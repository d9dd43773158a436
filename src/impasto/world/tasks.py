"""Random specs of GenEval's six tasks and GenEval++'s, over the whole world.

The procedure is not GenEval's own (that one is `impasto.bench`): here specs are drawn one by one,
each from its own random state, and only those that a `Split` allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from impasto.spec import COLORS, NUMBER_WORDS, RELATIONS, Item, Spec, article, plural
from impasto.world.splits import Split

__all__ = ["GENEVAL_PLUS_TASKS", "GENEVAL_TASKS", "PLUS", "Task", "phrase", "sample_spec"]

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
    return _spec("color_attr", [Item(cls=a, color=c) for a, c in zip(names, hues, strict=True)])


def many(rng: Rng, classes: Sequence[str]) -> Spec:
    return counting(rng, classes, 4, 7)


def three_colors(rng: Rng, classes: Sequence[str]) -> Spec:
    return color_attr(rng, classes, 3)


def _counts(rng: Rng, n: int) -> list[int]:
    return [int(k) for k in rng.integers(1, 4, n)]


def _sides(rng: Rng) -> tuple[str, str]:
    """GenEval++'s pairs of regions; always in this order."""
    return [("left", "right"), ("above", "below")][int(rng.integers(2))]


def color_count(rng: Rng, classes: Sequence[str]) -> Spec:
    names, hues = _pick(rng, _colorable(classes), 2), _pick(rng, COLORS, 2)
    return _spec("color_count_attr", [
        Item(cls=x, count=k, color=c)
        for k, c, x in zip(_counts(rng, 2), hues, names, strict=True)])  # fmt: skip


def color_region(rng: Rng, classes: Sequence[str]) -> Spec:
    names, hues = _pick(rng, _colorable(classes), 2), _pick(rng, COLORS, 2)
    return _spec("color_spatial_attr", [
        Item(cls=x, color=c, region=s)
        for c, x, s in zip(hues, names, _sides(rng), strict=True)])  # fmt: skip


def spatial_count(rng: Rng, classes: Sequence[str]) -> Spec:
    names, sides = _pick(rng, classes, 2), _sides(rng)
    return _spec("spatial_count_attr", [
        Item(cls=x, count=k, region=s)
        for k, x, s in zip(_counts(rng, 2), names, sides, strict=True)])  # fmt: skip


def multi_object_count(rng: Rng, classes: Sequence[str]) -> Spec:
    names = _pick(rng, classes, int(rng.integers(2, 4)))
    return _spec("multi_object_count_attr", [
        Item(cls=x, count=k) for k, x in zip(_counts(rng, len(names)), names, strict=True)
    ])  # fmt: skip


def size_region(rng: Rng, classes: Sequence[str]) -> Spec:
    (a, b), (one, other) = _pick(rng, classes, 2), _sides(rng)
    return _spec("size_spatial_attr", [Item(cls=a, size="larger", region=one),
                                       Item(cls=b, size="smaller", region=other)])  # fmt: skip


def _listed(things: Sequence[str]) -> str:
    """ "x and y"; "x, y, and z"."""
    if len(things) == 2:
        return " and ".join(things)
    return f"{', '.join(things[:-1])}, and {things[-1]}"


def _one_or_more(item: Item) -> str:
    word = item.cls if item.count == 1 else plural(item.cls)
    return f"{NUMBER_WORDS[item.count]} {word}"


PHRASES: dict[str, Callable[[Item], str]] = {
    "color_attr": lambda i: f"{article(i.color or '')} {i.cls}",
    "spatial_count_attr": lambda i: f"{NUMBER_WORDS[i.count]} {plural(i.cls)} on the {i.region}",
    "color_spatial_attr": lambda i: f"{i.color} {i.cls} on the {i.region}",
    "color_count_attr": lambda i: f"{NUMBER_WORDS[i.count]} {i.color} {plural(i.cls)}",
    "multi_object_count_attr": _one_or_more,
    "size_spatial_attr": lambda i: f"a {i.size} {i.cls} on the {i.region}",
}
"""GenEval++'s tag -> how one of several things is called. Its quirks are kept: plural for one, no
article beside a region (Ye et al. 2025, Echo-4o)."""


def phrase(tag: str, items: Sequence[Item]) -> str:
    """What a picture of `items` shows, in GenEval++'s words: "a red cup, ..., and a blue tie"."""
    if tag == "counting":
        (item,) = items
        return f"{NUMBER_WORDS[item.count]} {plural(item.cls)}"
    return _listed([PHRASES[tag](item) for item in items])


def _spec(tag: str, items: Sequence[Item]) -> Spec:
    return Spec(tag=tag, include=tuple(items), prompt=f"a photo of {phrase(tag, items)}")


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


def _several_colors(rng: Rng, classes: Sequence[str]) -> Spec:
    """Three objects, or four for one prompt in four."""
    return color_attr(rng, classes, 4 if rng.random() < 0.25 else 3)


PLUS: dict[str, Task] = {
    "color_attr": _several_colors, "counting": many, "color_count_attr": color_count,
    "color_spatial_attr": color_region, "spatial_count_attr": spatial_count,
    "multi_object_count_attr": multi_object_count, "size_spatial_attr": size_region,
}  # fmt: skip
"""GenEval++'s tags, as the benchmark mixes them."""
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
