"""Steps that look into a search: when its reward knows, and what there is to choose among.

    OUT/STEP/run.json  OUT/STEP/parts/…  OUT/STEP/summary.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from impasto.files import write_json
from impasto.run.directory import opened
from impasto.run.diversity import pool_diversity
from impasto.run.pool import Pool
from impasto.run.provenance import normal, resolved, versions
from impasto.run.reliability import looked_at, reliability
from impasto.run.settings import Settings
from impasto.sample.protocol import Generator, Sampling
from impasto.stack.base import STEPS, Done, Step, Tools
from impasto.stack.drawn import Judging, whole

__all__ = ["Diversity", "Reliability", "Study"]


@dataclass(frozen=True, kw_only=True)
class Study(Judging):
    """n candidates of each of a bench's prompts, looked at on their way."""

    n: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("n", self.n, 2)
        whole("seed", self.seed, 0)

    def record(
        self, tools: Tools, settings: Settings, generator: Generator, **more: Any
    ) -> dict[str, Any]:
        """What decides what is found."""
        model = generator.provenance()
        return normal(settings.record() | {
            "kind": type(self).__name__.lower(), "seed": self.seed, "n": self.n,
            "model": {"name": tools.model_name(self.model)} | model,
            "sampling": resolved(Sampling(**self.sampling), model),
        } | more)  # fmt: skip


@STEPS.register("reliability")
@dataclass(frozen=True, kw_only=True)
class Reliability(Study):
    """Rank correlation of the reward after each step with the final reward and the verdict."""

    reward: str

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        self.check_drawing(tools)
        tools.scorer(self.reward).self_test()

    def run(self, tools: Tools) -> Done:
        settings = self.planned(tools, "none", self.seed)
        generator, reward = tools.model(self.model), tools.scorer(self.reward)
        record = self.record(tools, settings, generator,
                             reward={"name": self.reward} | reward.provenance())  # fmt: skip
        with opened(tools.out / self.name, record) as run:
            found = looked_at(
                run.path / "parts", generator, settings.bench_part.specs, n=self.n,
                seed=self.seed, sampling=settings.sampling, reward=reward,
                scorer=settings.scorer, batch_size=tools.batch_size,
                progress=lambda *at: tools.progress(f"{self.name}: looking", *at),
            )  # fmt: skip
            table = {"kind": "reliability", "name": self.name, "reward": self.reward,
                     "scorer": settings.names["scorer"], "bench": settings.bench_part.provenance(),
                     **reliability(found["rewards"], found["value"])}  # fmt: skip
            write_json(run.summary, table)
        return Done(table=table)


@STEPS.register("diversity")
@dataclass(frozen=True, kw_only=True)
class Diversity(Step):
    """How much the finished candidates of a prompt differ: of a pool, by features and verdicts."""

    pool: str
    features: str = "sticker-detector"
    makes: ClassVar[str] = ""

    @property
    def uses(self) -> Mapping[str, str]:
        return {self.pool: "pool"}

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        tools.features(self.features)

    def run(self, tools: Tools) -> Done:
        extractor, found = tools.features(self.features), []
        for path in tools.done[self.pool].pool:
            pool = Pool.at(path)
            record = normal({"kind": "diversity", "pool": pool.record, "versions": versions(),
                             "features": extractor.provenance()})  # fmt: skip
            with opened(tools.out / self.name / path.name, record) as run:
                one = pool_diversity(
                    pool, run.path / "parts", extractor, batch_size=tools.batch_size,
                    progress=lambda *at: tools.progress(f"{self.name}: looking", *at),
                )  # fmt: skip
                found.append({"seed": pool.record["seed"]} | one)
                write_json(run.summary, found[-1])
        return Done(table={"kind": "diversity", "name": self.name, "features": self.features,
                           "seeds": found})  # fmt: skip
