"""What decides a run's pictures and scores: the content of its `run.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from impasto.bench import Bench, Picture
from impasto.files import sha256_file
from impasto.run.provenance import normal, resolved, versions
from impasto.sample.protocol import Generator, Sampling
from impasto.score.base import Scorer
from impasto.search.base import Search

__all__ = ["Settings", "images_record", "run_record"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a bench is judged: everything about a score that is not the model.

    second: the independent second scorer; None where a bench has none. limit: prompts of a
    stratified part of the bench. samples: pictures per prompt. None: all of the bench's. seed:
    what the pictures' own seeds follow from. names: what "model", "search", "scorer" and "second"
    are called in records; else their class names.
    """

    bench: Bench
    scorer: Scorer
    second: Scorer | None
    limit: int | None = None
    samples: int | None = None
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def bench_part(self) -> Bench:
        """The bench, limited. Raises ValueError for a limit or samples below 1."""
        bench = self.bench if self.limit is None else self.bench.stratified(self.limit)
        if self.samples is None:
            return bench
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1 picture per prompt, got {self.samples}")
        return replace(bench, samples_per_prompt=self.samples)

    def name(self, role: str, thing: object) -> str:
        return self.names.get(role, type(thing).__name__)

    def self_test(self) -> None:
        """Raises ScorerBroken, so that no score is ever printed by a broken scorer; ValueError
        for a scorer without the verdicts that the bench needs, or with them where it needs
        numbers."""
        self._check_kind()
        self.scorer.self_test()
        if self.second is not None:
            self.second.self_test()

    def _check_kind(self) -> None:
        name = self.name("scorer", self.scorer)
        wanted = f", such as {self.bench.scorer}" if self.bench.scorer else ""
        if self.scorer.by_key and not self.bench.keyed:
            raise ValueError(f"scorer {name} judges numbered items, {self.bench.name} has prompts "
                             f"only; take another scorer{wanted}")  # fmt: skip
        if self.bench.sources is not None and not self.scorer.by_key:
            raise ValueError(f"scorer {name} looks at a picture and its prompt alone, "
                             f"{self.bench.name} is about given pictures; it needs a scorer that "
                             f"knows its items{wanted}")  # fmt: skip
        if self.bench.verdicts == self.scorer.gives_verdict:
            return
        given = "gives a verdict" if self.scorer.gives_verdict else "gives no verdict"
        needs = "right or wrong" if self.bench.verdicts else "a number"
        raise ValueError(f"scorer {name} {given}; {self.bench.name} "
                         f"needs one that says {needs}{wanted}")  # fmt: skip

    def record(self) -> dict[str, Any]:
        """What every score by these settings is stored with."""
        bench = self.bench_part
        return {
            "kind": "eval",
            "bench": bench.provenance(),
            "texts": [spec.prompt for spec in bench.given],
            "rewriter": bench.rewriter,
            "scorer": {"name": self.name("scorer", self.scorer)} | self.scorer.provenance(),
            "second": None if self.second is None else
            {"name": self.name("second", self.second)} | self.second.provenance(),
            "versions": versions(),
        }  # fmt: skip


def run_record(settings: Settings, generator: Generator, search: Search) -> dict[str, Any]:
    """What decides pictures and scores of `evaluate`: the content of its `run.json`."""
    model = generator.provenance()
    return normal(settings.record() | {
        "model": {"name": settings.name("model", generator)} | model,
        "search": {"name": settings.name("search", search), "independent": search.independent}
        | search.provenance(),
        "seed": settings.seed,
        "sampling": resolved(settings.sampling, model),
    })  # fmt: skip


def images_record(
    settings: Settings, images: str | Path, pictures: Sequence[Picture]
) -> dict[str, Any]:
    """What decides the scores of `evaluate_images`; the pictures by one hash over all of them."""
    digest = hashlib.sha256()
    for picture in pictures:
        content = sha256_file(Path(images) / picture.filename)
        digest.update(f"{picture.filename} {content}\n".encode())
    return normal(settings.record() | {
        "model": {"name": settings.names.get("model", Path(images).name),
                  "images": len(pictures), "images_sha256": digest.hexdigest()},
        "search": None,
        "seed": None,
        "sampling": None,
    })  # fmt: skip
