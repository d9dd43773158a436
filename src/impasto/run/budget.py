"""Runs at the same number of pictures, and at the same FLOPs, from their samples' own records.

    best of the first k:   c_k = argmax_{i < k} r_i            the lowest i among equals
    FLOPs at k:            k / n of what the n candidates cost
    any of k right:        1 - C(K - c, k) / C(K, k)           K pictures of a prompt, c right

A run keeps the candidate that it chose, so the verdict of c_k is known where c_k is that one, or
where another of the runs compared has judged the same picture (same model, sampling, prompt and
seed): candidate 0 is the base's. Where some stay unknown the score is given as the range from all
of them wrong to all of them right. Without a reward there is nothing to choose by: more pictures
leave the expected score of one where it is, and only a perfect chooser could gain, whose score
is the last line (the unbiased estimate of Chen et al., arXiv 2107.03374, 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from typing import Any

from impasto.bench import Record, read_results
from impasto.files import json_text
from impasto.run.directory import RunDirectory, read_json
from impasto.score.statistics import Interval, Outcome, bootstrap

__all__ = ["Budgets", "Entry", "budgets"]

INDEPENDENT = ("best-of-n", "BestOfN")
"""Beginnings of names of searches that draw each candidate by itself and choose at the end: the
first k of n are what the search at k would have drawn, at k / n of the cost."""
Picture = tuple[str, str, int]
"""What decides a picture: the settings that draw it, its prompt's metadata, its own seed."""


@dataclass(frozen=True)
class Entry:
    """A run's score at a budget.

    pictures: drawn for each one kept. flops: for each one kept; None where it is not known.
    score: with its interval; None where some verdicts are unknown, then `between` holds the lowest
    and the highest that it can be, or where there is nothing at this budget. perfect: the score of
    a perfect chooser among so many pictures, without a search. note: what is lacking, by name.
    """

    pictures: int | None = None
    flops: float | None = None
    score: Interval | None = None
    between: tuple[float, float] | None = None
    perfect: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Budgets:
    """equal_samples: pictures per picture kept -> per run its entry; equal_flops: FLOPs -> it."""

    equal_samples: Mapping[int, tuple[Entry, ...]]
    equal_flops: Mapping[float, tuple[Entry, ...]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: two lists of {"pictures" or "flops", "runs"}."""
        return {
            "equal_samples": [{"pictures": k, "runs": [asdict(entry) for entry in row]}
                              for k, row in self.equal_samples.items()],
            "equal_flops": [{"flops": flops, "runs": [asdict(entry) for entry in row]}
                            for flops, row in self.equal_flops.items()],
        }  # fmt: skip


@dataclass(frozen=True)
class _Run:
    """name: for messages. settings: what decides a picture beside its prompt and seed.

    drawn: a record of each sample, in the order of `records`; () for pictures drawn elsewhere.
    """

    name: str
    settings: str
    search: Mapping[str, Any] | None
    records: Sequence[Record]
    drawn: Sequence[Mapping[str, Any]]

    @property
    def width(self) -> int:
        return max((len(one["candidates"]) for one in self.drawn), default=1)

    @property
    def chooses(self) -> bool:
        """Whether its candidates were drawn each by itself and compared by a reward."""
        independent = self.search is not None and self.search["name"].startswith(INDEPENDENT)
        candidates = (candidate for one in self.drawn for candidate in one["candidates"])
        return independent and all(candidate["value"] is not None for candidate in candidates)

    @property
    def flops(self) -> float | None:
        """Per candidate."""
        if not self.drawn:
            return None
        return sum(float(one["flops"]) for one in self.drawn) / sum(
            len(one["candidates"]) for one in self.drawn)  # fmt: skip


def budgets(paths: Sequence[str | Path]) -> Budgets:
    """Both tables of finished runs of the same prompts, as `impasto.run.compare` accepts them.

    Budgets are those of the runs themselves and, of pictures, the powers of two below them.
    """
    runs = [_read(RunDirectory.judged(path)) for path in paths]
    known = _known(runs)
    widest = max(run.width for run in runs)
    counts = sorted({2**i for i in range(widest.bit_length())} | {run.width for run in runs})
    spent = sorted({run.width * run.flops for run in runs if run.flops})
    return Budgets(
        {k: tuple(_at(run, k, known) for run in runs) for k in counts},
        {flops: tuple(_for(run, flops, known) for run in runs) for flops in spent},
    )


def _read(folder: RunDirectory) -> _Run:
    record, records = folder.record, read_results(folder.results)
    search = record["search"]
    drawn = [] if search is None else [
        read_json((folder.path / r.filename).with_suffix(".json")) for r in records
    ]  # fmt: skip
    name = record["model"]["name"] if search is None or search["name"] == "none" else (
        f"{record['model']['name']} with {search['name']}")  # fmt: skip
    settings = json_text({key: record[key] for key in ("model", "sampling")})
    return _Run(name, settings, search, records, drawn)


def _known(runs: Iterable[_Run]) -> dict[Picture, bool]:
    """The verdict on every picture that some run has kept."""
    return {
        (run.settings, record.metadata, one["seed"]): record.correct
        for run in runs
        for record, one in zip(run.records, run.drawn, strict=bool(run.drawn))
    }


def _for(run: _Run, flops: float, known: Mapping[Picture, bool]) -> Entry:
    """The run with as many pictures as these FLOPs draw."""
    if run.flops is None:
        return Entry(note=f"{run.name}: its pictures were drawn elsewhere, their FLOPs are not "
                          f"known")  # fmt: skip
    if run.flops == 0:
        return Entry(note=f"{run.name}: its model counts no FLOPs")
    k = int(flops / run.flops * (1 + 1e-9))
    if k < 1:
        return Entry(note=f"{run.name}: one picture costs {run.flops:.3g} FLOPs, more than this")
    return _at(run, min(k, run.width) if run.chooses else k, known)


def _at(run: _Run, k: int, known: Mapping[Picture, bool]) -> Entry:
    """The run with k pictures for each that is kept."""
    flops = None if run.flops is None else k * run.flops
    if k == run.width:
        return Entry(k, flops, _score(run.records, [r.correct for r in run.records]))
    if run.width == 1:
        return _unsearched(run, k, flops)
    if not run.chooses:
        return Entry(k, flops, note=f"{run.name}: its candidates are not independent draws with "
                                    f"rewards: what it chooses among {k} is not known")
    if k > run.width:
        return Entry(k, flops, note=f"{run.name}: it drew {run.width} pictures for each kept, "
                                    f"not {k}")  # fmt: skip
    return _first(run, k, flops, known)


def _unsearched(run: _Run, k: int, flops: float | None) -> Entry:
    perfect = _any_of(run.records, k)
    note = "" if perfect is not None else (
        f"{run.name}: a perfect chooser among {k} needs {k} pictures of each prompt; draw them "
        f"by --samples {k}")  # fmt: skip
    return Entry(k, flops, _score(run.records, [r.correct for r in run.records]), None, perfect,
                 note)  # fmt: skip


def _first(run: _Run, k: int, flops: float | None, known: Mapping[Picture, bool]) -> Entry:
    """The best of the first k candidates by the recorded rewards."""
    verdicts: list[bool | None] = []
    for record, one in zip(run.records, run.drawn, strict=True):
        values = [c["value"] for c in one["candidates"][:k]]
        seed = one["candidates"][values.index(max(values))]["seed"]
        verdicts.append(known.get((run.settings, record.metadata, seed)))
    lacking = verdicts.count(None)
    if not lacking:
        return Entry(k, flops, _score(run.records, [bool(v) for v in verdicts]))
    ends = [_score(run.records, [v is True or (v is None and end) for v in verdicts]).value
            for end in (False, True)]  # fmt: skip
    return Entry(k, flops, between=(ends[0], ends[1]),
                 note=f"{run.name}, best of the first {k}: {lacking} of {len(verdicts)} pictures "
                      f"that it would have chosen were not kept; compare with a run of that "
                      f"search at {k} for the score itself")  # fmt: skip


def _score(records: Sequence[Record], verdicts: Sequence[bool]) -> Interval:
    return bootstrap([Outcome(r.tag, r.metadata, r.sample, float(correct))
                      for r, correct in zip(records, verdicts, strict=True)]).overall  # fmt: skip


def _any_of(records: Sequence[Record], k: int) -> float | None:
    """Mean over tasks of the chance that any of k of a prompt's pictures is right; None when a
    prompt has fewer."""
    tasks: dict[str, dict[str, list[bool]]] = {}
    for record in records:
        tasks.setdefault(record.tag, {}).setdefault(record.metadata, []).append(record.correct)
    shares: list[float] = []
    for prompts in tasks.values():
        if any(len(v) < k for v in prompts.values()):
            return None
        chances = [1 - comb(len(v) - sum(v), k) / comb(len(v), k) for v in prompts.values()]
        shares.append(sum(chances) / len(chances))
    return sum(shares) / len(shares)
