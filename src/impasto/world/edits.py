"""Edits of scenes: an instruction, the scene before and the exact scene after.

In a target everything that the instruction does not name is what it was: drawing, colour, place,
size, turn, depth and background. What is added, put instead or moved covers no other object by
more than the world allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from impasto.spec import COLORS, RELATIONS, Item, Spec, article, relations
from impasto.world.questions import names
from impasto.world.room import BESIDE, NoRoomError, Room, beside
from impasto.world.scenes import Placed, Scene
from impasto.world.sprites import NATURAL, Sprites
from impasto.world.words import english_singular, template

__all__ = ["KINDS", "Edit", "edit", "related", "retold", "true_spec"]

KINDS = ("recolour", "add", "remove", "replace", "move")

Rng = np.random.Generator


@dataclass(frozen=True)
class Edit:
    """What to do to `source` so that it becomes `target`. kind: one of `KINDS`.

    beside: where the instruction says it, the relation in which what is added or moved shall stand
    to an object, and that one's index in both scenes.
    """

    kind: str
    instruction: str
    source: Scene
    target: Scene
    beside: tuple[str, int] | None = None

    @property
    def gone(self) -> tuple[Placed, ...]:
        """The objects of the source that are not in the target as they were."""
        return tuple(o for o in self.source.objects if o not in self.target.objects)

    @property
    def new(self) -> tuple[Placed, ...]:
        """The objects of the target that were not in the source so."""
        return tuple(o for o in self.target.objects if o not in self.source.objects)


def true_spec(objects: Sequence[Placed], tag: str = "edit") -> Spec:
    """The spec of exactly these objects: every class with its colours and counts, no more of it.

    The prompt counts them: "a photo of one red cup and two dogs".
    """
    looks = Counter((o.cls, o.color) for o in objects)
    items = tuple(Item(cls=c, count=k, color=color) for (c, color), k in looks.items())
    classes = Counter(o.cls for o in objects)
    exclude = tuple(Item(cls=c, count=k + 1) for c, k in classes.items())
    prompt = template("multi_object_count_attr", items)
    return Spec(tag=tag, include=items, exclude=exclude, prompt=prompt)


def retold(scene: Scene, objects: Sequence[Placed], gone: str | None = None) -> Scene:
    """`scene` with other objects, its spec and caption made anew. gone: a class that went."""
    spec = true_spec(objects)
    if gone is not None and all(o.cls != gone for o in objects):
        spec = replace(spec, exclude=(*spec.exclude, Item(cls=gone, count=1)))
    return replace(scene, objects=tuple(objects), spec=spec, caption=spec.prompt)


def related(scene: Scene, moved: Placed, relation: str, to: Placed) -> Scene:
    """`scene` whose spec also demands the relation, where both classes come once.

    The placed item goes last: GenEval's rule wants what it refers to before it.
    """
    if any(sum(o.cls == x.cls for o in scene.objects) > 1 for x in (moved, to)):
        return scene
    items = [item for item in scene.spec.include if item.cls != moved.cls]
    index = [item.cls for item in items].index(to.cls)
    placed = Item(cls=moved.cls, color=moved.color, position=(relation, index))
    return replace(scene, spec=replace(scene.spec, include=(*items, placed)))


def _choose(rng: Rng, values: Sequence[str]) -> str:
    return values[int(rng.integers(len(values)))]


def _shuffled(rng: Rng, values: Sequence[int]) -> list[int]:
    return [int(v) for v in rng.permutation(np.array(values, dtype=np.int64))]


def _new(rng: Rng, sprites: Sprites, present: set[str], side: float) -> Placed:
    """An object of a class that is not in the scene, in a random colour or natural."""
    cls = _choose(rng, [c for c in sprites.classes if c not in present])
    color = _choose(rng, COLORS) if cls != "person" and rng.random() < 0.6 else None
    drawing = int(rng.choice(sprites.of_class[cls]))
    flip = bool(rng.random() < 0.5) and sprites.mirrors[drawing]
    return Placed(cls, color, drawing, 0.0, 0.0, side, float(rng.uniform(-0.15, 0.15)), flip)


def _looks(thing: Placed) -> str:
    return " ".join(filter(None, (thing.color, english_singular(thing.cls))))


def _like_natural(thing: Placed, sprites: Sprites) -> set[str]:
    """The colours that would hardly change an object in its natural ones: red of an apple."""
    if thing.color is not None:
        return set()
    pixels = sprites.pixels[thing.drawing].float()
    change = (pixels[:NATURAL] - pixels[NATURAL]).abs().mean((1, 2, 3))
    return {c for c, v in zip(COLORS, change.tolist(), strict=True) if v < 0.4 * change.max()}


def _recolour(scene: Scene, rng: Rng, sprites: Sprites) -> Edit:
    named = {i: n for i, n in names(scene, sprites).items() if scene.objects[i].cls != "person"}
    i = _shuffled(rng, list(named))[0]
    old = scene.objects[i]
    taken = {o.color for o in scene.objects if o.cls == old.cls} | _like_natural(old, sprites)
    color = _choose(rng, [c for c in COLORS if c not in taken])
    objects = [replace(o, color=color) if k == i else o for k, o in enumerate(scene.objects)]
    words = _choose(rng, ("Make the {} {}", "Change the color of the {} to {}",
                          "Paint the {} {}"))  # fmt: skip
    return Edit("recolour", words.format(named[i], color), scene, retold(scene, objects))


def _remove(scene: Scene, rng: Rng, sprites: Sprites) -> Edit:
    named = names(scene, sprites)
    i = _shuffled(rng, list(named))[0]
    objects = [o for k, o in enumerate(scene.objects) if k != i]
    words = _choose(rng, ("Remove the {}", "Take the {} away", "Delete the {}"))
    target = retold(scene, objects, gone=scene.objects[i].cls)
    return Edit("remove", words.format(named[i]), scene, target)


def _replace(scene: Scene, rng: Rng, sprites: Sprites) -> Edit:
    named = names(scene, sprites)
    i = _shuffled(rng, list(named))[0]
    old, others = scene.objects[i], [o for k, o in enumerate(scene.objects) if k != i]
    new = _new(rng, sprites, {o.cls for o in scene.objects}, old.size)
    new = Room(others, scene.size, sprites).fitted(replace(new, cx=old.cx, cy=old.cy))
    objects = [new if k == i else o for k, o in enumerate(scene.objects)]
    words = _choose(rng, ("Replace the {} with {}", "Swap the {} for {}", "Turn the {} into {}"))
    text = words.format(named[i], article(_looks(new)))
    return Edit("replace", text, scene, retold(scene, objects, gone=old.cls))


def _add(scene: Scene, rng: Rng, sprites: Sprites) -> Edit:
    side = float(rng.uniform(0.8, 1.1) * np.mean([o.size for o in scene.objects]))
    new = _new(rng, sprites, {o.cls for o in scene.objects}, side)
    room, named = Room(scene.objects, scene.size, sprites), names(scene, sprites)
    if not named or rng.random() < 0.3:
        new = room.settled(new, rng)
        words = _choose(rng, ("Add {}", "Put {} in the picture", "Draw {} as well"))
        target = retold(scene, (*scene.objects, new))
        return Edit("add", words.format(article(_looks(new))), scene, target)
    i, relation = _shuffled(rng, list(named))[0], _choose(rng, RELATIONS)
    new = room.settled(new, rng, beside(relation, scene.boxes(sprites)[i]))
    target = related(retold(scene, (*scene.objects, new)), new, relation, scene.objects[i])
    text = f"Add {article(_looks(new))} {BESIDE[relation]} the {named[i]}"
    return Edit("add", text, scene, target, (relation, i))


def _move(scene: Scene, rng: Rng, sprites: Sprites) -> Edit:
    named, boxes = names(scene, sprites), scene.boxes(sprites)
    a, b = _shuffled(rng, list(named))[:2]
    held = relations(boxes[a], boxes[b], 0.0)
    relation = _choose(rng, [r for r in RELATIONS if r not in held])
    thing, others = scene.objects[a], [o for k, o in enumerate(scene.objects) if k != a]
    accept = beside(relation, boxes[b])
    moved = Room(others, scene.size, sprites).settled(thing, rng, accept, smallest=thing.size)
    objects = [moved if k == a else o for k, o in enumerate(scene.objects)]
    target = related(retold(scene, objects), moved, relation, scene.objects[b])
    text = f"Move the {named[a]} {BESIDE[relation]} the {named[b]}"
    return Edit("move", text, scene, target, (relation, b))


_EDITS = {"recolour": _recolour, "add": _add, "remove": _remove, "replace": _replace,
          "move": _move}  # fmt: skip


def _possible(scene: Scene, kind: str, sprites: Sprites) -> bool:
    """Whether the scene has the objects that an edit of this kind has to name."""
    named = names(scene, sprites)
    return {"recolour": any(scene.objects[i].cls != "person" for i in named), "add": True,
            "remove": bool(named) and len(scene.objects) > 1, "replace": bool(named),
            "move": len(named) > 1}[kind]  # fmt: skip


def edit(scene: Scene, rng: Rng, kind: str, sprites: Sprites, attempts: int = 20) -> Edit:
    """An edit of `scene` of that kind; deterministic in (scene, rng state, kind, sprites).

    kind: one of `KINDS`. sprites: what the scene was composed with. Raises ValueError for another
    kind, where no object can be named without doubt (move: two objects), or where `attempts`
    choices find no room.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of edit {kind!r}; allowed: {', '.join(KINDS)}")
    if not _possible(scene, kind, sprites):
        raise ValueError(f"no object of {scene.spec.prompt!r} can be named for {kind!r}; "
                         "take one with more objects, apart from each other")  # fmt: skip
    for _ in range(attempts):
        try:
            return _EDITS[kind](scene, rng, sprites)
        except NoRoomError:
            continue
    raise ValueError(f"no room to {kind} in {scene.spec.prompt!r}; take one with fewer objects")
