"""How rows are chosen by their rewards.

    best        argmax_i r_i                              the lowest i among equals
    resample    i_1 … i_k ~ p,  p_i = exp(lam phi_i) / sum_j exp(lam phi_j),  with replacement
                or without: the k largest log p_i + g_i, g_i of Gumbel's distribution

with the potential phi of a row's rewards r_0 … r_s, those of the steps after which it was scored:

    value   r_s      diff   r_s - r_(s-1), r_0 at first      max   max_t r_t      sum   sum_t r_t

(TTS-VAR, arXiv 2507.18537. Its diff is of neighbouring scales; here of neighbouring scored ones,
since a picture is decoded only where a choice needs it.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from impasto.sample.seeds import row_uniforms
from impasto.search.engine import Chosen, Population, Selector
from impasto.search.reward import Reward
from impasto.zoo.registry import nearest

__all__ = ["POTENTIALS", "Best", "Only", "Resample", "distinct", "drawn_by", "resampled",
           "shares"]  # fmt: skip

POTENTIALS: dict[str, Callable[[Sequence[float]], float]] = {
    "value": lambda history: history[-1],
    "diff": lambda history: history[-1] - history[-2] if len(history) > 1 else history[-1],
    "max": max,
    "sum": sum,
}
"""Name -> phi of a row's rewards so far, the newest last."""


def shares(potentials: Sequence[float], lam: float) -> np.ndarray:
    """p_i ∝ exp(lam phi_i), (B,) float64, by log-sum-exp.

    As the official code guards its weights: one that is NaN counts 0 and all others 1; those that
    are infinite share all; where all are zero they are equal.
    """
    with np.errstate(invalid="ignore"):
        logs = lam * np.asarray(potentials, dtype=np.float64)
    if np.isnan(logs).any():
        weights = (~np.isnan(logs)).astype(np.float64)
    elif np.isposinf(logs).any():
        weights = np.isposinf(logs).astype(np.float64)
    elif np.isneginf(logs).all():
        weights = np.zeros_like(logs)
    else:
        weights = np.exp(logs - logs.max())
    total = weights.sum()
    return weights / total if total else np.full_like(weights, 1 / len(weights))


def resampled(p: np.ndarray, keep: int, seed: int) -> tuple[int, ...]:
    """`keep` indices drawn with these probabilities, with replacement, ascending."""
    drawn = drawn_by(p, row_uniforms([seed], keep)[0].numpy())
    return tuple(sorted(int(i) for i in drawn))


def distinct(p: np.ndarray, keep: int, seed: int) -> tuple[int, ...]:
    """`keep` different indices, one after another with these probabilities among those left,
    ascending; those without any come last (Efraimidis and Spirakis 2006)."""
    u = row_uniforms([seed], len(p))[0].numpy()
    with np.errstate(divide="ignore"):
        keys = np.log(p) - np.log(-np.log(np.maximum(u, 1e-300)))
    return tuple(sorted(int(i) for i in np.argsort(-keys, kind="stable")[:keep]))


def drawn_by(weights: np.ndarray, u: np.ndarray | float) -> np.ndarray:
    """Indices drawn with probability ∝ weights (B,), by uniform numbers u in [0, 1)."""
    edges = np.cumsum(weights)
    return np.searchsorted(edges, np.minimum(u * edges[-1], np.nextafter(edges[-1], 0)), "right")


class Only(Selector):
    """The one row that there is."""

    kind = "final"

    def __call__(self, population: Population, keep: int) -> Chosen:
        return Chosen((0,))

    def provenance(self) -> dict[str, Any]:
        return {}


class Best(Selector):
    """The finished picture with the highest reward."""

    kind = "final"

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    def __call__(self, population: Population, keep: int) -> Chosen:
        values = self.reward(population.images, population.draw.spec)
        return Chosen((values.index(max(values)),), values,
                      cost=self.reward.cost(population.images))  # fmt: skip

    def provenance(self) -> dict[str, Any]:
        return {"reward": self.reward.provenance()}


class Resample(Selector):
    """Rows drawn by their potential. lam: the weight of a unit of it. copies: with replacement.

    kind: "resample" on the way. Raises ValueError for an unknown potential or a lam that is
    negative or infinite.
    """

    def __init__(
        self, reward: Reward, potential: str = "value", lam: float = 10.0, *,
        copies: bool = True, kind: str = "resample",
    ) -> None:  # fmt: skip
        if potential not in POTENTIALS:
            raise ValueError(f"unknown potential {potential!r}: "
                             f"{nearest(str(potential), list(POTENTIALS))}")  # fmt: skip
        if isinstance(lam, bool) or not isinstance(lam, int | float) or not 0 <= lam < np.inf:
            raise ValueError(f"lam must be a finite number >= 0, given {lam!r}; 0 draws without "
                             f"regard to rewards")  # fmt: skip
        self.reward, self.potential, self.lam = reward, potential, float(lam)
        if not isinstance(copies, bool):
            raise ValueError(f"copies must be true or false, given {copies!r}")
        self.copies, self.kind = copies, kind  # type: ignore[misc]

    def __call__(self, population: Population, keep: int) -> Chosen:
        where = "" if self.kind == "final" else f" after step {population.step}"
        values = self.reward(population.images, population.draw.spec, where)
        phi = POTENTIALS[self.potential]
        potentials = tuple(float(phi((*past, value)))
                           for past, value in zip(population.histories, values, strict=True))
        seed = population.draw.choice_seed(population.step)
        draw = resampled if self.copies else distinct
        kept = draw(shares(potentials, self.lam), keep, seed)
        return Chosen(kept, values, potentials, self.reward.cost(population.images))

    def provenance(self) -> dict[str, Any]:
        return {"potential": self.potential, "lam": self.lam, "copies": self.copies,
                "reward": self.reward.provenance()}  # fmt: skip
