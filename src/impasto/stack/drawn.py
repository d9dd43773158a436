"""Steps that draw and judge: `eval` for searches or models side by side, `pool` for candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from impasto.run.directory import RunDirectory
from impasto.sample.protocol import Generator
from impasto.search.engine import TreeSearch
from impasto.stack.base import STEPS, Done, Step, Tools, as_option, filled_in, of_step
from impasto.stack.drawing import Drawing, slug, whole

__all__ = ["Eval", "PoolStep"]

AS_IT_IS = ("none",)
"""The searches of a model that draws each picture once."""


@STEPS.register("eval")
@dataclass(frozen=True, kw_only=True)
class Eval(Drawing):
    """Draw a bench by each search, or by each model, and each seed, and judge it.

    searches: a list, or names to be shown -> searches; {n} stands for each of grid's n, {reward}
    for the reward. models: names to be shown -> models, each drawn with as it is; instead of model
    and searches. pool: the step whose pictures are chosen among, instead of drawing them again.
    """

    model: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    searches: Sequence[str] | Mapping[str, str] = AS_IT_IS
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    reward: str | None = None
    pool: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.searches, list | tuple | Mapping) or not self.searches:
            raise ValueError(f"searches must be a list of at least one, or names -> searches, "
                             f"given {self.searches!r}")  # fmt: skip
        if not isinstance(self.models, Mapping):
            raise ValueError(f"models must be names -> models, given {self.models!r}")
        if self.models and (self.pool is not None or tuple(self.searches) != AS_IT_IS):
            raise ValueError("models are drawn with as they are: give a step of its own to what "
                             "has searches or a pool")  # fmt: skip
        if bool(self.model) == bool(self.models):
            raise ValueError("give a model, or models by their names; with models say model: null "
                             "where the recipe has a model for all steps")  # fmt: skip
        _ = self.named

    @property
    def varied(self) -> str:
        """What its runs are: "search" or "model"."""
        return "model" if self.models else "search"

    @property
    def named(self) -> dict[str, str]:
        """Every run's name -> its search's text, or its model's."""
        grid = dict(self.grid) | ({"reward": [as_option(self.reward)]} if self.reward else {})
        given, key = self.models or self.searches, "models" if self.models else "searches"
        pairs = given.items() if isinstance(given, Mapping) else [(text, text) for text in given]
        filled = [(name, text) for pair in pairs
                  for name, text in filled_in([*map(str, pair)], grid, key)]  # fmt: skip
        folders = [slug(name) for name, _ in filled]
        if twice := {name for name in folders if folders.count(name) > 1}:
            raise ValueError(f"{key} are called the same, {', '.join(sorted(twice))}; give "
                             f"each its own name")  # fmt: skip
        return dict(filled)

    def alone(self, name: str) -> Eval:
        """The step with one run only, of one model."""
        text = self.named[name]
        if self.models:
            return replace(self, model=text, models={})
        return replace(self, searches={name: text}, grid={}, reward=None)

    def shares(self) -> Mapping[str, Step]:
        def one(name: str, text: str, seed: int) -> Step:
            whole = replace(self, seeds=(seed,))
            if self.models:
                return replace(whole, models={name: text})
            return replace(whole, searches={name: text}, grid={}, reward=None)

        return {f"{name}, seed {seed}": one(name, text, seed)
                for name, text in self.named.items() for seed in self.seeds}  # fmt: skip

    @property
    def uses(self) -> Mapping[str, str]:
        models = of_step(list(self.named.values()) if self.models else self.model)
        return models | ({} if self.pool is None else {self.pool: "pool"})

    @property
    def settings(self) -> dict[str, Any]:
        left = {"searches", "grid", "reward", "pool", "models"} | ({"model"} if self.models else
                                                                   set())  # fmt: skip
        own = {key: value for key, value in super().settings.items() if key not in left}
        return own | {f"{self.varied} {name}": text for name, text in self.named.items()}

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        if self.models:
            for name in self.named:
                self.alone(name).check(tools, earlier)
            return
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

    def _folder(self, out: Path, name: str, seed: int) -> Path:
        return out / self.name / slug(name) / f"seed-{seed}"

    def finished(self, out: Path) -> bool:
        return all(RunDirectory(self._folder(out, name, seed)).summary.is_file()
                   for name in self.named for seed in self.seeds)  # fmt: skip

    def run(self, tools: Tools) -> Done:
        runs: dict[str, list[Path]] = {name: [] for name in self.named}
        todo = [(name, seed) for name in self.named for seed in self.seeds]
        held = [] if self.pool is None else tools.done[self.pool].pool
        pools = {RunDirectory(path).record["seed"]: path for path in held}
        for i, (name, seed) in enumerate(todo):
            tools.progress(f"{self.name}: runs", i, len(todo))
            folder, step = self._folder(tools.out, name, seed), self.alone(name)
            (search,) = step.named.values()
            settings = step.planned(tools, search, seed, self.samples)
            runs[name].append(step.draw(tools, settings, folder, pools.get(seed)))
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
        reward = f",reward={as_option(self.reward)}" if self.reward else ""
        return f"candidates:n={self.n}{reward}"

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
