"""GenEval's verdict on one picture, from the objects that a detector found.

    for item in include:    found = objects[item.cls][:item.count], most confident first
        ok = as many as item.count  and  as many of item.color  and
             each in item's relation to every found object of the item that it refers to
    for item in exclude:    ok = fewer than item.count

So outside counting further instances cost nothing, colour and place look at the most confident
`count` only, and counting wants exactly k. Source: Ghosh et al. 2023, `evaluate_images.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from impasto.score.base import Found, Score
from impasto.spec import CLASSES, COLORS, Item, Spec, relations

__all__ = ["Objects", "Thresholds", "check_spec", "color_failure", "judge", "kept_objects",
           "needs_color", "position_failure"]  # fmt: skip

Objects = Mapping[str, Sequence[Found]]


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """GenEval's knobs under its own names.

    threshold: an object counts at a score strictly above it; counting_threshold: the same for
    specs tagged "counting". max_objects: per class. max_overlap: of two boxes of a class whose
    IoU reaches it the less confident goes; 1 turns this off. position_threshold: the share of
    both sizes by which centres must differ before a relation holds.
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position_threshold: float = 0.1

    def score_above(self, tag: str) -> float:
        return self.counting_threshold if tag == "counting" else self.threshold


def _area(box: Sequence[float]) -> float:
    """Pixels of a box whose right and bottom edges are inside (mmdetection 1's "+ 1")."""
    return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    both = _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    either = _area(a) + _area(b) - both
    return both / either if either else 0.0


def _suppressed(found: Sequence[Found], max_overlap: float) -> list[Found]:
    """Greedy non-maximum suppression of objects sorted by score."""
    if max_overlap == 1:
        return list(found)
    kept: list[Found] = []
    for one in found:
        if all(_iou(better.box, one.box) < max_overlap for better in kept):
            kept.append(one)
    return kept


def _class_order(name: str) -> int:
    return CLASSES.index(name) if name in CLASSES else len(CLASSES)


def kept_objects(
    found: Sequence[Found], spec: Spec, thresholds: Thresholds | None = None
) -> dict[str, list[Found]]:
    """The objects that count for `spec`: class -> most confident first; no empty classes.

    Classes stand in GenEval's order, others after them by first appearance.
    """
    rule = thresholds or Thresholds()
    by_class: dict[str, list[Found]] = {}
    for one in found:
        if one.score > rule.score_above(spec.tag):
            by_class.setdefault(one.cls, []).append(one)
    kept: dict[str, list[Found]] = {}
    for cls in sorted(by_class, key=_class_order):
        # Of equal scores the later detection goes first: GenEval reverses an ascending sort.
        ordered = sorted(reversed(by_class[cls]), key=lambda one: -one.score)
        kept[cls] = _suppressed(ordered[: rule.max_objects], rule.max_overlap)
    return kept


def needs_color(spec: Spec, objects: Objects) -> list[Found]:
    """The objects whose colour `judge` will ask for, each once: so callers can batch them.

    Masks do not take part in equality of `Found`, so key the answers by `id`.
    """
    asked: dict[int, Found] = {}
    for item in spec.include:
        group = objects.get(item.cls, ())[: item.count]
        if item.color is not None and len(group) >= item.count:
            asked |= {id(one): one for one in group}
    return list(asked.values())


def check_spec(spec: Spec) -> None:
    """Raises ValueError for demands that the rule would not look at."""
    for i, item in enumerate(spec.include):
        if item.region is not None or item.size is not None:
            raise ValueError(f"{spec.prompt!r} demands a region or a size of {item.cls!r}, which "
                             f"GenEval's rule does not judge; use GenEval++'s")  # fmt: skip
        if item.position is not None and not 0 <= item.position[1] < i:
            raise ValueError(f"{spec.prompt!r}: item {i} refers to item {item.position[1]}; a "
                             f"position refers to an earlier item")  # fmt: skip
    for item in spec.exclude:
        if any((item.color, item.position, item.region, item.size)):
            raise ValueError(f"{spec.prompt!r} excludes {item.cls!r} by more than its number, "
                             f"which GenEval's rule does not judge")  # fmt: skip


def color_failure(item: Item, colors: Sequence[str]) -> str:
    """Why the objects' colours do not do; "" when they do."""
    right = colors.count(item.color or "")
    if right >= item.count:
        return ""
    seen = ", ".join(f"{colors.count(c)} {c}" for c in COLORS if c in colors)
    wanted = f"{item.color} {item.cls}>={item.count}"
    return f"expected {wanted}, found {right} {item.color}; and {seen}"


def position_failure(
    item: Item, group: Sequence[Found], target: Sequence[Found] | None, threshold: float
) -> str:
    """Why the objects do not stand where they should; "" when they do."""
    relation = item.position[0] if item.position else ""
    if target is None:
        return f"no target for {item.cls} to be {relation}"
    for one in group:
        for other in target:
            holds = relations(one.box, other.box, threshold)
            if relation not in holds:
                return (f"expected {item.cls} {relation} target, "
                        f"found {' and '.join(holds)} target")  # fmt: skip
    return ""


def judge(
    spec: Spec,
    objects: Objects,
    color_of: Callable[[Found], str],
    thresholds: Thresholds | None = None,
) -> Score:
    """GenEval's verdict: value 1.0 or 0.0, and one reason a line in GenEval's words.

    objects: what `kept_objects` gives. color_of: one of `COLORS`, asked for `needs_color` only.
    Raises ValueError for demands that GenEval's rule has no verdict on.
    """
    check_spec(spec)
    threshold = (thresholds or Thresholds()).position_threshold
    reasons: list[str] = []
    groups: list[Sequence[Found] | None] = []
    for item in spec.include:
        group = objects.get(item.cls, ())[: item.count]
        failure = ""
        if len(group) < item.count:
            failure = f"expected {item.cls}>={item.count}, found {len(group)}"
        elif item.color is not None:
            failure = color_failure(item, [color_of(one) for one in group])
        if not failure and item.position is not None:
            failure = position_failure(item, group, groups[item.position[1]], threshold)
        reasons += [failure] if failure else []
        groups.append(None if failure else group)
    for item in spec.exclude:
        if (k := len(objects.get(item.cls, ()))) >= item.count:
            reasons.append(f"expected {item.cls}<{item.count}, found {k}")
    details = {cls: [[*one.box, one.score] for one in group] for cls, group in objects.items()}
    return Score(value=float(not reasons), correct=not reasons, reason="\n".join(reasons),
                 details=details)  # fmt: skip
