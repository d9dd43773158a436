"""Counter-examples: scenes that break exactly one fact of their spec.

For a scorer a true scene is half of the test; the other half is that it notices a count off by
one, another colour, the converse relation, another class.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from impasto.spec import COLORS, Item, Spec
from impasto.world.scenes import Scene, compose
from impasto.world.splits import CONVERSE
from impasto.world.sprites import Sprites

__all__ = ["alter", "alterations", "broken_spec"]


def alterations(spec: Spec) -> tuple[str, ...]:
    """Kinds of facts that the spec states and that can be broken, out of count, color, relation,
    class. A missing object is a count of zero, so it is left to tasks that count."""
    kinds = ["class"]
    if spec.exclude or any(item.count > 1 for item in spec.include):
        kinds.append("count")
    if any(item.color for item in spec.include):
        kinds.append("color")
    if any(item.position for item in spec.include):
        kinds.append("relation")
    return tuple(kinds)


def _choose(values: tuple[str, ...], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def _another(rng: np.random.Generator, values: tuple[str, ...], taken: set[str]) -> str:
    return _choose(tuple(v for v in values if v not in taken), rng)


def broken_spec(
    spec: Spec, rng: np.random.Generator, classes: tuple[str, ...], kind: str | None = None
) -> Spec:
    """`spec` with one fact of that kind (default: any it states) changed; its prompt is kept."""
    kind = kind or _choose(alterations(spec), rng)
    items = list(spec.include)
    able = [i for i, item in enumerate(items) if _can_break(item, kind)]
    i = able[int(rng.integers(len(able)))]
    item = items[i]
    if kind == "class":
        items[i] = replace(item, cls=_another(rng, classes, {x.cls for x in items}))
    elif kind == "color":
        items[i] = replace(item, color=_another(rng, COLORS, {item.color or ""}))
    elif kind == "relation":
        assert item.position is not None
        items[i] = replace(item, position=(CONVERSE[item.position[0]], item.position[1]))
    else:
        more = bool(spec.exclude) and rng.random() < 0.5
        items[i] = replace(item, count=item.count + (1 if more else -1))
    return replace(spec, include=tuple(items))


def _can_break(item: Item, kind: str) -> bool:
    return {"class": True, "color": item.color is not None, "relation": item.position is not None,
            "count": item.count > 1}[kind]  # fmt: skip


def alter(
    scene: Scene, rng: np.random.Generator, sprites: Sprites, kind: str | None = None
) -> tuple[Scene, str]:
    """A new scene that breaks one fact of `scene.spec`, and the kind of that fact.

    The returned scene keeps the *unbroken* spec and caption: a scorer must reject it. A count
    breaks upwards only where the spec excludes more. Raises ValueError for a kind that the spec
    does not state.
    """
    kinds = alterations(scene.spec)
    if kind is not None and kind not in kinds:
        raise ValueError(f"{scene.spec.prompt!r} states no {kind}; it states {', '.join(kinds)}")
    kind = kind or _choose(kinds, rng)
    other = broken_spec(scene.spec, rng, sprites.classes, kind)
    broken = compose(other, rng, sprites, scene.size)
    return replace(broken, spec=scene.spec, caption=scene.caption), kind
