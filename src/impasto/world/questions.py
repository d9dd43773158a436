"""Questions about a scene, with answers that its data give.

Only what has one answer is asked: an object is named by its class where it is the only one of it,
else by its colour or as the leftmost, …; the colour of a natural drawing is not asked; a relation
is asked where GenEval's formula holds with room to spare (yes), or its converse does (no).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from impasto.spec import CLASSES, COLORS, NUMBER_WORDS, RELATIONS, article, relations
from impasto.world.room import BESIDE
from impasto.world.scenes import RELATION_MARGIN, Scene
from impasto.world.splits import CONVERSE
from impasto.world.sprites import Sprites
from impasto.world.words import english_plural, english_singular

__all__ = ["KINDS", "Question", "names", "questions"]

KINDS = ("count", "color", "position", "existence")
HALF_MARGIN = 0.08
"""A centre this close to the middle, as a share of the canvas, lies in neither half."""
_ENDS = (("leftmost", 0, 1), ("rightmost", 0, -1), ("highest", 1, 1), ("lowest", 1, -1))
_SIMILAR = ({"bear", "teddy bear"}, {"cup", "wine glass"}, {"orange", "sports ball"},
            {"handbag", "suitcase"}, {"tv", "laptop"}, {"train", "bus"})  # fmt: skip
"""Classes whose names may be used for each other: absence is not asked beside the other one."""

Rng = np.random.Generator


@dataclass(frozen=True)
class Question:
    """answer: "yes", "no", a number word, a colour, "left", "top", … or "a red cup".
    kind: one of `KINDS`."""

    text: str
    answer: str
    kind: str


def _noun(cls: str, color: str | None, count: int = 1) -> str:
    word = english_singular(cls) if count == 1 else english_plural(cls)
    return f"{color} {word}" if color else word


def _number(k: int) -> str:
    return NUMBER_WORDS[k] if k < len(NUMBER_WORDS) else str(k)


def names(scene: Scene, sprites: Sprites) -> dict[int, str]:
    """Object index -> "cup", "red cup" or "leftmost cup", where that tells it from the rest.

    A colour tells only where all objects of the class have one: a natural apple may be red.
    """
    classes = Counter(o.cls for o in scene.objects)
    looks = Counter((o.cls, o.color) for o in scene.objects)
    natural = {o.cls for o in scene.objects if o.color is None}
    found = {}
    for i, o in enumerate(scene.objects):
        if classes[o.cls] == 1:
            found[i] = _noun(o.cls, None)
        elif o.cls not in natural and looks[o.cls, o.color] == 1:
            found[i] = _noun(o.cls, o.color)
        elif end := _end(scene, sprites, i):
            found[i] = f"{end} {_noun(o.cls, None)}"
    return found


def _end(scene: Scene, sprites: Sprites, i: int) -> str | None:
    """ "leftmost", … when object i is clearly at that end of all objects of its class."""
    boxes = scene.boxes(sprites)
    others = [k for k, o in enumerate(scene.objects) if o.cls == scene.objects[i].cls and k != i]
    for word, axis, sign in _ENDS:
        gaps = [sign * (sum(boxes[k][axis::2]) - sum(boxes[i][axis::2])) / 2 for k in others]
        if min(gaps) > HALF_MARGIN * scene.size:
            return word
    return None


def _choose(rng: Rng, values: list[str]) -> str:
    return values[int(rng.integers(len(values)))]


def _counts(scene: Scene, sprites: Sprites, rng: Rng) -> Iterator[Question]:
    for cls, k in Counter(o.cls for o in scene.objects).items():
        yield Question(f"How many {english_plural(cls)} are there?", _number(k), "count")
        guess = k if rng.random() < 0.5 else k + 1 if k == 1 or rng.random() < 0.5 else k - 1
        verb = "Is" if guess == 1 else "Are"
        text = f"{verb} there exactly {_number(guess)} {_noun(cls, None, guess)}?"
        yield Question(text, "yes" if guess == k else "no", "count")
    total = _number(len(scene.objects))
    yield Question("How many objects are there in total?", total, "count")
    yield from _color_counts(scene)


def _color_counts(scene: Scene) -> Iterator[Question]:
    natural = {o.cls for o in scene.objects if o.color is None}
    looks = Counter((o.cls, o.color) for o in scene.objects if o.cls not in natural)
    for (cls, color), k in looks.items():
        text = f"How many {_noun(cls, color, 2)} are there?"
        yield Question(text, _number(k), "count")


def _colors(scene: Scene, sprites: Sprites, rng: Rng) -> Iterator[Question]:
    classes = Counter(o.cls for o in scene.objects)
    for o in scene.objects:
        if o.color is None or classes[o.cls] > 1:
            continue
        name = _noun(o.cls, None)
        yield Question(f"What color is the {name}?", o.color, "color")
        other = _choose(rng, [c for c in COLORS if c != o.color])
        asked = o.color if rng.random() < 0.5 else other
        yield Question(f"Is the {name} {asked}?", "yes" if asked == o.color else "no", "color")


def _clear(scene: Scene, sprites: Sprites) -> dict[tuple[int, int], set[str]]:
    """(a, b) -> the relations in which a stands to b with room to spare."""
    boxes = scene.boxes(sprites)
    return {(a, b): set(relations(boxes[a], boxes[b], RELATION_MARGIN))
            for a in range(len(boxes)) for b in range(len(boxes)) if a != b}  # fmt: skip


def _relative(scene: Scene, sprites: Sprites, rng: Rng) -> Iterator[Question]:
    named, clear = names(scene, sprites), _clear(scene, sprites)
    for (a, b), held in clear.items():
        if a not in named or b not in named:
            continue
        for relation in sorted(held):
            yes = rng.random() < 0.5
            asked = BESIDE[relation if yes else CONVERSE[relation]]
            text = f"Is the {named[a]} {asked} the {named[b]}?"
            yield Question(text, "yes" if yes else "no", "position")


def _what(scene: Scene, sprites: Sprites, rng: Rng) -> Iterator[Question]:
    """ "What is above the dog?" where one object is, and the rest is not even nearly."""
    named, clear, boxes = names(scene, sprites), _clear(scene, sprites), scene.boxes(sprites)
    for b in named:
        for relation in RELATIONS:
            others = [a for a in range(len(boxes)) if a != b]
            near = [a for a in others if relation in relations(boxes[a], boxes[b], 0.0)]
            if len(near) == 1 and relation in clear[near[0], b]:
                o = scene.objects[near[0]]
                answer = article(_noun(o.cls, o.color))
                text = f"What is {BESIDE[relation]} the {named[b]}?"
                yield Question(text, answer, "position")


def _halves(scene: Scene, sprites: Sprites, rng: Rng) -> Iterator[Question]:
    """ "Is the cup on the left or on the right of the picture?" """
    boxes = scene.boxes(sprites)
    sides = (("left", "right"), ("top", "bottom"))
    for i, name in names(scene, sprites).items():
        for axis, (low, high) in enumerate(sides):
            centre = (boxes[i][axis] + boxes[i][axis + 2]) / (2 * scene.size)
            if abs(centre - 0.5) < HALF_MARGIN:
                continue
            first, second = (low, high) if rng.random() < 0.5 else (high, low)
            preposition = "on" if axis == 0 else "at"
            text = (f"Is the {name} {preposition} the {first} or {preposition} the {second} "
                    "of the picture?")  # fmt: skip
            yield Question(text, low if centre < 0.5 else high, "position")


def _mistakable(cls: str, present: set[str]) -> bool:
    return any(cls in group and group & present for group in _SIMILAR)


def _existence(scene: Scene, sprites: Sprites, rng: Rng) -> Iterator[Question]:
    present = {o.cls for o in scene.objects}
    for cls in sorted(present):
        yield Question(f"Is there {article(_noun(cls, None))} in the picture?", "yes", "existence")
    absent = [c for c in CLASSES if c not in present and not _mistakable(c, present)]
    for _ in present:
        text = f"Is there {article(_noun(_choose(rng, absent), None))} in the picture?"
        yield Question(text, "no", "existence")
    natural = {o.cls for o in scene.objects if o.color is None}
    for cls in sorted(present - natural):
        here = {o.color for o in scene.objects if o.cls == cls}
        yes = rng.random() < 0.5
        color = _choose(rng, [c for c in COLORS if (c in here) == yes])
        text = f"Is there {article(_noun(cls, color))} in the picture?"
        yield Question(text, "yes" if yes else "no", "existence")


_ASK: tuple[Callable[[Scene, Sprites, Rng], Iterator[Question]], ...] = (
    _counts, _colors, _relative, _what, _halves, _existence,
)  # fmt: skip


def questions(scene: Scene, rng: Rng, sprites: Sprites) -> list[Question]:
    """All questions of every kind that have one answer in this scene, in random order.

    Which of yes and no a question is made for is random, half and half. sprites: what the scene
    was composed with; its boxes decide positions.
    """
    asked = [q for ask in _ASK for q in ask(scene, sprites, rng)]
    unique = list(dict.fromkeys(asked))
    return [unique[i] for i in rng.permutation(len(unique))]
