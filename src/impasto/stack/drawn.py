"""Steps that draw and judge: `eval` for searches side by side, `pool` for their candidates.

    OUT/STEP/SEARCH/seed-0      a run folder, as `impasto eval` writes it
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from impasto.run.directory import RunDirectory
from impasto.run.evaluate import evaluate
from impasto.run.pool import FromPool, Pool
from impasto.run.settings import Settings, run_record
from impasto.run.workers import Parts
from impasto.sample.protocol import Generator, Request, Sampling
from impasto.search.engine import TreeSearch
from impasto.stack.base import STEPS, Done, Step, Tools, filled_in, of_step
from impasto.zoo.registry import nearest

__all__ = ["Drawing", "Eval", "Judging", "PoolStep", "slug", "whole"]


def slug(text: str) -> str:
    """A name as a folder's: what is not a letter, digit, point or dash becomes one dash."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "-"


def whole(name: str, value: Any, least: int = 1) -> None:
    """Raises ValueError unless `value` is a whole number from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, given {value!r}")


@dataclass(frozen=True, kw_only=True)
class Judging(Step):
    """What steps that draw a bench have in common, as `impasto eval` takes it.

    limit: prompts. scorer, second: default the bench's own. sampling: steps, guidance, height,
    width.
    """

    model: str
    bench: str = "geneval"
    limit: int | None = None
    scorer: str | None = None
    second: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.limit is not None:
            whole("limit", self.limit)
        known = [f.name for f in fields(Sampling)]
        for key in self.sampling:
            if key not in known:
                raise ValueError(f"sampling has no {key!r}: {nearest(str(key), known)}")

    @property
    def uses(self) -> Mapping[str, str]:
        return of_step(self.model)

    @property
    def settings(self) -> dict[str, Any]:
        return {key: value for key, value in super().settings.items() if key != "name"}

    def planned(self, tools: Tools, search: str, seed: int, samples: int = 1) -> Settings:
        """The settings of one run."""
        bench = tools.bench(self.bench)
        scorer, second = tools.build.judges_of(bench, self.scorer, self.second)
        names = {"model": tools.model_name(self.model), "search": search, "scorer": scorer,
                 "second": second}  # fmt: skip
        return Settings(
            bench=bench, scorer=tools.scorer(scorer),
            second=None if second is None else tools.scorer(second),
            limit=self.limit, samples=samples, seed=seed, sampling=Sampling(**self.sampling),
            names={role: name for role, name in names.items() if name is not None},
        )  # fmt: skip

    def check_drawing(self, tools: Tools) -> int | None:
        """What every run of this step needs: a bench that can be drawn, judges, a model that
        takes the sampling. Returns its number of steps; None of a model that is not there yet."""
        bench = tools.bench(self.bench)
        if bench.asks is not None or bench.sources is not None:
            raise ValueError(f"{self.name}: {bench.name} is about given pictures, which a stack "
                             f"does not draw")  # fmt: skip
        if of_step(self.model):
            return None
        settings = self.planned(tools, "none", 0)
        request = Request.of(settings.bench_part.given[0].prompt)
        settings.self_test()
        state = tools.model(self.model).start([request], [0], settings.sampling)
        return int(state.steps)


@dataclass(frozen=True, kw_only=True)
class Drawing(Judging):
    """Steps whose work is run folders. seeds: one run each. samples: pictures a prompt and seed.
    """

    seeds: Sequence[int] = (0,)
    samples: int = 1
    makes: ClassVar[str] = "runs"

    def __post_init__(self) -> None:
        super().__post_init__()
        seeds = self.seeds
        if (not isinstance(seeds, list | tuple) or not seeds or len(set(seeds)) < len(seeds)
                or any(isinstance(s, bool) or not isinstance(s, int) for s in seeds)):  # fmt: skip
            raise ValueError(f"seeds must be a list of different whole numbers, given {seeds!r}")
        whole("samples", self.samples)

    @property
    def settings(self) -> dict[str, Any]:
        """Without the seeds: each has a folder of its own."""
        return {key: value for key, value in super().settings.items() if key != "seeds"}

    def draw(
        self, tools: Tools, settings: Settings, folder: Path, pool: Path | None = None
    ) -> Path:
        """One run, drawn by the model or from a pool's folder."""
        search, model = settings.names["search"], settings.names["model"]
        generator = tools.model(self.model)
        crew = tools.build.workers(
            tools.workers, tools.device, model_name=model, search_name=search,
            scorers=(settings.names["scorer"], settings.names.get("second")),
        )  # fmt: skip
        if pool is not None:
            held = FromPool(generator, tools.pool(pool))
            held.check(run_record(settings, held, tools.search(search)))
            crew = replace(crew, make=crew.make and partial(_pooled_parts, crew.make, pool))
            generator = held
        return evaluate(
            settings, generator, tools.search(search), folder, batch_size=tools.batch_size,
            workers=crew,
            progress=lambda what, *steps: tools.progress(f"{self.name}: {what}", *steps),
        ).path  # fmt: skip


def _pooled_parts(make: Parts, pool: Path, role: str) -> Any:
    """What a worker builds: `make`'s objects, the generator with the pool before it."""
    made = make(role)
    return (FromPool(made[0], Pool.at(pool)), made[1]) if role == "makers" else made


@STEPS.register("eval")
@dataclass(frozen=True, kw_only=True)
class Eval(Drawing):
    """Draw a bench by each search and seed, and judge it.

    searches: a list, or names to be shown -> searches; {n} stands for each of grid's n, {reward}
    for the reward. pool: the step whose pictures they choose among, instead of drawing them again.
    """

    searches: Sequence[str] | Mapping[str, str] = ("none",)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    reward: str | None = None
    pool: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.searches, list | tuple | Mapping) or not self.searches:
            raise ValueError(f"searches must be a list of at least one, or names -> searches, "
                             f"given {self.searches!r}")  # fmt: skip
        _ = self.named

    @property
    def named(self) -> dict[str, str]:
        """Every search's name -> its text."""
        grid = dict(self.grid) | ({"reward": [self.reward]} if self.reward else {})
        pairs = (self.searches.items() if isinstance(self.searches, Mapping) else
                 [(text, text) for text in self.searches])  # fmt: skip
        filled = [(name, search) for pair in pairs
                  for name, search in filled_in([*map(str, pair)], grid, "searches")]
        folders = [slug(name) for name, _ in filled]
        if twice := {name for name in folders if folders.count(name) > 1}:
            raise ValueError(f"searches are called the same, {', '.join(sorted(twice))}; give "
                             f"each its own name")  # fmt: skip
        return dict(filled)

    @property
    def uses(self) -> Mapping[str, str]:
        return dict(super().uses) | ({} if self.pool is None else {self.pool: "pool"})

    @property
    def settings(self) -> dict[str, Any]:
        own = {key: value for key, value in super().settings.items()
               if key not in ("searches", "grid", "reward", "pool")}  # fmt: skip
        return own | {f"search {name}": text for name, text in self.named.items()}

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        steps = self.check_drawing(tools)
        for name, text in self.named.items():
            search = tools.search(text)
            if steps is not None and isinstance(search, TreeSearch):
                self._check_steps(name, search, tools.model(self.model), steps)
        if self.pool is not None:
            self._check_pool(tools, earlier)

    def _check_steps(
        self, name: str, search: TreeSearch, generator: Generator, steps: int
    ) -> None:
        """Raises ValueError where the model does not draw as the search needs."""
        if search.needs_previews and not generator.has_preview:
            raise ValueError(f"{self.name}: {name} looks at unfinished pictures, and {self.model} "
                             f"draws in one go")  # fmt: skip
        try:
            search.stops(steps)
        except ValueError as error:
            raise ValueError(f"{self.name}: {name}: {error}") from error

    def _check_pool(self, tools: Tools, earlier: Sequence[Step]) -> None:
        """Raises ValueError where the searches would ask for what the pool has not."""
        (pool,) = (step for step in earlier
                   if isinstance(step, PoolStep) and step.name == self.pool)  # fmt: skip
        for name, search in ((name, tools.search(text)) for name, text in self.named.items()):
            width = search.width
            if isinstance(search, TreeSearch) and search.needs_previews:
                raise ValueError(f"{self.name}: {name} looks at unfinished pictures, and a pool "
                                 f"has finished ones; put it into a step without pool")
            if width > pool.n:
                raise ValueError(f"{self.name}: {name} chooses among {width} pictures, but "
                                 f"{pool.name} has {pool.n} of each; give that n: {width}")
        for key in ("model", "bench", "samples", "limit", "sampling"):
            if getattr(self, key) != getattr(pool, key):
                raise ValueError(f"{self.name}: {key} is {getattr(self, key)!r}, that of its pool "
                                 f"{getattr(pool, key)!r}; they must be the same")  # fmt: skip
        if missing := [seed for seed in self.seeds if seed not in pool.seeds]:
            raise ValueError(f"{self.name}: {pool.name} has no seed {missing[0]}")

    def run(self, tools: Tools) -> Done:
        runs: dict[str, list[Path]] = {name: [] for name in self.named}
        todo = [(name, text, seed) for name, text in self.named.items() for seed in self.seeds]
        held = [] if self.pool is None else tools.done[self.pool].pool
        pools = {RunDirectory(path).record["seed"]: path for path in held}
        for i, (name, text, seed) in enumerate(todo):
            tools.progress(f"{self.name}: runs", i, len(todo))
            folder = tools.out / self.name / slug(name) / f"seed-{seed}"
            settings = self.planned(tools, text, seed, self.samples)
            runs[name].append(self.draw(tools, settings, folder, pools.get(seed)))
        tools.progress(f"{self.name}: runs", len(todo), len(todo))
        return Done(runs=runs)


@STEPS.register("pool")
@dataclass(frozen=True, kw_only=True)
class PoolStep(Drawing):
    """Draw n candidates of every picture and keep and judge them all.

    reward: the scorer whose value of each is kept, for what chooses by it later.
    """

    n: int
    reward: str | None = None
    makes: ClassVar[str] = "pool"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("n", self.n)

    @property
    def search(self) -> str:
        return f"candidates:n={self.n}" + (f",reward=({self.reward})" if self.reward else "")

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        self.check_drawing(tools)
        tools.search(self.search)

    def run(self, tools: Tools) -> Done:
        runs = []
        for i, seed in enumerate(self.seeds):
            tools.progress(f"{self.name}: runs", i, len(self.seeds))
            settings = self.planned(tools, self.search, seed, self.samples * self.n)
            runs.append(self.draw(tools, settings, tools.out / self.name / f"seed-{seed}"))
        tools.progress(f"{self.name}: runs", len(self.seeds), len(self.seeds))
        return Done(pool=runs)
