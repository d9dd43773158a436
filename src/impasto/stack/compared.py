"""The step `compare`: runs of earlier steps beside each other, over all their seeds.

At equal samples: each run's score, its paired difference from the base, and what a picture cost.
At equal FLOPs: each run against the best of the first k candidates of a pool, with the largest k
whose candidates together cost no more FLOPs than one of the run's pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from impasto.run import seeds
from impasto.run.directory import RunDirectory
from impasto.run.pool import Pool
from impasto.run.values import difference_of, estimated, is_pooled
from impasto.score.statistics import Outcome, paired_difference
from impasto.stack.base import STEPS, Done, Step, Tools, filled_in
from impasto.stack.drawing import Drawing
from impasto.stack.drawn import Eval, PoolStep
from impasto.zoo.registry import nearest

__all__ = ["Beside", "Compare", "check_names", "check_same", "equal_flops", "runs_by_name"]

Runs = list[RunDirectory]


@dataclass(frozen=True, kw_only=True)
class Beside(Step):
    """Puts runs of earlier steps beside each other.

    base: name of the run that differences are from. runs: names of the others, default all.
    {n} stands for each of grid's n.
    """

    base: str
    runs: Sequence[str] | None = None
    title: str = ""
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    kept: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _ = self.named_runs

    @property
    def named_runs(self) -> list[str] | None:
        if self.runs is None:
            return None
        return [name for text in self.runs for (name,) in filled_in((text,), self.grid, "runs")]

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        by_name = runs_by_name(self.name, earlier)
        self._check_runs(by_name, [self.base, *(self.named_runs or by_name)])

    def _check_runs(
        self, by_name: Mapping[str, Eval], wanted: Sequence[str], more: Sequence[Drawing] = ()
    ) -> None:
        """Raises ValueError for runs that are not there, or cannot be paired with the base."""
        check_names(self.name, wanted, by_name)
        for other in [*(by_name[name] for name in wanted), *more]:
            check_same(self.name, by_name[self.base], other,
                       ("bench", "seeds", "samples", "limit", "scorer", "second"))  # fmt: skip

    def compared(self, tools: Tools) -> tuple[dict[str, Runs], dict[str, Any]]:
        """The runs of all steps, and the table's beginning: a row for each run wanted."""
        runs = {name: [RunDirectory.judged(path) for path in paths]
                for done in tools.done.values() for name, paths in done.runs.items()}  # fmt: skip
        wanted = self.named_runs
        names = [self.base, *(name for name in wanted or runs if name != self.base)]
        rows = []
        for i, name in enumerate(names):
            tools.progress(f"{self.name}: runs", i, len(names))
            rows.append(_row(name, runs[name], None if i == 0 else runs[self.base]))
        tools.progress(f"{self.name}: runs", len(names), len(names))
        record, models = runs[self.base][0].record, {row["model"] for row in rows}
        return runs, {
            "name": self.name, "title": self.title or self.name,
            "base": self.base, "model": models.pop() if len(models) == 1 else None,
            "bench": record["bench"], "scorer": record["scorer"], "second": record["second"],
            "seeds": len(runs[self.base]), "rows": rows,
        }  # fmt: skip


@STEPS.register("compare")
@dataclass(frozen=True, kw_only=True)
class Compare(Beside):
    """Put runs beside each other, of searches or of models: scores, paired differences, costs.

    pairs: further differences, each [run, of which it is compared with]. pool: the step whose
    candidates say what best-of-k scores at the runs' FLOPs. page: those whose pictures go on a
    page, with the base's.
    """

    pairs: Sequence[Sequence[str]] = ()
    pool: str | None = None
    page: Sequence[str] = ()

    def __post_init__(self) -> None:
        for pair in self.pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise ValueError(f"pairs holds [run, compared with], given {pair!r}")
        super().__post_init__()
        _ = self.named_pairs, self.named_page

    @property
    def named_page(self) -> list[str]:
        return [name for text in self.page for (name,) in filled_in((text,), self.grid, "page")]

    @property
    def named_pairs(self) -> list[tuple[str, str]]:
        return [(a, b) for pair in self.pairs for a, b in filled_in(pair, self.grid, "pairs")]

    @property
    def uses(self) -> Mapping[str, str]:
        return {} if self.pool is None else {self.pool: "pool"}

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        by_name = runs_by_name(self.name, earlier)
        wanted = [self.base, *(self.named_runs or by_name), *self.named_page,
                  *(name for pair in self.named_pairs for name in pair)]  # fmt: skip
        pools = [step for step in earlier
                 if isinstance(step, PoolStep) and step.name == self.pool]  # fmt: skip
        self._check_runs(by_name, wanted, pools)
        if any(pool.reward is None for pool in pools):
            raise ValueError(f"{self.name}: {self.pool} keeps no reward to choose by; give "
                             f"it one")  # fmt: skip

    def run(self, tools: Tools) -> Done:
        runs, table = self.compared(tools)
        return Done(table={"kind": "compare", **table} | {
            "pairs": [_pair(a, b, runs) for a, b in self.named_pairs],
            "equal_flops": [] if self.pool is None else _at_pool(
                [tools.pool(path) for path in tools.done[self.pool].pool],
                {row["name"]: runs[row["name"]] for row in table["rows"]}),
            "page": [str(runs[name][0].path) for name in [self.base, *self.named_page]]
            if self.page else [],
        })  # fmt: skip


def runs_by_name(name: str, earlier: Sequence[Step]) -> dict[str, Eval]:
    """Every run of the steps before the one called `name` -> its step. Raises ValueError for two
    of one name."""
    by_name: dict[str, Eval] = {}
    for step in earlier:
        for run in step.named if isinstance(step, Eval) else ():
            if run in by_name:
                raise ValueError(f"{name}: {by_name[run].name} and {step.name} both have a run "
                                 f"{run!r}; give one another name")  # fmt: skip
            by_name[run] = step  # type: ignore[assignment]
    return by_name


def check_names(name: str, wanted: Sequence[str], by_name: Mapping[str, Eval]) -> None:
    """Raises ValueError for a run that no step before the one called `name` has."""
    for run in wanted:
        if run not in by_name:
            raise ValueError(f"{name}: no step before it has a run {run!r}: "
                             f"{nearest(run, list(by_name))}")  # fmt: skip


def check_same(name: str, a: Drawing, b: Drawing, keys: Sequence[str]) -> None:
    """Raises ValueError where pictures of the two cannot be paired."""
    for key in keys:
        first, second = getattr(a, key), getattr(b, key)
        if first != second and not (key == "seeds" and list(first) == list(second)):
            raise ValueError(f"{name}: {a.name} and {b.name} differ in {key}, {first!r} and "
                             f"{second!r}; pictures of other prompts, seeds or judges cannot be "
                             f"compared")  # fmt: skip


def _row(name: str, runs: Runs, base: Runs | None) -> dict[str, Any]:
    """A run's score, cost and, where there is a base, differences; intervals as lists."""
    score, second = seeds.score(runs), seeds.second_score(runs)
    row: dict[str, Any] = {
        "name": name, "search": runs[0].record["search"],
        "model": runs[0].record["model"]["name"],
        "runs": [str(run.path) for run in runs],
        "score": list(score.overall), "tasks": {t: list(v) for t, v in score.tasks.items()},
        "second": None if second is None else list(second.overall),
        "cost": seeds.cost_of(runs), "difference": None,
    }  # fmt: skip
    if base is None:
        return row
    other, differs = seeds.second_difference(base, runs), seeds.difference(base, runs)
    before = seeds.score(base).overall.value
    return row | {
        "difference": list(differs.overall),
        "task_differences": {task: list(v) for task, v in differs.tasks.items()},
        "relative": [x / before for x in differs.overall] if before else None,
        "second_difference": None if other is None else list(other.overall),
    }


def _pair(a: str, b: str, runs: Mapping[str, Runs]) -> dict[str, Any]:
    second = seeds.second_difference(runs[b], runs[a])
    return {"run": a, "from": b, "difference": list(seeds.difference(runs[b], runs[a]).overall),
            "second_difference": None if second is None else list(second.overall)}  # fmt: skip


def _at_pool(pools: Sequence[Pool], runs: Mapping[str, Runs]) -> list[dict[str, Any]]:
    """`equal_flops` of every run whose FLOPs are known."""
    rows = []
    for name, of in runs.items():
        cost = seeds.cost_of(of)
        asked = cost["reward_flops"]
        rewards = asked is not None and all(pool.counts_rewards for pool in pools)
        if cost["flops"] is not None:
            spent = cost["flops"] + (asked or 0.0 if rewards else 0.0)
            rows.append({"run": name} | equal_flops(pools, of, spent, rewards))
    return rows


def _joined(pools: Sequence[Pool], k: int) -> list[Outcome]:
    """The best of k of every pool's pictures, numbered as `impasto.run.seeds` does."""
    return [one._replace(sample=i * (pool.samples // pool.n) + one.sample)
            for i, pool in enumerate(pools) for one in pool.best(k)]  # fmt: skip


def equal_flops(
    pools: Sequence[Pool], runs: Runs, spent: float, rewards: bool = False
) -> dict[str, Any]:
    """Best of k at no more than `spent` FLOPs a picture, and the runs' paired difference from it.

    k: the largest that the FLOPs pay for; the pool's n where they pay for more, which "enough"
    then denies. "best", its FLOPs and the difference are None where they do not pay for one.
    rewards: whether rewards and features are counted beside drawing, on both sides.
    """
    n = min(pool.n for pool in pools)
    cost = [sum(pool.flops(k, rewards) for pool in pools) / len(pools) for k in range(n + 1)]
    k = max((k for k in range(1, n + 1) if cost[k] <= spent * (1 + 1e-9)), default=0)
    found: dict[str, Any] = {"flops": spent, "rewards": rewards, "k": k, "best_flops": None,
                             "best": None, "difference": None, "enough": True}  # fmt: skip
    if not k:
        return found
    best = _joined(pools, k)
    differ = difference_of if is_pooled(runs[0]) else paired_difference
    return found | {
        "best_flops": cost[k], "best": list(estimated(best).overall),
        "difference": list(differ(best, seeds.over_seeds(runs)).overall),
        "enough": k < n or spent < cost[n] * (n + 1) / n,
    }  # fmt: skip
