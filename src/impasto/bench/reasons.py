"""What went wrong, read back from GenEval's reasons.

    expected {class}>={n}, found {k}                                            missing, too few
    expected {color} {class}>={n}, found {k} {color}; and {k1 c1, k2 c2, …}     wrong color
    no target for {class} to be {relation}                                      no target
    expected {class} {relation} target, found {relations} target                wrong relation
    expected {class}<{n}, found {k}                                             too many
    expected {class}>={n} {region}, found {k} there                             wrong place
    expected {class} larger than {class}, found smaller                         wrong size
    changed: {what}                                                             changed

"missing" is none found, "too few" some. Source: Ghosh et al. 2023, `evaluate_images.py`; the last
three are `impasto.score.verdict_plus`'s and `impasto.score.sticker_edits`'s: what had to stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from impasto.spec import COLORS, RELATIONS

__all__ = ["KINDS", "Failure", "read_reason"]

KINDS = ("missing", "too few", "too many", "wrong color", "wrong relation", "no target",
         "wrong place", "wrong size", "changed", "other")  # fmt: skip

_COLOR, _RELATION = "|".join(COLORS), "|".join(RELATIONS)
_PATTERNS = {
    "wrong color": rf"expected (?P<color>{_COLOR}) (?P<cls>.+)>=(?P<n>\d+), "
    rf"found \d+ (?P=color); and (?P<seen>.+)",
    "too few": r"expected (?P<cls>.+)>=(?P<n>\d+), found (?P<k>\d+)",
    "too many": r"expected (?P<cls>.+)<(?P<n>\d+), found (?P<k>\d+)",
    "wrong relation": rf"expected (?P<cls>.+) (?:{_RELATION}) target, found .* ?target",
    "no target": rf"no target for (?P<cls>.+) to be (?:{_RELATION})",
    "wrong place": r"expected (?P<cls>.+)>=(?P<n>\d+) (?:left|right|above|below), "
    r"found \d+ there",
    "wrong size": r"expected (?P<cls>.+) larger than .+, found smaller",
    "changed": r"changed: (?P<cls>.+)",
}


@dataclass(frozen=True)
class Failure:
    """One line of a reason. kind: one of `KINDS`; n: the count asked for, where it is said.

    seen: color -> how many of the objects looked at have it (wrong color only).
    """

    kind: str
    cls: str = ""
    n: int = 0
    color: str | None = None
    seen: Mapping[str, int] = field(default_factory=dict)


def read_reason(line: str) -> Failure:
    """The failure that one line tells; of kind "other" when no GenEval rule writes it so."""
    for kind, pattern in _PATTERNS.items():
        if match := re.fullmatch(pattern, line):
            groups = match.groupdict()
            return Failure(
                kind="missing" if kind == "too few" and groups["k"] == "0" else kind,
                cls=groups["cls"],
                n=int(groups.get("n") or 0),
                color=groups.get("color"),
                seen=_seen(groups.get("seen") or ""),
            )
    return Failure("other")


def _seen(text: str) -> dict[str, int]:
    """The colours of "2 red, 1 blue" as {"red": 2, "blue": 1}."""
    return {color: int(k) for k, color in re.findall(r"(\d+) (\w+)", text)}
