"""What a trainer maximises: GenEval's verdict, a stricter one, and a score between them.

Of n objects demanded and k found (all that are above the threshold, not the best n only):

    accuracy   GenEval's verdict, `impasto.score.verdict.judge`
    strict     1 when every item of include has k = n, all n of its colour, all of them where they
               should be; exclude is not looked at
    score      mean over include of these terms
                   number        1 - |n - k| / n
                   k != n        0               once, when a colour or a place is demanded as well
                   colour        1 - |n - c| / n     c of the n have it
                   place         1 or 0          looked at when the colours are all right

A further object costs 1 / n, so a score can be negative: with n = 1 and k = 3 the number is -1.

The published reward adds a 1 for every place that is looked at, also after the 0 of a failed one:
a cat beside its dog on the wrong side has terms 1, 1, 0, 1 and so 0.75, where here it is 1, 1, 0
and 0.67. `as_published` counts as published.

This is a reward and no benchmark: in training the score pays for pictures that GenEval calls
wrong. Source: Liu et al. 2025 (Flow-GRPO), `reward-server`, commit 7131478.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from impasto.score.base import Found
from impasto.score.verdict import (
    Objects,
    Thresholds,
    check_spec,
    color_failure,
    judge,
    position_failure,
)
from impasto.spec import CLASSES, COLORS, RELATIONS, Item, Spec
from impasto.zoo.registry import nearest

__all__ = ["Reward", "check_reward_spec", "reward"]

ColorOf = Callable[[Found], str]


@dataclass(frozen=True, kw_only=True)
class Reward:
    """The three rewards of one picture. accuracy, strict_accuracy: 1.0 or 0.0; score: at most 1.

    reason: why the strict one is 0, one failure a line.
    """

    accuracy: float
    strict_accuracy: float
    score: float
    reason: str = ""


def check_reward_spec(spec: Spec) -> None:
    """Raises ValueError for a spec whose reward is not defined, or that no picture can meet."""
    check_spec(spec)
    if not spec.include:
        raise ValueError(f"{spec.prompt!r} includes nothing; a reward needs at least one object")
    for item in (*spec.include, *spec.exclude):
        if item.count < 1:
            raise ValueError(f"{spec.prompt!r} speaks of {item.count} {item.cls!r}; a count is a "
                             f"whole number from 1 on")  # fmt: skip
        relation = item.position[0] if item.position else None
        for what, given, allowed in (("class", item.cls, CLASSES), ("colour", item.color, COLORS),
                                     ("relation", relation, RELATIONS)):  # fmt: skip
            if given is not None and given not in allowed:
                raise ValueError(f"{spec.prompt!r}: GenEval has no {what} {given!r}: "
                                 f"{nearest(given, list(allowed))}")  # fmt: skip


def _closeness(wanted: int, there: int) -> float:
    return 1 - abs(wanted - there) / wanted


def _item(
    item: Item, group: Sequence[Found], target: Sequence[Found] | None, color_of: ColorOf, *,
    threshold: float, as_published: bool,
) -> tuple[list[float], str]:  # fmt: skip
    """The terms of one item, and why it fails strictly ("" when it does not)."""
    n = item.count
    terms = [_closeness(n, len(group))]
    if len(group) != n:
        more = item.color is not None or item.position is not None
        return terms + [0.0] * more, f"expected {item.cls}=={n}, found {len(group)}"
    if item.color is not None:
        colors = [color_of(one) for one in group]
        terms.append(_closeness(n, colors.count(item.color)))
        if failure := color_failure(item, colors):
            return terms, failure
    if item.position is None:
        return terms, ""
    failure = position_failure(item, group, target, threshold)
    again = [1.0] if failure and target is not None and as_published else []
    return [*terms, float(not failure), *again], failure


def reward(
    spec: Spec,
    objects: Objects,
    color_of: ColorOf,
    thresholds: Thresholds | None = None,
    *,
    as_published: bool = False,
) -> Reward:
    """The rewards of a picture in which `objects` were found (what `kept_objects` gives).

    color_of: one of `COLORS`, asked for `needs_color` only. as_published: a failed place adds a 1
    beside its 0. Raises ValueError for a spec whose reward is not defined.
    """
    check_reward_spec(spec)
    threshold = (thresholds or Thresholds()).position_threshold
    terms: list[float] = []
    reasons: list[str] = []
    groups: list[Sequence[Found] | None] = []
    for item in spec.include:
        group = objects.get(item.cls, ())
        target = groups[item.position[1]] if item.position is not None else None
        more, failure = _item(item, group, target, color_of, threshold=threshold,
                              as_published=as_published)  # fmt: skip
        terms += more
        reasons += [failure] if failure else []
        groups.append(None if failure else group)
    verdict = judge(spec, objects, color_of, thresholds)
    return Reward(accuracy=verdict.value, strict_accuracy=float(not reasons),
                  score=sum(terms) / len(terms), reason="\n".join(reasons))  # fmt: skip
