"""Steps that look into a search: when its reward knows, and what there is to choose among.

    OUT/STEP/run.json  OUT/STEP/parts/…  OUT/STEP/summary.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from impasto.files import write_json
from impasto.run.directory import opened
from impasto.run.diversity import candidates_kept, clusters, kept, pool_diversity
from impasto.run.provenance import normal, resolved, versions
from impasto.run.reliability import looked_at, reliability
from impasto.run.settings import Settings
from impasto.sample.protocol import Generator, Sampling
from impasto.search.cluster import Cluster
from impasto.stack.base import STEPS, Done, Step, Tools
from impasto.stack.drawing import Judging, whole

__all__ = ["Diversity", "Reliability", "Study", "Subsets"]


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


@STEPS.register("subsets")
@dataclass(frozen=True, kw_only=True)
class Subsets(Study):
    """What clusters keep of the candidates' diversity, against random subsets of them.

    step: after which k of n are kept (from 0). features: of patches, that clusters are made of, by
    each of the projections. distance: the feature extractor that diversity is measured by.
    """

    k: int
    step: int
    features: str = "clip-patches"
    projections: Sequence[str] = ("pca",)
    distance: str = "sticker-detector"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("k", self.k)
        whole("step", self.step, 0)
        if self.k > self.n:
            raise ValueError(f"k must be at most n = {self.n}, given {self.k}")

    def _clusters(self, tools: Tools) -> list[Cluster]:
        patches = tools.patches(self.features)
        return [Cluster(patches, projection) for projection in self.projections]

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        steps = self.check_drawing(tools)
        if steps is not None and self.step >= steps:
            raise ValueError(f"{self.name}: step must be 0 to {steps - 1}, since {self.model} "
                             f"draws in {steps} steps; given {self.step}")  # fmt: skip
        tools.features(self.distance)
        self._clusters(tools)

    def run(self, tools: Tools) -> Done:
        settings, generator = self.planned(tools, "none", self.seed), tools.model(self.model)
        extractor, made = tools.features(self.distance), self._clusters(tools)
        record = self.record(
            tools, settings, generator, k=self.k, step=self.step,
            clusters=[one.provenance() for one in made], distance=extractor.provenance(),
        )  # fmt: skip
        specs = settings.bench_part.specs
        with opened(tools.out / self.name, record) as run:
            found = candidates_kept(
                run.path / "parts", generator, specs, n=self.n, k=self.k, step=self.step,
                seed=self.seed, sampling=settings.sampling, extractor=extractor,
                choosers={one.projection: clusters(one.patches, one.projection) for one in made},
                scorer=settings.scorer,
                progress=lambda *at: tools.progress(f"{self.name}: choosing", *at),
            )  # fmt: skip
            table = {"kind": "subsets", "name": self.name, "step": self.step,
                     "clusters_of": self.features, "features": self.distance,
                     "bench": settings.bench_part.provenance(),
                     **kept(found, [spec.tag for spec in specs])}  # fmt: skip
            write_json(run.summary, table)
        return Done(table=table)


@STEPS.register("diversity")
@dataclass(frozen=True, kw_only=True)
class Diversity(Step):
    """How much a pool's candidates of a prompt differ, by features and by verdicts.

    distance: the feature extractor.
    """

    pool: str
    distance: str = "sticker-detector"
    makes: ClassVar[str] = ""

    @property
    def uses(self) -> Mapping[str, str]:
        return {self.pool: "pool"}

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        tools.features(self.distance)

    def run(self, tools: Tools) -> Done:
        extractor, found = tools.features(self.distance), []
        for path in tools.done[self.pool].pool:
            pool = tools.pool(path)
            record = normal({"kind": "diversity", "pool": pool.record, "versions": versions(),
                             "features": extractor.provenance()})  # fmt: skip
            with opened(tools.out / self.name / path.name, record) as run:
                one = pool_diversity(
                    pool, run.path / "parts", extractor, batch_size=tools.batch_size,
                    progress=lambda *at: tools.progress(f"{self.name}: looking", *at),
                )  # fmt: skip
                found.append({"seed": pool.record["seed"]} | one)
                write_json(run.summary, found[-1])
        return Done(table={"kind": "diversity", "name": self.name, "features": self.distance,
                           "seeds": found})  # fmt: skip
