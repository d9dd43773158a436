"""Runs against each other, picture by picture: the same prompts, seeds and judges, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from impasto.bench import IncompleteError, Record, outcomes, read_results
from impasto.run.directory import RunDirectory, read_json
from impasto.run.judge import read_second
from impasto.run.provenance import SettingsDiffer, differing
from impasto.run.values import difference_of, is_pooled, score_values, soft_values
from impasto.score.power import Power, paired_spread, plan, spread_of_score
from impasto.score.statistics import Estimates, Interval, Outcome, holm, paired_difference

__all__ = ["Difference", "Disagreement", "check_comparable", "compare", "finished", "planned",
           "verdicts_only"]  # fmt: skip

SAME = ("bench", "scorer", "second", "seed")
"""What two runs must share for the difference to be the model's or the search's, or that of
rewritten prompts, which the runs' names then say."""


@dataclass(frozen=True)
class Disagreement:
    """Where score and second score differ in opposite directions. where: "overall" or a task.

    verdicts: the difference in score; of verdicts, on a bench of verdicts.

    clear: how many of the two intervals exclude zero: with neither, chance explains it.
    """

    where: str
    verdicts: Interval
    second: Interval

    @property
    def clear(self) -> int:
        return sum(interval.low > 0 or interval.high < 0
                   for interval in (self.verdicts, self.second))  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """Run b minus run a, paired by prompt and seed.

    verdicts: of the results, whether they are right and wrong or numbers. second: of the second
    scorer's values, None where there is none.
    paired_by: "prompt and seed", or "prompt" when the pictures of one were drawn elsewhere.
    soft: of Soft-TIFA's "gm" and "am", on a bench that is scored by them.
    """

    a: Path
    b: Path
    verdicts: Estimates
    second: Estimates | None
    paired_by: str
    soft: Mapping[str, Estimates] = field(default_factory=dict)

    @property
    def score(self) -> Estimates:
        """The difference in what the bench is scored by: Soft-TIFA's GM, or verdicts."""
        return self.soft.get("gm", self.verdicts)

    @property
    def holm(self) -> dict[str, float]:
        """Each task's p of no difference in score, adjusted for the number of tasks."""
        return holm(self.score.p)

    @property
    def disagreements(self) -> list[Disagreement]:
        """Overall, and in tasks where an interval excludes zero: the two scorers' directions."""
        if self.second is None:
            return []
        pairs = [("overall", self.score.overall, self.second.overall),
                 *((task, value, self.second.tasks[task])
                   for task, value in self.score.tasks.items() if task in self.second.tasks)]
        found = [Disagreement(*pair) for pair in pairs if pair[1].value * pair[2].value < 0]
        return [one for one in found if one.where == "overall" or one.clear]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. Intervals are [value, low, high]; tasks, second_tasks, p (each task's own),
        holm (adjusted over the tasks): by task; disagreements: where, verdicts, second, clear. All
        but "verdicts" and "am", which only benches of answers have, are of the bench's score."""
        more = {"verdicts": self.verdicts, "am": self.soft["am"]} if self.soft else {}
        return {
            "a": str(self.a),
            "b": str(self.b),
            "paired_by": self.paired_by,
            "overall": list(self.score.overall),
            "tasks": {task: list(v) for task, v in self.score.tasks.items()},
            "p": dict(self.score.p),
            "holm": self.holm,
            "second": None if self.second is None else list(self.second.overall),
            "second_tasks": {task: list(v) for task, v in self.second.tasks.items()}
            if self.second else {},
            "disagreements": [
                {"where": one.where, "verdicts": list(one.verdicts), "second": list(one.second),
                 "clear": one.clear}
                for one in self.disagreements
            ],
            **{name: list(of.overall) for name, of in more.items()},
        }  # fmt: skip


def check_comparable(a: RunDirectory, b: RunDirectory) -> str:
    """What the two can be paired by. Raises SettingsDiffer naming each key that differs.

    Pictures drawn elsewhere have no seed here: they pair with any run's by prompt and sample.
    """
    first, second = ({key: run.record.get(key) for key in SAME} for run in (a, b))
    if a.record["rewriter"] != b.record["rewriter"]:
        first["bench"], second["bench"] = (_demanded(run.record["bench"]) for run in (a, b))
    by_seed = first["seed"] is not None and second["seed"] is not None
    if not by_seed:
        first["seed"] = second["seed"] = None
    found = list(differing(first, second))
    if found:
        lines = [f"  {key}: {str(x)[:60]!r} and {str(y)[:60]!r}" for key, x, y in found[:8]]
        raise SettingsDiffer(f"{a.path} and {b.path} cannot be compared, they differ in more than "
                             "model, search and sampling:\n" + "\n".join(lines))  # fmt: skip
    return "prompt and seed" if by_seed else "prompt"


def _demanded(bench: Mapping[str, Any]) -> dict[str, Any]:
    """What a bench demands, in whatever words: its specs and their number."""
    own = bench.get("specs_sha256", bench["metadata_sha256"])
    return {"metadata_sha256": own, "samples_per_prompt": bench["samples_per_prompt"]}


def compare(paths: Sequence[str | Path]) -> list[Difference]:
    """The differences of each further run from the first.

    Raises ValueError for fewer than two, SettingsDiffer when they are not comparable and
    IncompleteError for a run that is not finished.
    """
    if len(paths) < 2:
        raise ValueError("a comparison needs at least two run folders")
    a, *others = [RunDirectory.judged(path) for path in paths]
    pairings = [check_comparable(a, b) for b in others]
    return [_difference(a, b, pairing) for b, pairing in zip(others, pairings, strict=True)]


def verdicts_only(run: RunDirectory) -> bool:
    """Whether all of the run's results are right or wrong, and none is a number."""
    return all(record.correct is not None for record in read_results(run.results))


def planned(paths: Sequence[str | Path], x: float) -> list[Power]:
    """Prompts that show a difference of x in the overall score.

    Of several runs, one plan for each further one, from its paired differences to the first; of
    one alone, from its score, as if another scored x more. None where results are numbers: the
    formula is of verdicts. Errors: as `compare`, ValueError for an x that is not above 0.
    """
    runs = [RunDirectory.judged(path) for path in paths]
    for run in runs[1:]:
        check_comparable(runs[0], run)
    first, *others = [score_values(finished(run)) for run in runs]
    have = len({outcome.prompt for outcome in first})
    if not all(map(verdicts_only, runs)):
        return []
    if not others:
        score = read_json(runs[0].summary)["overall"]["score"]
        basis = f"a score of {score:.2f}, one picture a prompt and no pairing"
        return [plan(spread_of_score(score, x), x, have, basis)]
    return [plan(paired_spread(first, values), x, have, "the paired differences of these runs")
            for values in others]  # fmt: skip


def _difference(a: RunDirectory, b: RunDirectory, paired_by: str) -> Difference:
    first, second = (read_results(finished(run).results) for run in (a, b))
    soft = soft_values(a, first), soft_values(b, second)
    seconds = _second_values(a, first), _second_values(b, second)
    differ = difference_of if is_pooled(a) else paired_difference
    return Difference(
        a.path, b.path, differ(outcomes(first), outcomes(second)),
        paired_difference(*seconds) if all(seconds) else None, paired_by,
        {name: difference_of(values, soft[1][name]) for name, values in soft[0].items()},
    )  # fmt: skip


def finished(run: RunDirectory) -> RunDirectory:
    """The run, finished and complete. Raises IncompleteError."""
    if not run.summary.is_file():
        raise IncompleteError(0, 1, [str(run.summary)], what=f"summary of {run.path}")
    coverage = read_json(run.summary)["coverage"]
    if coverage["images"] < coverage["of"]:
        raise IncompleteError(coverage["images"], coverage["of"], [str(run.path)])
    return run


def _second_values(run: RunDirectory, records: Sequence[Record]) -> list[Outcome]:
    values = read_second(run.second)
    return [Outcome(r.tag, r.metadata, r.sample, values[r.filename])
            for r in records if values]  # fmt: skip
