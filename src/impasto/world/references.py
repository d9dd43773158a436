"""One picture from several: what to take from which reference, and the exact target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from impasto.spec import RELATIONS
from impasto.world.edits import related, retold
from impasto.world.questions import names
from impasto.world.room import BESIDE, NoRoomError, Room, beside
from impasto.world.scenes import Placed, Scene, boxes_of
from impasto.world.splits import CONVERSE
from impasto.world.sprites import Sprites

__all__ = ["Composition", "compose_references"]

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")

Rng = np.random.Generator


@dataclass(frozen=True)
class Composition:
    """What to take from the references to make `target`, on the first one's background.

    relation: in which the target's first object shall stand to its second one, where it is said.
    """

    instruction: str
    references: tuple[Scene, ...]
    target: Scene
    relation: str | None = None


def _chosen(scenes: Sequence[Scene], rng: Rng, sprites: Sprites
            ) -> tuple[list[Placed], list[str]]:  # fmt: skip
    """One object of each reference and how to say which one it is."""
    things, phrases = [], []
    for scene, ordinal in zip(scenes, _ORDINALS, strict=False):
        named = names(scene, sprites)
        if not named:
            raise ValueError(f"no object of {scene.spec.prompt!r} can be named without doubt")
        i = list(named)[int(rng.integers(len(named)))]
        things.append(scene.objects[i])
        phrases.append(f"the {named[i]} from the {ordinal} picture")
    return things, phrases


def _arranged(things: Sequence[Placed], size: int, rng: Rng, sprites: Sprites) -> list[Placed]:
    """Each thing at a free place, with its size where there is room."""
    placed: list[Placed] = []
    for thing in things:
        placed.append(Room(placed, size, sprites).settled(thing, rng))
    return placed


def _pair(scenes: tuple[Scene, ...], rng: Rng, sprites: Sprites) -> Composition:
    """Two objects, in a relation."""
    (a, b), phrases = _chosen(scenes, rng, sprites)
    relation, size = RELATIONS[int(rng.integers(len(RELATIONS)))], scenes[0].size
    a = Room((), size, sprites).settled(a, rng)
    accept = beside(CONVERSE[relation], boxes_of([a], sprites)[0].tolist())
    b = Room((a,), size, sprites).settled(b, rng, accept)
    target = related(retold(scenes[0], (a, b)), a, relation, b)
    text = (f"Put {phrases[0]} {BESIDE[relation]} {phrases[1]}, "
            "on the background of the first picture")  # fmt: skip
    return Composition(text, scenes, target, relation)


def _group(scenes: tuple[Scene, ...], rng: Rng, sprites: Sprites) -> Composition:
    things, phrases = _chosen(scenes, rng, sprites)
    target = retold(scenes[0], _arranged(things, scenes[0].size, rng, sprites))
    text = (f"Put {', '.join(phrases[:-1])}, and {phrases[-1]} together, "
            "on the background of the first picture")  # fmt: skip
    return Composition(text, scenes, target)


def compose_references(
    scenes: Sequence[Scene], rng: Rng, sprites: Sprites, attempts: int = 20
) -> Composition:
    """One object of each of 2 to 7 scenes in one picture, on the first one's background.

    Two objects come with a relation. Objects keep drawing, colour, turn and, where there is room,
    size. Deterministic in (scenes, rng state, sprites). Raises ValueError for another number of
    scenes, scenes of several sizes, a scene whose objects cannot be named, or when `attempts`
    choices find no room.
    """
    if not 2 <= len(scenes) <= len(_ORDINALS) or len({s.size for s in scenes}) != 1:
        raise ValueError(f"give 2 to {len(_ORDINALS)} scenes of one size, got {len(scenes)}")
    make = _pair if len(scenes) == 2 else _group
    for _ in range(attempts):
        try:
            return make(tuple(scenes), rng, sprites)
        except NoRoomError:
            continue
    raise ValueError(f"no room for the objects of {len(scenes)} scenes in one picture")
