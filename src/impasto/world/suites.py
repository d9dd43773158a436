"""Numbered edits, compositions and questions: what a key such as "recolour-0-0003" means.

    KIND-SEED-NUMBER      the same item on every machine, without a file
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
from torch import Tensor

from impasto.world.edits import KINDS as EDITS
from impasto.world.edits import Edit, edit
from impasto.world.questions import KINDS as QUESTIONS
from impasto.world.questions import Question, questions
from impasto.world.references import Composition, compose_references
from impasto.world.render import Renderer
from impasto.world.scenes import Scene, compose
from impasto.world.sprites import Sprites
from impasto.world.tasks import sample_spec

__all__ = ["EDITS", "QUESTIONS", "REFERENCES", "composition_of", "drawn", "edit_of", "key_of",
           "question_of", "sprites"]  # fmt: skip

REFERENCES = {"two-references": 2, "three-references": 3, "four-references": 4}
ATTEMPTS = 200
KEPT = 4096
"""Items that are kept in memory: scenes as data, not pictures."""

Rng = np.random.Generator
T = TypeVar("T")


@lru_cache(maxsize=1)
def sprites() -> Sprites:
    """The drawings of the world's own style, loaded once."""
    return Sprites.load()


@lru_cache(maxsize=1)
def _renderer() -> Renderer:
    return Renderer(sprites())


def key_of(kind: str, seed: int, number: int) -> str:
    """The key of item `number` of a kind."""
    return f"{kind}-{seed}-{number:04d}"


def _parsed(key: str, kinds: tuple[str, ...]) -> tuple[str, Rng]:
    """The kind, and the item's own random state. Raises ValueError for what is no key."""
    match = re.fullmatch(r"(.+)-(\d+)-(\d+)", key)
    if match is None or match[1] not in kinds:
        raise ValueError(f"{key!r} is no key KIND-SEED-NUMBER with a kind out of "
                         f"{', '.join(kinds)}")  # fmt: skip
    return match[1], np.random.default_rng([int(match[2]), kinds.index(match[1]), int(match[3])])


def _scene(rng: Rng) -> Scene:
    return compose(sample_spec(rng, sprites().classes), rng, sprites())


def _first(make: Callable[[], T | None], key: str) -> T:
    """The first that can be made: a scene may lack what a kind needs, or the room for it."""
    for _ in range(ATTEMPTS):
        try:
            found = make()
        except ValueError:
            continue
        if found is not None:
            return found
    raise ValueError(f"no scene for {key!r} in {ATTEMPTS} attempts")


@lru_cache(maxsize=KEPT)
def edit_of(key: str) -> Edit:
    """The edit that the key names; kinds are `EDITS`. Raises ValueError for another key."""
    kind, rng = _parsed(key, EDITS)
    return _first(lambda: edit(_scene(rng), rng, kind, sprites()), key)


@lru_cache(maxsize=KEPT)
def composition_of(key: str) -> Composition:
    """The composition that the key names; kinds are `REFERENCES`."""
    kind, rng = _parsed(key, tuple(REFERENCES))
    count = REFERENCES[kind]
    return _first(lambda: compose_references([_scene(rng) for _ in range(count)], rng, sprites()),
                  key)  # fmt: skip


@lru_cache(maxsize=KEPT)
def question_of(key: str) -> tuple[Scene, Question]:
    """A scene and the question that the key names; kinds are `QUESTIONS`."""
    kind, rng = _parsed(key, QUESTIONS)

    def make() -> tuple[Scene, Question] | None:
        scene = _scene(rng)
        asked = [q for q in questions(scene, rng, sprites()) if q.kind == kind]
        return (scene, asked[0]) if asked else None

    return _first(make, key)


def drawn(scene: Scene, objects: bool = True) -> Tensor:
    """The scene's picture (3, H, W), or its background alone."""
    shown = scene if objects else replace(scene, objects=())
    return _renderer()([shown]).images[0]
