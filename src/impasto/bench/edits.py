"""Edited pictures judged by a VLM: GEdit-Bench (Step1X-Edit 2025) and ImgEdit-Bench (Ye et al.).

GEdit, by VIEScore (Ku et al. 2024, arXiv 2312.14867):

    SC = min of its scores     PQ = min of its scores     O = sqrt(SC * PQ)          0 to 10
    group = mean of O over its pictures;      bench = plain mean over the 11 groups

ImgEdit:

    picture = mean of the scores of all lines "name: integer", 2 decimals            1 to 5
    type = mean over its pictures;    over pictures = mean of all;    over types = mean of types

Both ways of ImgEdit are in use (BAGEL's script, papers) and both are given, named. The released
GEdit code guesses a random number where it cannot read an answer: here it is counted as missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from impasto.bench.judged import answered, interval
from impasto.score.statistics import Interval, Outcome, bootstrap

__all__ = ["GEDIT_GROUPS", "IMGEDIT_TYPES", "GEditAnswer", "gedit_summary", "imgedit_score",
           "imgedit_summary", "vie_score"]  # fmt: skip

GEDIT_GROUPS = ("background_change", "color_alter", "material_alter", "motion_change", "ps_human",
                "style_change", "subject-add", "subject-remove", "subject-replace", "text_change",
                "tone_transfer")  # fmt: skip
IMGEDIT_TYPES = ("extract", "style", "add", "adjust", "background", "replace", "remove", "action",
                 "compose")  # fmt: skip


@dataclass(frozen=True)
class GEditAnswer:
    """One edit. sc, pq: what `judges.parse.vie` read, None where it could not.

    intersection: whether both languages have this item (the file's Intersection_exist).
    """

    group: str
    sc: tuple[float, ...] | None
    pq: tuple[float, ...] | None
    intersection: bool = True


def vie_score(sc: Sequence[float], pq: Sequence[float]) -> float:
    """sqrt(min(sc) * min(pq)), in [0, 10]."""
    return math.sqrt(min(sc) * min(pq))


def _known(groups: Mapping[str, str], allowed: Sequence[str]) -> None:
    if unknown := sorted(set(groups.values()) - set(allowed)):
        raise ValueError(f"unknown group(s) {unknown}; allowed: {', '.join(allowed)}")


def _over_groups(values: Mapping[str, float], groups: Mapping[str, str],
                 bounds: tuple[float, float]) -> tuple[Interval, dict[str, Any]]:  # fmt: skip
    """The plain mean over the groups that are there, and each group's own."""
    rows = [Outcome(groups[key], key, 0, value) for key, value in values.items()]
    found = bootstrap(rows, bounds=bounds)
    return found.overall, {name: interval(found.tasks[name]) for name in sorted(found.tasks)}


def _gedit(answers: Mapping[str, GEditAnswer], allow_incomplete: bool) -> dict[str, Any]:
    judged = {key: vie_score(one.sc, one.pq) if one.sc and one.pq else None
              for key, one in answers.items()}  # fmt: skip
    values, coverage = answered(judged, len(answers), allow_incomplete)
    names = {key: one.group for key, one in answers.items()}
    overall, groups = _over_groups(values, names, (0.0, 10.0))
    means = {
        part: _over_groups({k: min(getattr(answers[k], part)) for k in values}, names,
                           (0.0, 10.0))[0]
        for part in ("sc", "pq")
    }  # fmt: skip
    return {"coverage": coverage, "overall": interval(overall), "groups": groups,
            "groups_of_11": len(groups),
            **{part: interval(mean) for part, mean in means.items()}}  # fmt: skip


def gedit_summary(answers: Mapping[str, GEditAnswer], allow_incomplete: bool = False
                  ) -> dict[str, Any]:  # fmt: skip
    """ "full" and "intersection": overall, sc, pq, groups with intervals, and the coverage.

    answers: key -> answer, of one language. Raises IncompleteError for unreadable answers unless
    `allow_incomplete`, ValueError for another group.
    """
    _known({key: one.group for key, one in answers.items()}, GEDIT_GROUPS)
    shared = {key: one for key, one in answers.items() if one.intersection}
    return {"full": _gedit(answers, allow_incomplete),
            "intersection": _gedit(shared, allow_incomplete) if shared else None}  # fmt: skip


def imgedit_score(scores: Sequence[int]) -> float:
    """Mean of a picture's scores, to 2 decimals. Raises ValueError for none or beyond 1 to 5."""
    if not scores or not all(1 <= one <= 5 for one in scores):
        raise ValueError(f"{list(scores)} must be scores from 1 to 5, at least one")
    return round(sum(scores) / len(scores), 2)


def imgedit_summary(
    judged: Mapping[str, Sequence[int] | None], types: Mapping[str, str],
    allow_incomplete: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """over_pictures, over_types and types, with intervals, and the coverage.

    judged: key -> what `judges.parse.lines` read, None where it could not. types: key -> edit
    type, of the whole bench. A picture with a score beyond 1 to 5 counts as unreadable. Raises
    IncompleteError for unreadable or missing ones unless `allow_incomplete`.
    """
    _known(types, IMGEDIT_TYPES)
    good = {key: imgedit_score(scores) if scores and all(1 <= s <= 5 for s in scores) else None
            for key, scores in judged.items()}  # fmt: skip
    values, coverage = answered(good, len(types), allow_incomplete)
    over_types, by_type = _over_groups(values, types, (1.0, 5.0))
    pooled, _ = _over_groups(values, dict.fromkeys(values, "all"), (1.0, 5.0))
    return {"coverage": coverage, "over_pictures": interval(pooled),
            "over_types": interval(over_types), "types": by_type}  # fmt: skip
