"""Twins: two scenes a fact apart, each with its own prompt, and which shows the other's too.

A picture network that sees a scene A with its caption a and its twin B with b learns from

    (A, a) right   (A, b) wrong   (B, a) wrong   (B, b) right

what the picture must show, because neither the caption nor the picture alone tells which of the
four is right. Where B has less than A (a thing left out, one of two), A shows b as well by
GenEval's rule, which counts only where a number is asked. Rights and wrongs hold by construction;
relations, of which a scene may show two at once, are asked of GenEval's formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from impasto.spec import COLORS, RELATIONS, Item, Spec, relations
from impasto.world.scenes import Scene, compose
from impasto.world.splits import CONVERSE
from impasto.world.sprites import Sprites
from impasto.world.words import template

__all__ = ["CHANCES", "Twin", "differences", "twin", "twin_spec"]

CHANCES = {"class": 2.0, "missing": 1.0, "count": 3.0, "color": 2.0, "swap": 2.0, "relation": 4.0,
           "region": 2.0}  # fmt: skip
"""How often each difference is chosen, among those that a spec allows."""
MOST = 8
"""Objects of a class, at most."""
MIRRORED = {"left": "right", "right": "left", "above": "below", "below": "above"}
FEWER = {"two_object": "single_object", "position": "single_object", "color_attr": "colors"}
"""Tag of a spec of two things -> tag of one of them."""

Rng = np.random.Generator
Items = list[Item]


@dataclass(frozen=True)
class Twin:
    """scene: with the spec of its own. kind: of the difference, a key of `CHANCES`.

    first_shows: whether the first scene also shows this one's prompt; second_shows: whether this
    one shows the first's.
    """

    scene: Scene
    kind: str
    first_shows: bool = False
    second_shows: bool = False


def differences(spec: Spec) -> tuple[str, ...]:
    """The kinds of `CHANCES` in which a scene can differ from `spec`."""
    items = spec.include
    has = {
        "class": True, "missing": len(items) > 1, "count": _counts(spec),
        "color": any(item.color for item in items), "relation": _placed(items) is not None,
        "swap": len({_look(item) for item in items}) > 1,
        "region": any(item.region for item in items),
    }  # fmt: skip
    return tuple(kind for kind in CHANCES if has[kind])


def _counts(spec: Spec) -> bool:
    """Whether the prompt says how many."""
    return bool(spec.exclude) or any(item.count > 1 for item in spec.include)


def _placed(items: Sequence[Item]) -> int | None:
    """The item that has a relation."""
    return next((i for i, item in enumerate(items) if item.position is not None), None)


def _look(item: Item) -> tuple[str | None, int]:
    return item.color, item.count


def _one_of(rng: Rng, values: list[str]) -> str:
    return values[int(rng.integers(len(values)))]


def _other_class(items: Items, i: int, rng: Rng, classes: tuple[str, ...]) -> Item:
    taken = {item.cls for item in items} | ({"person"} if items[i].color else set())
    return replace(items[i], cls=_one_of(rng, [c for c in classes if c not in taken]))


def _other_color(item: Item, rng: Rng) -> Item:
    return replace(item, color=_one_of(rng, [c for c in COLORS if c != item.color]))


def _other_count(item: Item, rng: Rng) -> Item:
    more = item.count == 1 or (item.count < MOST and rng.random() < 0.5)
    return replace(item, count=item.count + (1 if more else -1))


def _swap(items: Items, rng: Rng) -> Items:
    """Two things that look differently exchange colour and number."""
    pairs = [(i, j) for i in range(len(items)) for j in range(i)
             if _look(items[i]) != _look(items[j])]  # fmt: skip
    i, j = pairs[int(rng.integers(len(pairs)))]
    looks = {i: items[j], j: items[i]}
    return [replace(item, color=looks[k].color, count=looks[k].count) if k in looks else item
            for k, item in enumerate(items)]  # fmt: skip


def _other_relation(items: Items, rng: Rng) -> Items:
    """The converse for six in ten, else one across."""
    i = _placed(items)
    assert i is not None
    relation, to = items[i].position or ("", 0)
    across = [r for r in RELATIONS if r not in (relation, CONVERSE[relation])]
    other = CONVERSE[relation] if rng.random() < 0.6 else _one_of(rng, across)
    return [replace(item, position=(other, to)) if k == i else item
            for k, item in enumerate(items)]  # fmt: skip


def _without(items: Items, i: int) -> Items:
    return [replace(item, position=None) for k, item in enumerate(items) if k != i]


def _changed(items: Items, kind: str, rng: Rng, classes: tuple[str, ...]) -> Items:
    """The items with one difference of that kind."""
    if kind == "swap":
        return _swap(items, rng)
    if kind == "relation":
        return _other_relation(items, rng)
    if kind == "region":
        return [replace(x, region=MIRRORED[x.region]) if x.region else x for x in items]
    able = [i for i, item in enumerate(items) if kind != "color" or item.color is not None]
    i = able[int(rng.integers(len(able)))]
    if kind == "missing":
        return _without(items, i)
    if kind == "class":
        other = _other_class(items, i, rng, classes)
    else:
        other = _other_color(items[i], rng) if kind == "color" else _other_count(items[i], rng)
    return [*items[:i], other, *items[i + 1 :]]


def _tag(spec: Spec, items: Items) -> str:
    if spec.tag == "counting":
        return "counting" if items[0].count > 1 else "single_object"
    return FEWER.get(spec.tag, spec.tag) if len(items) == 1 else spec.tag


def twin_spec(spec: Spec, rng: Rng, classes: tuple[str, ...], kind: str | None = None
              ) -> tuple[Spec, str]:  # fmt: skip
    """Another spec that differs in one fact, with its own prompt, and the kind of that fact.

    kind: default by `CHANCES`. Raises ValueError for one that `differences` does not name.
    """
    kinds = differences(spec)
    if kind is not None and kind not in kinds:
        raise ValueError(f"{spec.prompt!r} cannot differ in {kind}; allowed: {', '.join(kinds)}")
    chances = np.array([CHANCES[k] for k in kinds])
    kind = kind or str(rng.choice(kinds, p=chances / chances.sum()))
    items = _changed(list(spec.include), kind, rng, classes)
    tag = _tag(spec, items)
    counted = tuple(replace(item, count=item.count + 1) for item in items
                    if tag == "counting")  # fmt: skip
    return Spec(tag=tag, include=tuple(items), exclude=counted, prompt=template(tag, items)), kind


def _shows(scene: Scene, spec: Spec, sprites: Sprites) -> bool:
    """Whether the two things of a scene stand as `spec` says: one of each class."""
    boxes = {thing.cls: box for thing, box in zip(scene.objects, scene.boxes(sprites),
                                                  strict=True)}  # fmt: skip
    i = _placed(spec.include)
    assert i is not None
    relation, to = spec.include[i].position or ("", 0)
    return relation in relations(boxes[spec.include[i].cls], boxes[spec.include[to].cls])


def twin(scene: Scene, rng: Rng, sprites: Sprites, kind: str | None = None) -> Twin:
    """A new scene that differs from `scene` in one fact of its spec.

    Raises ValueError for a kind in which it cannot differ.
    """
    spec, kind = twin_spec(scene.spec, rng, sprites.classes, kind)
    other = compose(spec, rng, sprites, scene.size)
    if kind == "relation":
        return Twin(other, kind, _shows(scene, spec, sprites), _shows(other, scene.spec, sprites))
    # Fewer of a thing whose number the new prompt does not ask for: the first scene shows it too.
    uncounted = kind == "count" and spec.tag == "single_object"
    return Twin(other, kind, first_shows=kind == "missing" or uncounted)
