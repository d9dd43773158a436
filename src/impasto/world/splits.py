"""Which combinations a model may see in training, and what two specs have in common.

A *combination* is what a spec puts together: (object, colour), two objects in one picture, an
object and a count. One in ten is held out by its hash, so a model can be tested on combinations
it never saw. Besides, any set of specs (an evaluation's) can be excluded by *meaning*, whatever
the words: "a cat left of a dog" and "a dog right of a cat" mean the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from impasto.spec import Spec

__all__ = ["Split", "combinations", "held_out", "leaks", "meaning", "normalised"]

CONVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
HELD_OUT = 0.1

Meaning = tuple[object, ...]


def meaning(spec: Spec) -> Meaning:
    """Equal for two specs exactly when they demand the same picture."""
    things = [(i.cls, i.count, i.color or "", i.region or "", i.size or "") for i in spec.include]
    links = []
    for a, item in enumerate(spec.include):
        if item.position is not None:
            relation, b = item.position
            one = (things[a], relation, things[b])
            links.append(min(one, (things[b], CONVERSE[relation], things[a])))
    return (tuple(sorted(things)), tuple(sorted(links)))


def combinations(spec: Spec) -> set[str]:
    """Names of all combinations in a spec: "red apple", "cat + dog", "3 x cup"."""
    found: set[str] = set()
    for item in spec.include:
        if item.color is not None:
            found.add(f"{item.color} {item.cls}")
        if item.count > 1:
            found.add(f"{item.count} x {item.cls}")
    names = sorted({item.cls for item in spec.include})
    found.update(f"{a} + {b}" for i, a in enumerate(names) for b in names[i + 1 :])
    return found


def held_out(spec: Spec) -> bool:
    """Whether the spec has a combination that no training scene may show."""
    return any(
        hashlib.sha256(c.encode()).digest()[0] < 256 * HELD_OUT for c in combinations(spec)
    )


def normalised(text: str) -> str:
    """Lower case, letters and digits only, single spaces: for comparing prompts as texts."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


@dataclass(frozen=True)
class Split:
    """Which specs may be drawn: "train", "seen" or "held-out".

    train: no held-out combination, and none of `excluded` by meaning or by normalised text.
    seen: no held-out combination. held-out: at least one.
    """

    name: str = "train"
    excluded: frozenset[Meaning] = frozenset()
    excluded_texts: frozenset[str] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        if self.name not in ("train", "seen", "held-out"):
            raise ValueError(f"unknown split {self.name!r}; allowed: train, seen, held-out")

    @classmethod
    def without(cls, specs: Iterable[Spec], name: str = "train") -> Split:
        """The split that leaves out every one of `specs`, in any wording."""
        specs = tuple(specs)
        return cls(name, frozenset(map(meaning, specs)),
                   frozenset(normalised(s.prompt) for s in specs))  # fmt: skip

    def __contains__(self, spec: Spec) -> bool:
        if meaning(spec) in self.excluded or normalised(spec.prompt) in self.excluded_texts:
            return False
        return held_out(spec) == (self.name == "held-out")


def leaks(texts: Iterable[str], specs: Iterable[Spec], evaluation: Iterable[Spec]) -> list[str]:
    """Training texts or specs that an evaluation also has: by normalised text or by meaning."""
    evaluation = tuple(evaluation)
    bad_texts = {normalised(s.prompt) for s in evaluation}
    bad = {meaning(s) for s in evaluation}
    found = [t for t in texts if normalised(t) in bad_texts]
    return found + [s.prompt for s in specs if meaning(s) in bad]
