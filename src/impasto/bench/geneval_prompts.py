"""GenEval's 553 prompts, regenerated from their seed.

Source: D. Ghosh, H. Hajishirzi, L. Schmidt, "GenEval: An Object-Focused Framework for Evaluating
Text-to-Image Alignment", NeurIPS 2023. One `numpy.random.default_rng(43)` draws everything, in
this order (80 classes; `person` is never coloured):

    single_object  once   choice(80, 80, replace=False)
    two_object     x 100  choice(80, 2, replace=False)
    counting       x 100  choice(80); integers(2, 4, endpoint=True)
    colors         x 100  choice(79) + 1; choice(10)
    position       x 100  choice(80, 2, replace=False); choice(4)
    color_attr     x 100  choice(79, 2, replace=False) + 1; choice(10, 2, replace=False)

Of equal samples the first stays, which leaves 80 + 99 + 80 + 94 + 100 + 100 = 553. The metadata
so written has the official file's bytes, so no data file is shipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from impasto.bench.base import Bench
from impasto.spec import CLASSES, COLORS, NUMBER_WORDS, RELATIONS, Item, Spec, article, plural
from impasto.zoo.registry import BENCHES, nearest

__all__ = ["METADATA_SHA256", "OFFICIAL_SEED", "PROMPTS_SHA256", "geneval", "geneval_specs"]

OFFICIAL_SEED = 43
METADATA_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
PROMPTS_SHA256 = "55b6e3650e980c13daf30569eb666e000faf19bfc2b7b4cbe999fcdb7aa9d680"
"""Of the official `evaluation_metadata.jsonl` and `generation_prompts.txt`."""

PER_TASK = 100
"""Samples drawn for each task but single_object, before the equal ones are dropped."""


def _single_object(rng: np.random.Generator) -> Iterator[Spec]:
    for i in rng.choice(len(CLASSES), size=len(CLASSES), replace=False):
        item = Item(cls=CLASSES[i])
        yield Spec(tag="single_object", include=(item,), prompt=f"a photo of {article(item.cls)}")


def _two_object(rng: np.random.Generator) -> Spec:
    a, b = (CLASSES[i] for i in rng.choice(len(CLASSES), size=2, replace=False))
    return Spec(
        tag="two_object",
        include=(Item(cls=a), Item(cls=b)),
        prompt=f"a photo of {article(a)} and {article(b)}",
    )


def _counting(rng: np.random.Generator) -> Spec:
    cls = CLASSES[rng.choice(len(CLASSES))]
    count = int(rng.integers(2, 4, endpoint=True))
    return Spec(
        tag="counting",
        include=(Item(cls=cls, count=count),),
        exclude=(Item(cls=cls, count=count + 1),),
        prompt=f"a photo of {NUMBER_WORDS[count]} {plural(cls)}",
    )


def _colors(rng: np.random.Generator) -> Spec:
    cls = CLASSES[rng.choice(len(CLASSES) - 1) + 1]
    color = COLORS[rng.choice(len(COLORS))]
    return Spec(
        tag="colors",
        include=(Item(cls=cls, color=color),),
        prompt=f"a photo of {article(color)} {cls}",
    )


def _position(rng: np.random.Generator) -> Spec:
    a, b = (CLASSES[i] for i in rng.choice(len(CLASSES), size=2, replace=False))
    relation = RELATIONS[rng.choice(len(RELATIONS))]
    return Spec(
        tag="position",
        include=(Item(cls=b), Item(cls=a, position=(relation, 0))),
        prompt=f"a photo of {article(a)} {relation} {article(b)}",
    )


def _color_attr(rng: np.random.Generator) -> Spec:
    a, b = (CLASSES[i] for i in rng.choice(len(CLASSES) - 1, size=2, replace=False) + 1)
    color_a, color_b = (COLORS[i] for i in rng.choice(len(COLORS), size=2, replace=False))
    return Spec(
        tag="color_attr",
        include=(Item(cls=a, color=color_a), Item(cls=b, color=color_b)),
        prompt=f"a photo of {article(color_a)} {a} and {article(color_b)} {b}",
    )


def geneval_specs(seed: int = OFFICIAL_SEED) -> tuple[Spec, ...]:
    """GenEval's specs drawn from `seed`, in order; 43 gives the official 553.

    Other seeds give other numbers of prompts (42: 559, 0: 548, 1: 554). Raises ValueError for a
    seed that is not a whole number >= 0.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"GenEval's seed is {seed!r}; give a whole number >= 0 (official: 43)")
    rng = np.random.default_rng(seed)
    specs = list(_single_object(rng))
    for draw in (_two_object, _counting, _colors, _position, _color_attr):
        specs += [draw(rng) for _ in range(PER_TASK)]
    return tuple(dict.fromkeys(specs))


@BENCHES.register("geneval")
def geneval(
    seed: int = OFFICIAL_SEED, limit: int | None = None, task: str | None = None
) -> Bench:
    """GenEval: 553 prompts in six tasks, 4 pictures each (Ghosh et al. 2023).

    seed: another one draws another prompt set, which its name says. task: one of the six alone,
    under another name; single_object is what a model by class can draw. limit: see
    `Bench.stratified`. Raises ValueError for another task, RuntimeError when this NumPy's random
    stream is not the official one, since scores would then be of other prompts under GenEval's
    name.
    """
    name = "geneval" if seed == OFFICIAL_SEED else f"geneval:seed={seed}"
    bench = Bench(name=name, specs=geneval_specs(seed))
    if seed == OFFICIAL_SEED and bench.metadata_sha256 != METADATA_SHA256:
        raise RuntimeError(
            f"seed {seed} gives prompts of sha256 {bench.metadata_sha256}, not GenEval's "
            f"{METADATA_SHA256}: the random stream of NumPy {np.__version__} differs; "
            f"install numpy 1.26 to 2.4, where it is the official one"
        )
    if task is not None:
        if task not in bench.tasks:
            raise ValueError(f"GenEval's task is {task!r}: {nearest(str(task), [*bench.tasks])}")
        specs = tuple(spec for spec in bench.specs if spec.tag == task)
        name = f"{name}{',' if ':' in name else ':'}task={task}"
        bench = replace(bench, name=name, specs=specs)
    return bench if limit is None else bench.stratified(limit)
