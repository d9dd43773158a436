"""Edited pictures judged by a VLM: GEdit-Bench (Step1X-Edit 2025) and ImgEdit-Bench (Ye et al.).

Pictures are marked by `impasto.score.edits` and `impasto.score.imgedit`. GEdit:

    group = mean of O over its pictures;      bench = plain mean over the 11 groups

ImgEdit:

    basic   type = mean over its pictures;  over pictures = all's mean;  over types = types' mean
    uge     mean over pictures, of one mark each

The sets are two benches, `imgedit` and `imgedit:set=uge`. Both ways of the basic one are in use
(BAGEL's script, papers) and both are given, named. The released GEdit code guesses a random number
where it cannot read an answer: here it is counted as missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from impasto.bench.base import Bench
from impasto.bench.judged import answered, interval
from impasto.bench.numbers import number_summary
from impasto.bench.results import Record
from impasto.score.edits import GEDIT_GROUPS, EditItem, read_gedit, vie_score
from impasto.score.imgedit import CRITERIA, imgedit_score, read_imgedit
from impasto.score.statistics import Interval, Outcome, bootstrap
from impasto.spec import Spec
from impasto.zoo.registry import BENCHES

__all__ = ["GEditAnswer", "gedit", "gedit_bench", "gedit_summary", "imgedit", "imgedit_bench",
           "imgedit_summary"]  # fmt: skip

UGE_ITEMS = 47
"""Items of the published file."""


@dataclass(frozen=True)
class GEditAnswer:
    """One edit. sc, pq: what `judges.parse.vie` read, None where it could not.

    intersection: whether both languages have this item (the file's Intersection_exist).
    """

    group: str
    sc: tuple[float, ...] | None
    pq: tuple[float, ...] | None
    intersection: bool = True


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


def imgedit_summary(
    judged: Mapping[str, Sequence[float] | None], types: Mapping[str, str],
    allow_incomplete: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """over_pictures, over_types and types, with intervals, and the coverage.

    judged: key -> what `judges.parse.lines` read, None where it could not. types: key -> edit
    type, of the whole bench. A picture with a score beyond 1 to 5 counts as unreadable. Raises
    IncompleteError for unreadable or missing ones unless `allow_incomplete`.
    """
    _known(types, tuple(CRITERIA))
    good = {key: imgedit_score(scores) if scores and all(1 <= s <= 5 for s in scores) else None
            for key, scores in judged.items()}  # fmt: skip
    values, coverage = answered(good, len(types), allow_incomplete)
    over_types, by_type = _over_groups(values, types, (1.0, 5.0))
    pooled, _ = _over_groups(values, dict.fromkeys(values, "all"), (1.0, 5.0))
    return {"coverage": coverage, "over_pictures": interval(pooled),
            "over_types": interval(over_types), "types": by_type}  # fmt: skip


def _part(record: Record, part: str) -> tuple[float, ...] | None:
    """The marks "sc.1", "sc.2", … of a record, in order; None where they could not be read."""
    if record.number is None:
        return None
    found = [v for k, v in record.scores.items() if k.startswith(part)]
    if not found:
        raise ValueError(f"{record.filename} holds no marks of this bench; it needs the scorer of "
                         f"the same name")  # fmt: skip
    return tuple(found)


def _gedit_rule(records: Sequence[Record], items: Mapping[str, EditItem]) -> dict[str, Any]:
    answers = {}
    for record in records:
        item = items[record.spec.key]
        answers[item.key] = GEditAnswer(item.group, _part(record, "sc."), _part(record, "pq."),
                                        item.shared)  # fmt: skip
    found = gedit_summary(answers, allow_incomplete=True)
    overall = found["full"]["overall"]
    label = f"O, mean of {found['full']['groups_of_11']} of 11 groups"
    return number_summary(records, (0.0, 10.0), label, overall) | {"gedit": found}


def _imgedit_rule(records: Sequence[Record]) -> dict[str, Any]:
    types = {r.spec.key: r.tag for r in records}
    found = imgedit_summary({r.spec.key: _part(r, "") for r in records}, types, True)
    label = f"mean over {len(found['types'])} of 9 types"
    return number_summary(records, (1.0, 5.0), label, found["over_types"]) | {"imgedit": found}


def _uge_rule(records: Sequence[Record]) -> dict[str, Any]:
    marks = [_part(record, "uge") for record in records]
    label = f"UGE, mean of {len(marks) - marks.count(None)} of {UGE_ITEMS} pictures' one mark"
    return number_summary(records, (1.0, 5.0), label)


def _bench(name: str, items: Sequence[EditItem], **fields: Any) -> Bench:
    of = {item.key: item for item in items}

    def sources(spec: Spec) -> tuple[Tensor, ...]:
        return (of[spec.key].source(),)

    specs = tuple(Spec(tag=i.group, include=(), prompt=i.instruction, key=i.key) for i in items)
    return Bench(name=name, specs=specs, samples_per_prompt=1, scorer="", second="",
                 verdicts=False, sources=sources, **fields)  # fmt: skip


def gedit_bench(items: Sequence[EditItem], name: str = "gedit") -> Bench:
    """The bench of these items, of one language; judged by scorer gedit."""
    languages = {item.key.split("/")[1] for item in items}
    others = "|".join(sorted({"en", "cn"} - languages)) or "no other"
    return _bench(name, items, foreign=rf"_SRCIMG\.\w+$|(^|/)({others})/",
                  rule=partial(_gedit_rule, items={item.key: item for item in items}))


def imgedit_bench(items: Sequence[EditItem], which: str = "basic") -> Bench:
    """The bench of these items of a set, basic or uge; judged by scorer imgedit."""
    if which == "uge":
        return _bench("imgedit:set=uge", items, rule=_uge_rule)
    return _bench("imgedit", items, rule=_imgedit_rule)


@BENCHES.register("gedit")
def gedit(path: str = "", language: str = "en") -> Bench:
    """GEdit-Bench's edits (--images only): path=FILE, FOLDER or hub id; judged by scorer gedit.

    language: en or cn. Raises ValueError without a path or for data of another shape.
    """
    return gedit_bench(read_gedit(path, language), f"gedit:language={language}")


@BENCHES.register("imgedit")
def imgedit(path: str = "", images: str = "", set: str = "basic") -> Bench:
    """ImgEdit-Bench's edits (--images only): path=FILE; judged by scorer imgedit of the same set.

    images: folder of the sources; default the file's. set: basic or uge, never one score. Raises
    ValueError without a path, for a file of another shape or set, or for multi-turn (by hand).
    """
    return imgedit_bench(read_imgedit(path, images, set), set)
