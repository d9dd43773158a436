"""Words for specs: GenEval's templates, paraphrases, and dense captions of scenes.

A caption is true of its spec by construction, whatever the wording; only the wording is random.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from impasto.spec import NUMBER_WORDS, Item, Spec, article, plural
from impasto.world.scenes import Placed, Scene

__all__ = ["STYLES", "caption", "dense_caption", "english_plural", "english_singular", "template"]

STYLES = ("geneval", "paraphrase")

_COUNTED = {
    "single_object": "article", "two_object": "article", "counting": "plural",
    "colors": "article", "position": "article", "color_attr": "article", "region": "article",
    "spatial_count_attr": "plural", "color_spatial_attr": "bare", "color_count_attr": "plural",
    "multi_object_count_attr": "number", "size_spatial_attr": "article",
}  # fmt: skip
"""Tag -> how a template counts: "a cup", "one cups" (always plural), "cup", "one cup"."""

_IRREGULAR = {
    "person": "people", "knife": "knives", "sheep": "sheep", "skis": "pairs of skis",
    "scissors": "pairs of scissors", "bus": "buses", "bench": "benches", "couch": "couches",
    "sandwich": "sandwiches", "toothbrush": "toothbrushes", "broccoli": "broccoli heads",
    "computer mouse": "computer mice", "wine glass": "wine glasses",
}  # fmt: skip
_SINGULAR = {"skis": "pair of skis", "scissors": "pair of scissors", "broccoli": "broccoli head"}
OPENINGS = (
    "a photo of {}", "a picture of {}", "an image of {}", "{}", "an image showing {}",
    "a drawing of {}", "a scene with {}", "a photo showing {}",
)  # fmt: skip
JOINTS = (" and ", " and ", " with ", " together with ", " as well as ")
RELATION_WORDS = {
    "left of": ("{a} left of {b}", "{a} to the left of {b}", "{b} right of {a}",
                "{b} to the right of {a}", "{b} with {a} on its left"),
    "right of": ("{a} right of {b}", "{a} to the right of {b}", "{b} left of {a}",
                 "{b} to the left of {a}", "{b} with {a} on its right"),
    "above": ("{a} above {b}", "{b} below {a}", "{a} over {b}", "{b} underneath {a}",
              "{b} with {a} above it"),
    "below": ("{a} below {b}", "{b} above {a}", "{a} underneath {b}", "{b} over {a}",
              "{b} with {a} below it"),
}  # fmt: skip
REGIONS = {
    "left": ("on the left", "on the left side", "in the left half"),
    "right": ("on the right", "on the right side", "in the right half"),
    "above": ("at the top", "in the upper half", "on the above"),
    "below": ("at the bottom", "in the lower half", "on the below"),
}

Rng = np.random.Generator


def english_singular(word: str) -> str:
    """The noun that goes with "a", "is" and "one": of skis and scissors a person counts pairs."""
    return _SINGULAR.get(word, word)


def english_plural(word: str) -> str:
    """The plural that a person would write, where GenEval's rule gives another."""
    return _IRREGULAR.get(word, plural(word))


def template(tag: str, include: Sequence[Item], opening: str = "a photo of") -> str:
    """The prompt that GenEval's and GenEval++'s templates make of a tag and its demands.

    opening: GenEval++ writes it "A photo of". Raises ValueError for an unknown tag.
    """
    if tag not in _COUNTED:
        raise ValueError(f"no template for tag {tag!r}; allowed: {', '.join(_COUNTED)}")
    phrases = [_templated(item, tag) for item in include]
    if tag == "position" and include[1].position is not None:
        return f"{opening} {phrases[1]} {include[1].position[0]} {phrases[0]}"
    return f"{opening} {_listed(phrases)}"


def _templated(item: Item, tag: str) -> str:
    counted = _COUNTED[tag]
    many = counted == "plural" or (counted == "number" and item.count > 1)
    noun = plural(item.cls) if many else item.cls
    words = " ".join(filter(None, (item.size, item.color, noun)))
    if counted in ("plural", "number"):
        words = f"{NUMBER_WORDS[item.count]} {words}"
    elif counted == "article":
        words = article(words)
    if item.region is None:
        return words
    place = REGIONS[item.region][0] if tag == "region" else f"on the {item.region}"
    return f"{words} {place}"


def _listed(phrases: Sequence[str]) -> str:
    """ "a", "a and b", "a, b, and c"."""
    if len(phrases) <= 2:
        return " and ".join(phrases)
    return f"{', '.join(phrases[:-1])}, and {phrases[-1]}"


def _one_of(rng: Rng, values: tuple[str, ...]) -> str:
    return values[int(rng.integers(len(values)))]


def _count(item: Item, rng: Rng) -> str:
    """ "three", "3", "exactly three"; "a", "one" or "a single" for one."""
    if item.count == 1:
        return _one_of(rng, ("a", "a", "a", "one", "a single"))
    word = NUMBER_WORDS[item.count]
    return _one_of(rng, (word, word, str(item.count), f"exactly {word}"))


def _noun(item: Item, rng: Rng) -> str:
    """The item as a noun phrase: number, size, colour, name, place."""
    name = item.cls
    if item.count > 1:
        name = english_plural(name) if rng.random() < 0.6 else plural(name)
    adjectives = [word for word in (item.size, item.color) if word]
    if item.color and rng.random() < 0.15:
        adjectives[-1] += "-colored"
    words, number = " ".join([*adjectives, name]), _count(item, rng)
    phrase = article(words) if number == "a" else f"{number} {words}"
    if item.region:
        phrase += " " + _one_of(rng, REGIONS[item.region])
    return phrase


def _join(phrases: list[str], rng: Rng) -> str:
    return _one_of(rng, JOINTS).join(phrases) if len(phrases) <= 2 else _listed(phrases)


def _body(spec: Spec, rng: Rng) -> str:
    phrases = [_noun(item, rng) for item in spec.include]
    placed = [i for i, item in enumerate(spec.include) if item.position]
    if not placed:
        order = rng.permutation(len(phrases))
        return _join([phrases[i] for i in order], rng)
    i = placed[0]
    relation, target = spec.include[i].position or ("", 0)
    return _one_of(rng, RELATION_WORDS[relation]).format(a=phrases[i], b=phrases[target])


def caption(spec: Spec, rng: Rng, style: str = "geneval") -> str:
    """A caption that means `spec`.

    style: "geneval" gives the spec's own prompt, "paraphrase" another wording. Raises ValueError
    for another style.
    """
    if style not in STYLES:
        raise ValueError(f"unknown caption style {style!r}; allowed: {', '.join(STYLES)}")
    if style == "geneval":
        return spec.prompt
    return _one_of(rng, OPENINGS).format(_body(spec, rng))


def _where(thing: Placed, size: int) -> str:
    """The third of the canvas that holds the object's centre."""
    row = ("top", "middle", "bottom")[min(int(3 * thing.cy / size), 2)]
    column = ("left", "center", "right")[min(int(3 * thing.cx / size), 2)]
    return "center" if (row, column) == ("middle", "center") else f"{row} {column}"


def dense_caption(scene: Scene, rng: Rng) -> str:
    """Every object of a scene with size, colour and place, and the kind of background."""
    phrases = []
    for i in rng.permutation(len(scene.objects)):
        thing = scene.objects[i]
        size = "large" if thing.size > 60 else "small" if thing.size < 34 else "medium-sized"
        words = " ".join(filter(None, (size, thing.color, thing.cls)))
        phrases.append(f"{article(words)} in the {_where(thing, scene.size)}")
    tone = "light" if sum(scene.background.a) > 1.8 else "dark"
    return f"{_join(phrases, rng)}, on a {tone} {scene.background.kind} background"
