"""A rule for GenEval++'s demands, from the objects that a detector found.

GenEval++ (Ye et al. 2025, arXiv 2508.09987) is judged by a VLM with a checklist: every class, its
number, colour, place in the picture and relative size. This rule asks the same of boxes:

    number    exactly `count` objects of the class (the checklist's number, not "at least")
    colour    all of them
    region    centre of each in that half: left: x < W / 2, above: y < H / 2, ...
    size      each "larger" object's box has more area than each "smaller" one's

Reasons are GenEval's where it has the words. The rule is impasto's own and not comparable with
published GenEval++ scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from impasto.score.base import Found, Score
from impasto.score.verdict import Objects, Thresholds, color_failure
from impasto.spec import Item, Spec

__all__ = ["HALVES", "judge_plus"]

HALVES: dict[str, tuple[int, int]] = {"left": (0, -1), "right": (0, 1), "above": (1, -1),
                                      "below": (1, 1)}  # fmt: skip
"""Region -> axis, and the sign of centre - middle in it."""


def _in_half(one: Found, region: str, size: tuple[int, int]) -> bool:
    """size: (width, height) of the picture."""
    axis, sign = HALVES[region]
    return sign * (one.box[axis] + one.box[axis + 2] - size[axis]) > 0


def _area(one: Found) -> float:
    return (one.box[2] - one.box[0]) * (one.box[3] - one.box[1])


def _failure(item: Item, group: Sequence[Found], size: tuple[int, int],
             color_of: Callable[[Found], str]) -> str:  # fmt: skip
    """Why an item's number, colours or places are wrong; "" when they are right."""
    if len(group) < item.count:
        return f"expected {item.cls}>={item.count}, found {len(group)}"
    if len(group) > item.count:
        return f"expected {item.cls}<{item.count + 1}, found {len(group)}"
    if item.color is not None and (
        failure := color_failure(item, [color_of(one) for one in group])
    ):
        return failure
    if item.region is not None:
        inside = sum(_in_half(one, item.region, size) for one in group)
        if inside < item.count:
            return f"expected {item.cls}>={item.count} {item.region}, found {inside} there"
    return ""


def _size_failures(spec: Spec, groups: Sequence[Sequence[Found]]) -> list[str]:
    pairs = [(a, b) for a, x in enumerate(spec.include) if x.size == "larger"
             for b, y in enumerate(spec.include) if y.size == "smaller"]  # fmt: skip
    return [f"expected {spec.include[a].cls} larger than {spec.include[b].cls}, found smaller"
            for a, b in pairs
            if groups[a] and groups[b]
            and min(map(_area, groups[a])) <= max(map(_area, groups[b]))]  # fmt: skip


def _check(spec: Spec) -> None:
    names = [item.cls for item in spec.include]
    if len(set(names)) < len(names):
        raise ValueError(f"{spec.prompt!r} demands one class twice, which GenEval++'s rule does "
                         f"not judge")  # fmt: skip
    if any(item.position is not None for item in spec.include):
        raise ValueError(f"{spec.prompt!r} demands a relation, which GenEval++'s rule does not "
                         f"judge; use GenEval's")  # fmt: skip


def judge_plus(
    spec: Spec, objects: Objects, color_of: Callable[[Found], str],
    thresholds: Thresholds | None = None, *, size: tuple[int, int],
) -> Score:  # fmt: skip
    """The verdict: value 1.0 or 0.0, and one reason a line.

    objects: what `kept_objects` gives. color_of: one of `COLORS`. size: (width, height) of the
    picture. Raises ValueError for relations and for one class demanded twice.
    """
    _check(spec)
    groups = [objects.get(item.cls, ()) for item in spec.include]
    failures = [_failure(item, group, size, color_of)
                for item, group in zip(spec.include, groups, strict=True)]  # fmt: skip
    reasons = [*filter(None, failures), *_size_failures(spec, groups)]
    details = {cls: [[*one.box, one.score] for one in group] for cls, group in objects.items()}
    return Score(value=float(not reasons), correct=not reasons, reason="\n".join(reasons),
                 details=details)  # fmt: skip
