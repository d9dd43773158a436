"""Runs at the same number of pictures, and at the same FLOPs, from their samples' own records.

    best of the first k:   c_k = argmax_{i < k} r_i            the lowest i among equals
    FLOPs at k:            k / n of what the n candidates cost
    best of any k:         sum_j v_j C(j - 1, k - 1) / C(K, k) K pictures of a prompt, v_1 <= v_2 …

v is a picture's value, as the bench is scored: 1 or 0 for a verdict (then the last line is the
chance that any of k is right), Soft-TIFA's GM on a bench of answers.

A run keeps the candidate that it chose, so the value of c_k is known where c_k is that one, or
where another of the runs compared has judged the same picture (same model, sampling, text and
seed): candidate 0 is the base's. Where some stay unknown the score is given as the range from all
of them 0 to all of them 1. Without a reward there is nothing to choose by: more pictures
leave the expected score of one where it is, and only a perfect chooser could gain, whose score
is the last line (the unbiased estimate of Chen et al., arXiv 2107.03374, 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from typing import Any

from impasto.bench import read_results
from impasto.files import json_text
from impasto.run.directory import RunDirectory, read_json
from impasto.run.values import estimated, score_values
from impasto.score.statistics import Interval, Outcome

__all__ = ["Budgets", "Entry", "budgets"]

Picture = tuple[str, str, int]
"""What decides a picture: the settings that draw it, its prompt's metadata, its own seed."""


@dataclass(frozen=True)
class Entry:
    """A run's score at a budget.

    pictures: drawn for each one kept. flops: for each one kept; None where it is not known.
    score: with its interval; None where some values are unknown, then `between` holds the lowest
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

    values: of the pictures kept. drawn: a record of each, in the same order; () for pictures drawn
    elsewhere. counted: whether the model's FLOPs are known.
    """

    name: str
    settings: str
    search: Mapping[str, Any] | None
    values: Sequence[Outcome]
    drawn: Sequence[Mapping[str, Any]]
    counted: bool

    @property
    def width(self) -> int:
        return max((len(one["candidates"]) for one in self.drawn), default=1)

    @property
    def chooses(self) -> bool:
        """Whether its candidates were drawn each by itself and compared by a reward."""
        independent = self.search is not None and self.search.get("independent", False)
        candidates = (candidate for one in self.drawn for candidate in one["candidates"])
        return independent and all(candidate["value"] is not None for candidate in candidates)

    @property
    def flops(self) -> float | None:
        """Per candidate; None where they are not known."""
        if not self.drawn or not self.counted:
            return None
        return sum(float(one["flops"]) for one in self.drawn) / sum(
            len(one["candidates"]) for one in self.drawn)  # fmt: skip


def budgets(paths: Sequence[str | Path]) -> Budgets:
    """Both tables of finished runs of the same prompts, as `impasto.run.compare` accepts them.

    Empty where no run drew its pictures. Budgets are those of the runs themselves and, of
    pictures, the powers of two below them.
    """
    runs = [_read(RunDirectory.judged(path)) for path in paths]
    if not any(run.drawn for run in runs):
        return Budgets({}, {})
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
    if record["rewriter"] is not None:
        name += f", rewritten by {record['rewriter']['file']}"
    settings = json_text({key: record[key] for key in ("model", "sampling", "rewriter")})
    counted = record["model"].get("flops_known", True)
    return _Run(name, settings, search, score_values(folder), drawn, counted)


def _known(runs: Iterable[_Run]) -> dict[Picture, float]:
    """The value of every picture that some run has kept."""
    return {
        (run.settings, kept.prompt, one["seed"]): kept.value
        for run in runs
        for kept, one in zip(run.values, run.drawn, strict=bool(run.drawn))
    }


def _for(run: _Run, flops: float, known: Mapping[Picture, float]) -> Entry:
    """The run with as many pictures as these FLOPs draw."""
    if run.flops is None:
        where = "elsewhere" if not run.drawn else "by a server"
        return Entry(note=f"{run.name}: its pictures were drawn {where}, their FLOPs are not "
                          f"known")  # fmt: skip
    if run.flops == 0:
        return Entry(note=f"{run.name}: its model counts no FLOPs")
    k = int(flops / run.flops * (1 + 1e-9))
    if k < 1:
        return Entry(note=f"{run.name}: one picture costs {run.flops:.3g} FLOPs, more than "
                          f"there are")  # fmt: skip
    return _at(run, min(k, run.width) if run.chooses else k, known)


def _at(run: _Run, k: int, known: Mapping[Picture, float]) -> Entry:
    """The run with k pictures for each that is kept."""
    flops = None if run.flops is None else k * run.flops
    if k == run.width:
        return Entry(k, flops, estimated(run.values).overall)
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
    perfect = _best_of_any(run.values, k)
    note = "" if perfect is not None else (
        f"{run.name}: a perfect chooser among {k} needs {k} pictures of each prompt; draw them "
        f"by --samples {k}")  # fmt: skip
    return Entry(k, flops, estimated(run.values).overall, None, perfect, note)


def _first(run: _Run, k: int, flops: float | None, known: Mapping[Picture, float]) -> Entry:
    """The best of the first k candidates by the recorded rewards."""
    found: list[float | None] = []
    for kept, one in zip(run.values, run.drawn, strict=True):
        rewards = [c["value"] for c in one["candidates"][:k]]
        seed = one["candidates"][rewards.index(max(rewards))]["seed"]
        found.append(known.get((run.settings, kept.prompt, seed)))
    low, high = (_with(run.values, found, unknown) for unknown in (0.0, 1.0))
    lacking = found.count(None)
    if not lacking:
        return Entry(k, flops, low)
    return Entry(k, flops, between=(low.value, high.value),
                 note=f"{run.name}, best of the first {k}: {lacking} of {len(found)} pictures "
                      f"that it would have chosen were not kept; compare with a run of that "
                      f"search at {k} for the score itself")  # fmt: skip


def _with(kept: Sequence[Outcome], found: Sequence[float | None], unknown: float) -> Interval:
    """The score of the values found, `unknown` in place of those that were not."""
    return estimated([one._replace(value=unknown if value is None else value)
                      for one, value in zip(kept, found, strict=True)]).overall  # fmt: skip


def _best_of_any(values: Sequence[Outcome], k: int) -> float | None:
    """Mean over tasks of the expected best of k of a prompt's pictures; None when a prompt has
    fewer."""
    tasks: dict[str, dict[str, list[float]]] = {}
    for one in values:
        tasks.setdefault(one.task, {}).setdefault(one.prompt, []).append(one.value)
    means: list[float] = []
    for prompts in tasks.values():
        if any(len(v) < k for v in prompts.values()):
            return None
        best = [sum(x * comb(j, k - 1) for j, x in enumerate(sorted(v))) / comb(len(v), k)
                for v in prompts.values()]  # fmt: skip
        means.append(sum(best) / len(best))
    return sum(means) / len(means)
