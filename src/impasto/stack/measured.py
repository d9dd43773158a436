"""The step `distances`: how far the pictures of runs are from a reference, by features.

    OUT/STEP/reference/          features of the reference
    OUT/STEP/runs/RUN/seed-0/    features of a run's pictures, of each seed
    OUT/STEP/pictures/NAME/      of a set beside the runs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from impasto.run.distance import WHOLE, check_extractors, common_size
from impasto.run.distances import (
    GROUPS,
    Found,
    check_prompts,
    estimated_distance,
    figures,
    kept_features,
)
from impasto.run.pictures import Pictures, open_pictures
from impasto.score.features import Extractor
from impasto.stack.base import STEPS, Done, Step, Tools, filled_in
from impasto.stack.compared import check_names, check_same, runs_by_name
from impasto.stack.drawing import slug
from impasto.stack.drawn import Eval
from impasto.zoo.registry import nearest

__all__ = ["Distances"]

Folders = Mapping[str, Path]
"""A set of pictures -> the folder that its features are kept in."""


@STEPS.register("distances")
@dataclass(frozen=True, kw_only=True)
class Distances(Step):
    """How far the pictures of runs are from a reference: Fréchet distance, precision, recall, …

    runs: names of runs of earlier steps, all their seeds together; default all. {n} stands for
    each of grid's n. pictures: names -> sets beside them. reference: what all are compared with.
    Sets of pictures are as of `impasto measure`. features: of the distances, which have their
    measures. base: the run or set that differences are from, if any.
    """

    runs: Sequence[str] | None = None
    pictures: Mapping[str, str] = field(default_factory=dict)
    reference: str = "world:scenes=2000"
    features: Sequence[str] = ("sticker-detector", "sticker-clip")
    base: str | None = None
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    title: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.pictures, Mapping):
            raise ValueError(f"pictures must be names -> sets, given {self.pictures!r}")
        if isinstance(self.features, str) or not self.features:
            raise ValueError(f"features must be a list of at least one, given {self.features!r}")
        _ = self.named_runs

    @property
    def named_runs(self) -> list[str] | None:
        if self.runs is None:
            return None
        return [name for text in self.runs for (name,) in filled_in((text,), self.grid, "runs")]

    @property
    def settings(self) -> dict[str, Any]:
        """What its features are kept by; which runs they are of may change."""
        return {"reference": self.reference, "features": list(self.features)} | {
            f"pictures {name}": text for name, text in self.pictures.items()}  # fmt: skip

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        by_name = runs_by_name(self.name, earlier)
        names = list(by_name) if self.named_runs is None else self.named_runs
        check_names(self.name, names, by_name)
        self._check_sets([*names, *self.pictures])
        counts = [len(open_pictures(text)) for text in self.pictures.values()]
        prompts = list(counts)
        for name in names:
            step = by_name[name]
            check_same(self.name, by_name[names[0]], step, ("bench", "seeds", "samples", "limit"))
            prompts.append(_prompts(tools, step))
            counts.append(prompts[-1] * step.samples * len(step.seeds))
        check_prompts(min(prompts))
        check_extractors(self._extractors(tools), min(counts), len(open_pictures(self.reference)))

    def _check_sets(self, names: Sequence[str]) -> None:
        """Raises ValueError for none, two of one name, and a base that is none of them."""
        if not names:
            raise ValueError(f"{self.name}: there are no pictures to compare; put an eval before "
                             f"it, or give it pictures")  # fmt: skip
        if len(set(map(slug, names))) < len(names):
            raise ValueError(f"{self.name}: its runs and pictures must each have a name of their "
                             f"own, given {', '.join(names)}")  # fmt: skip
        if self.base is not None and self.base not in names:
            raise ValueError(f"{self.name}: base {self.base!r} is none of its runs and pictures: "
                             f"{nearest(self.base, list(names))}")  # fmt: skip

    def _extractors(self, tools: Tools) -> list[Extractor]:
        return [tools.features(text) for text in self.features]

    def _sets(self, tools: Tools) -> Mapping[str, Folders]:
        """Every row's name -> the sets that it is of."""
        runs = {name: paths for done in tools.done.values() for name, paths in done.runs.items()}
        names, folder = runs if self.named_runs is None else self.named_runs, tools.out / self.name
        return {name: {str(path): folder / "runs" / slug(name) / path.name for path in runs[name]}
                for name in names} | {
            name: {text: folder / "pictures" / slug(name)} for name, text in self.pictures.items()
        }  # fmt: skip

    def run(self, tools: Tools) -> Done:
        extractors, compared = self._extractors(tools), open_pictures(self.reference)
        reference = self._looked_at(tools, compared, tools.out / self.name / "reference")
        found: dict[str, dict[str, list[float]]] = {}
        counts: dict[str, int] = {}
        for name, folders in self._sets(tools).items():
            samples, prompts = self._joined(tools, folders, compared)
            counts[name] = len(prompts)
            found[name] = figures(
                extractors, samples, prompts, reference,
                lambda *at, name=name: tools.progress(f"{self.name}: distances of {name}", *at),
            )  # fmt: skip
        return Done(table={
            "kind": "distances", "name": self.name, "title": self.title or self.name,
            "base": self.base, "groups": GROUPS, "features": [e.name for e in extractors],
            "reference": {"name": self.reference, "pictures": len(compared)},
            "rows": [{"name": name, "pictures": counts[name]} | self._row(name, found)
                     for name in found],
        })  # fmt: skip

    def _row(self, name: str, found: Mapping[str, Mapping[str, list[float]]]) -> dict[str, Any]:
        """A set's distances and their differences from the base's, as lists."""
        own = found[name]
        base = None if self.base in (None, name) else found[str(self.base)]
        return {
            "distances": {key: list(estimated_distance(key, own[key])) for key in own},
            "differences": {} if base is None else
            {key: list(estimated_distance(key, own[key], base[key])) for key in own},
        }  # fmt: skip

    def _joined(
        self, tools: Tools, folders: Folders, reference: Pictures
    ) -> tuple[Found, list[int]]:
        """Features of several sets as one, and the prompt of each picture. Raises ValueError for
        pictures of another size than the reference's."""
        opened = [(open_pictures(text), folder) for text, folder in folders.items()]
        for pictures, _ in opened:
            common_size(pictures, reference, WHOLE)
        parts = [self._looked_at(tools, *one) for one in opened]
        prompts = [_prompt(name, i) for pictures, _ in opened
                   for i, name in enumerate(pictures.names)]  # fmt: skip
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}, prompts

    def _looked_at(self, tools: Tools, pictures: Pictures, folder: Path) -> Found:
        return kept_features(
            pictures, self._extractors(tools), folder, batch_size=tools.batch_size,
            progress=lambda *at: tools.progress(f"{self.name}: {pictures.name}", *at),
        )  # fmt: skip


def _prompts(tools: Tools, step: Eval) -> int:
    """How many a step draws, whether or not its models are there yet."""
    bench = tools.bench(step.bench)
    return len((bench if step.limit is None else bench.stratified(step.limit)).specs)


def _prompt(name: str, i: int) -> int:
    """The prompt of a run's picture by its name; of a picture of no run itself, by its place."""
    first = Path(name).parts[0]
    return int(first) if first.isdecimal() and name != first else i
