"""What steps that draw and judge have in common.

    OUT/STEP/SEARCH/seed-0      a run folder, as `impasto eval` writes it
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from impasto.run.evaluate import evaluate
from impasto.run.pool import FromPool, Pool
from impasto.run.settings import Settings, run_record
from impasto.run.workers import Parts
from impasto.sample.protocol import Request, Sampling
from impasto.stack.base import Step, Tools, of_step
from impasto.zoo.registry import nearest

__all__ = ["Drawing", "Judging", "pooled_parts", "slug", "whole"]


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
    width. model: a name or folder; step:NAME in it is the folder of an earlier step's model.
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
            tools.check_name("models", self.model, "torch_dtype", "device")
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
    ahead: ClassVar[bool] = True

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

    def shares(self) -> Mapping[str, Step]:
        return {f"seed {seed}": replace(self, seeds=(seed,)) for seed in self.seeds}

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
            crew = replace(crew, make=crew.make and partial(pooled_parts, crew.make, pool))
            generator = held
        return evaluate(
            settings, generator, tools.search(search), folder, batch_size=tools.batch_size,
            workers=crew,
            progress=lambda what, *steps: tools.progress(f"{self.name}: {what}", *steps),
        ).path  # fmt: skip


def pooled_parts(make: Parts, pool: Path, role: str) -> Any:
    """What a worker builds: `make`'s objects, the generator with the pool before it."""
    made = make(role)
    return (FromPool(made[0], Pool.at(pool)), made[1]) if role == "makers" else made
