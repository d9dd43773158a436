"""A generator and scorers that take no time: pictures that depend on prompt and seed only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch

from impasto.images import quantise
from impasto.sample.protocol import Cost, Generator, State
from impasto.score.base import Found, Score, Scorer, ScorerBroken
from impasto.score.geneval import GenEvalScorer

SIDE = 16


@dataclass(frozen=True, kw_only=True)
class FakeState(State):
    images: torch.Tensor = None


@dataclass(frozen=True, kw_only=True)
class WalkState(FakeState):
    prompts: tuple[str, ...] = ()
    cache: torch.Tensor = None


class FakeGenerator(Generator):
    """A fake: noise from (prompt, seed); runs out of memory above `memory` rows."""

    def __init__(self, memory: int | None = None, name: str = "fake") -> None:
        self.memory = memory
        self.name = name
        self.batches: list[int] = []

    def start(self, requests, seeds, sampling):
        if self.memory is not None and len(seeds) > self.memory:
            raise torch.OutOfMemoryError(f"{len(seeds)} rows do not fit")
        self.batches.append(len(seeds))
        pictures = [self._noise(f"{self.name}\0{r.prompt}\0{s}\0{sampling.guidance}")
                    for r, s in zip(requests, seeds, strict=True)]  # fmt: skip
        return FakeState(step=0, steps=sampling.steps or 2, seeds=tuple(seeds),
                         images=torch.stack(pictures))  # fmt: skip

    @staticmethod
    def _noise(key):
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1
        return torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))

    def advance(self, state):
        last = state.step + 1 == state.steps
        spent = state.charged([Cost(flops=10.0, row_steps=1, decodes=last)] * len(state.seeds))
        return replace(state, step=state.step + 1, costs=spent)

    def preview(self, state):
        return state.images

    def preview_cost(self, state):
        return Cost(flops=1.0, decodes=1)

    def select(self, state, rows):
        return replace(state, seeds=tuple(state.seeds[i] for i in rows),
                       images=state.images[list(rows)],
                       costs=tuple(state.costs[i] for i in rows))  # fmt: skip

    def finish(self, state):
        return quantise(state.images)

    def provenance(self):
        return {"id": self.name, "sha256": "0" * 64, "sampler": "none", "dtype": "float32",
                "device": "cpu",
                "defaults": {"steps": 2, "guidance": 1.0}}  # fmt: skip


class Walker(FakeGenerator):
    """A fake that draws as a next-scale model does: a step adds noise from (prompt, seed, step), a
    cache holds all of it. Counts rows a step, and rows decoded."""

    def __init__(self, name: str = "walker") -> None:
        super().__init__(name=name)
        self.rows: list[tuple[int, int]] = []
        self.decoded: list[tuple[int, int]] = []

    def start(self, requests, seeds, sampling):
        self.batches.append(len(seeds))
        zeros = torch.zeros(len(seeds), 3, SIDE, SIDE)
        return WalkState(step=0, steps=sampling.steps or 7, seeds=tuple(seeds), images=zeros,
                         prompts=tuple(r.prompt for r in requests),
                         cache=torch.zeros(len(seeds), 0, 3, SIDE, SIDE))  # fmt: skip

    def advance(self, state):
        self.rows.append((state.step, len(state.seeds)))
        noise = torch.stack([self._noise(f"{self.name}\0{prompt}\0{seed}\0{state.step}") - 0.5
                             for prompt, seed in zip(state.prompts, state.seeds, strict=True)]
                            )  # fmt: skip
        cache = torch.cat([state.cache, noise[:, None]], 1)
        return replace(super().advance(state), images=cache.sum(1), cache=cache)

    def preview(self, state):
        self.decoded.append((state.step - 1, len(state.seeds)))
        return (state.images / 4 + 0.5).clamp(0, 1)

    def select(self, state, rows):
        return replace(super().select(state, rows), cache=state.cache[list(rows)],
                       prompts=tuple(state.prompts[i] for i in rows))  # fmt: skip

    def finish(self, state):
        return quantise(self.preview(state))


class FakeScorer(Scorer):
    """A fake verdict: the picture's first pixel is bright enough."""

    gives_verdict = True

    def __init__(self, broken: bool = False, threshold: float = 0.5) -> None:
        self.broken = broken
        self.threshold = threshold

    def score(self, images, specs):
        assert len(images) == len(specs)
        return [self._one(float(image[0, 0, 0]), spec)
                for image, spec in zip(images, specs, strict=True)]  # fmt: skip

    def _one(self, value, spec):
        correct = value > self.threshold
        item = spec.include[0]
        reason = "" if correct else f"expected {item.cls}>={item.count}, found 0"
        return Score(value=float(correct), correct=correct, reason=reason,
                     details={item.cls: [[0.0, 0.0, 8.0, 8.0, round(value, 4)]]})  # fmt: skip

    def self_test(self):
        if self.broken:
            raise ScorerBroken("the fake scorer was told to be broken")

    def provenance(self):
        return {"id": "fake", "sha256": "1" * 64, "threshold": self.threshold}


class FakeSecond(Scorer):
    """A fake second opinion: the mean of the picture."""

    def score(self, images, specs):
        return [Score(value=float(image.double().mean())) for image in images]

    def self_test(self):
        pass

    def provenance(self):
        return {"id": "fake-second", "sha256": "2" * 64}


class FakeDetector:
    """Finds one dog where the first pixel is bright, and nothing where it is not."""

    def detect(self, images):
        mask = torch.ones(images.shape[-2:], dtype=torch.bool)
        dog = Found("dog", (0.0, 0.0, 8.0, 8.0), 0.95, mask)
        return [[dog] if float(image[0, 0, 0]) > 0.5 else [] for image in images]


class FakeColors:
    """Everything is red."""

    def classify(self, crops):
        return ["red"] * len(crops)


class FakeRewards(GenEvalScorer):
    """GenEval's rule over the fakes; pictures wider than `widest` are an error, as of a scorer
    that cannot take them."""

    def __init__(self, broken=False, widest=1000):
        super().__init__(FakeDetector(), FakeColors(), name="fake")
        self.broken, self.widest, self.calls = broken, widest, []

    def _batch(self, images, specs, rule):
        self.calls.append(len(images))
        if images.shape[-1] > self.widest:
            raise ValueError(f"{images.shape[-1]} pixels are too wide")
        return super()._batch(images, specs, rule)

    def self_test(self):
        if self.broken:
            raise ScorerBroken("the fake scorer was told to be broken")
