"""A pool: a run that kept every candidate, from which searches over candidates draw.

    pool        search `candidates:n=8`: sample j of a prompt is candidate j mod 8 of sample j // 8
    FromPool    the generator that has drawn already: a seed -> the pool's picture and its cost
    best of k   argmax_{i < k} r_i of the rewards that the pool kept, the lowest i among equals

A search over independent draws asks a generator for whole pictures by their seeds, and cannot tell
a pool from the model: its rule, its own seeds and its record are what they are without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from impasto.bench import read_results
from impasto.images import read_image
from impasto.run.directory import RunDirectory
from impasto.run.provenance import check_same
from impasto.run.values import score_values
from impasto.sample.protocol import Cost, Generator, Request, Sampling, State
from impasto.score.statistics import Outcome

__all__ = ["Choice", "FromPool", "Pool"]

SPENT = ("flops", "row_steps", "tokens", "decodes")
"""What drawing a picture costs, whatever is then asked about it."""
DECIDES = ("model", "sampling", "rewriter", "seed")
"""What a pool's record and that of a run drawn from it must share."""


@dataclass(frozen=True, kw_only=True)
class PooledState(State):
    """images: (B, 3, H, W), finished. paid: what each row costs, charged at the last step."""

    images: Tensor
    paid: tuple[Cost, ...]


@dataclass(frozen=True)
class Choice:
    """One picture to be chosen: its n candidates in order. values: by the bench's score. rewards:
    None where the pool kept none. flops, reward_flops: of drawing and rating each; None where the
    reward does not count its own."""

    task: str
    prompt: str
    sample: int
    values: tuple[float, ...]
    rewards: tuple[float, ...] | None
    flops: tuple[float, ...]
    reward_flops: tuple[float, ...] | None

    def best(self, k: int) -> Outcome:
        """The best of the first k by the rewards. Raises ValueError without rewards."""
        if self.rewards is None:
            raise ValueError("the pool kept no rewards, so there is nothing to choose by; give "
                             "it a reward")  # fmt: skip
        first = self.rewards[:k]
        return Outcome(self.task, self.prompt, self.sample, self.values[first.index(max(first))])


@dataclass(frozen=True)
class Pool:
    """A finished run of search `candidates`, read. Raises ValueError for another run."""

    run: RunDirectory

    def __post_init__(self) -> None:
        if "n" not in (self.search or {}) or self.samples % self.n:
            raise ValueError(f"{self.run.path} is no pool: it needs the search candidates:n=N and "
                             f"a multiple of N samples a prompt")  # fmt: skip

    @classmethod
    def at(cls, path: str | Path) -> Pool:
        return cls(RunDirectory.judged(path))

    @cached_property
    def record(self) -> dict[str, Any]:
        return self.run.record

    @property
    def search(self) -> Mapping[str, Any]:
        search: Mapping[str, Any] = self.record["search"]
        return search

    @property
    def n(self) -> int:
        return int(self.search["n"])

    @property
    def samples(self) -> int:
        return int(self.record["bench"]["samples_per_prompt"])

    @cached_property
    def drawn(self) -> dict[int, tuple[Path, dict[str, Any]]]:
        """A picture's own seed -> its file and how it was drawn."""
        found = {}
        for record in read_results(self.run.results):
            path = self.run.path / record.filename
            sample = self.run.sample(int(path.parts[-3]), record.sample)
            found[int(sample["seed"])] = path, sample
        return found

    @cached_property
    def steps(self) -> int:
        """Steps that the model takes, which a search's own chance depends on."""
        return max(int(sample["row_steps"]) for _, sample in self.drawn.values())

    @cached_property
    def choices(self) -> list[Choice]:
        """Every picture to be chosen, with its candidates."""
        places: dict[tuple[str, str, int], list[tuple[int, float, dict[str, Any]]]] = {}
        samples = (sample for _, sample in self.drawn.values())
        for one, sample in zip(score_values(self.run), samples, strict=True):
            place = one.task, one.prompt, one.sample // self.n
            places.setdefault(place, []).append((one.sample % self.n, one.value, sample))
        return [self._choice(place, sorted(found, key=lambda row: row[0]))
                for place, found in places.items()]  # fmt: skip

    def _choice(
        self, place: tuple[str, str, int], found: Sequence[tuple[int, float, dict[str, Any]]]
    ) -> Choice:
        rewards = tuple(sample["candidates"][0]["value"] for _, _, sample in found)
        asked = tuple(sample["reward_flops"] for _, _, sample in found)
        return Choice(*place, values=tuple(value for _, value, _ in found),
                      rewards=None if None in rewards else rewards,
                      flops=tuple(float(sample["flops"]) for _, _, sample in found),
                      reward_flops=None if None in asked else asked)  # fmt: skip

    def best(self, k: int) -> list[Outcome]:
        """What best-of-k keeps. Raises ValueError for a k that is not 1 to n."""
        if not 1 <= k <= self.n:
            raise ValueError(f"the pool holds {self.n} candidates a picture, not {k}")
        return [choice.best(k) for choice in self.choices]

    @cached_property
    def counts_rewards(self) -> bool:
        """Whether what rating cost is known."""
        return all(choice.reward_flops is not None for choice in self.choices)

    def flops(self, k: int, rewards: bool = False) -> float:
        """Mean FLOPs of best-of-k: of drawing the first k candidates, and with `rewards` of
        rating them, which one alone does not need."""
        drawn = sum(sum(choice.flops[:k]) for choice in self.choices)
        if rewards and k > 1:
            drawn += sum(sum((choice.reward_flops or ())[:k]) for choice in self.choices)
        return drawn / len(self.choices)


class FromPool(Generator):
    """The generator whose pictures a pool holds, without drawing any.

    It gives whole pictures only, and those that are there: unfinished ones and a seed that the
    pool has not are refused, so no search is quietly made dearer or another.
    """

    has_preview = False

    def __init__(self, generator: Generator, pool: Pool) -> None:
        """generator: whose record this has; it is not called."""
        self.generator, self.pool = generator, pool

    def check(self, record: Mapping[str, Any]) -> None:
        """Raises SettingsDiffer unless the run of this record would draw the pool's pictures."""
        pooled, wanted = ({key: of[key] for key in DECIDES} for of in (self.pool.record, record))
        check_same(pooled, wanted, self.pool.run.path)

    def start(
        self, requests: Sequence[Request], seeds: Sequence[int], sampling: Sampling
    ) -> PooledState:
        """Raises ValueError for a seed whose picture is not in the pool."""
        if unknown := [seed for seed in seeds if seed not in self.pool.drawn]:
            raise ValueError(f"{self.pool.run.path} does not hold the picture of seed "
                             f"{unknown[0]}; it has {self.pool.n} candidates of each picture of "
                             f"its own bench and seed")  # fmt: skip
        held = [self.pool.drawn[seed] for seed in seeds]
        return PooledState(
            step=0, steps=self.pool.steps, seeds=tuple(seeds),
            images=torch.stack([read_image(path) for path, _ in held]),
            paid=tuple(Cost(**{key: drawn[key] for key in SPENT}) for _, drawn in held),
        )  # fmt: skip

    def advance(self, state: PooledState) -> PooledState:
        last = state.step + 1 == state.steps
        costs = state.charged(state.paid) if last else state.costs
        return replace(state, step=state.step + 1, costs=costs)

    def preview(self, state: PooledState) -> Tensor:
        """There is none. Raises ValueError."""
        raise ValueError(f"{self.pool.run.path} holds finished pictures, so a search that looks "
                         f"at unfinished ones cannot draw from it; leave `pool` out")  # fmt: skip

    def preview_cost(self, state: PooledState) -> Cost:
        """Nothing: there is none."""
        return Cost()

    def select(self, state: PooledState, rows: Sequence[int]) -> PooledState:
        return replace(state, seeds=tuple(state.seeds[i] for i in rows),
                       costs=tuple(state.costs[i] for i in rows),
                       paid=tuple(state.paid[i] for i in rows),
                       images=state.images[list(rows)])  # fmt: skip

    def finish(self, state: PooledState) -> Tensor:
        return state.images

    def provenance(self) -> dict[str, Any]:
        return self.generator.provenance()
