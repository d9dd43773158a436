"""What to remove: units ranked by how well a model does without them, taken to a budget.

A unit is a component c of block i, or all of it; P(i, c) the quality without it, dP(i, c) =
P(i, c) - P_orig (`contribution.py`), B the number of blocks.

    HPP (HierarchicalPrune, arXiv 2508.04663): the highest score first,
        Score(i, c) = -|dP(i, c)| W(i)
        late       W(i) = exp((B - i) / B)    what the text intends: of equals the later goes first
        printed    W(i) = exp((i - B) / B)    as printed, which favours early units
    by score       P itself, highest first: what the released code does, with eligible blocks in
                   place of W; over whole blocks and CLIP scores that is BK-SDM's (2305.15798)
    by similarity  the cosine of a block's input and output, highest first: KOALA's (2312.04005)
    at random      the floor

Scores are of single removals and are not measured again on the way.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from impasto.models.edited.hosts import Host, parameters
from impasto.surgery.contribution import Contributions, Unit
from impasto.surgery.presets import Removed

__all__ = ["POSITIONS", "Plan", "at_random", "by_score", "by_similarity", "collapsed", "greedy",
           "hpp", "units"]  # fmt: skip

POSITIONS = {"late": lambda i, B: math.exp((B - i) / B),
             "printed": lambda i, B: math.exp((i - B) / B)}  # fmt: skip


def units(host: Host, *, whole: bool = False) -> list[Unit]:
    """What can be removed and has parameters: every component, or (whole) every block."""
    return [(i, name) for i in range(host.depth)
            for name in (("all",) if whole else host.components(i))
            if host.count(i, name)]  # fmt: skip


def hpp(contributions: Contributions, depth: int, position: str = "late") -> list[Unit]:
    """Units, most prunable first. depth: B. position: "late" or "printed". Raises ValueError for
    another one, a unit beyond B, or scores whose base is not known."""
    if position not in POSITIONS:
        raise ValueError(f"position must be one of {', '.join(POSITIONS)}, given {position!r}")
    drops, weight = contributions.drops, POSITIONS[position]
    if beyond := sorted(unit for unit in drops if unit[0] >= depth):
        raise ValueError(f"there are scores of block {beyond[0][0]}, and blocks are 0 to "
                         f"{depth - 1}; these scores are another model's")  # fmt: skip
    return sorted(drops, key=lambda unit: (abs(drops[unit]) * weight(unit[0], depth), unit))


def by_score(contributions: Contributions) -> list[Unit]:
    """Units, the highest P first."""
    return [*contributions.scores]


def by_similarity(cosines: Sequence[float]) -> list[Unit]:
    """Whole blocks, the highest similarity first. cosines: one a block
    (`redundancy.similarities`)."""
    return [(i, "all") for i in sorted(range(len(cosines)), key=lambda i: (-cosines[i], i))]


def at_random(candidates: Iterable[Unit], seed: int) -> list[Unit]:
    """The candidates, shuffled."""
    return random.Random(seed).sample(order := sorted(candidates), len(order))


@dataclass(frozen=True)
class Plan:
    """What is removed of a host, and parameters before and after."""

    removed: Removed
    before: int
    after: int

    @cached_property
    def share(self) -> float:
        """Parameters left, from 0 to 1."""
        return self.after / self.before

    @classmethod
    def of(cls, host: Host, removed: Removed) -> Plan:
        """Raises ValueError for blocks or components that there are not."""
        before = parameters(host.model)
        gone = sum(host.count(i, name) for i, names in removed.items() for name in names)
        return cls(removed, before, before - gone)


def collapsed(host: Host, removed: Removed) -> dict[int, tuple[str, ...]]:
    """Blocks of which nothing would be left are removed whole; others keep their components, in
    the host's order."""
    found: dict[int, tuple[str, ...]] = {}
    for i, names in removed.items():
        every = [name for name in host.components(i) if host.count(i, name)]
        nothing = sum(host.count(i, name) for name in every) == host.count(i, "all")
        if "all" in names or (nothing and set(every) <= set(names)):
            found[i] = ("all",)
        else:
            found[i] = tuple(sorted(names, key=[*host.components(i), *names].index))
    return found


def greedy(
    host: Host, ranking: Iterable[Unit], budget: float, *, first: Removed | None = None,
    eligible: Collection[int] | None = None, exclude: Collection[str] = (),
) -> Plan:  # fmt: skip
    """Remove the units of a ranking in their order until less than `budget` of the parameters is
    left.

    first: what is removed before (hybrid). eligible: blocks that the ranking may take from
    (None: all); exclude: components that stay. A block whose last component goes is removed whole.
    Raises ValueError for a budget outside (0, 1), blocks that there are not, and where the
    ranking does not reach so far.
    """
    if not 0 < budget < 1:
        raise ValueError(f"budget is the share of parameters left, between 0 and 1, given "
                         f"{budget!r}")  # fmt: skip
    for i in eligible or ():
        host.path(i)
    known = {name for i in range(host.depth) for name in host.components(i)} | {"all"}
    if unknown := sorted(set(exclude) - known):
        raise ValueError(f"no block has a component {unknown[0]!r} to exclude; allowed: "
                         f"{', '.join(sorted(known))}")  # fmt: skip
    chosen = collapsed(host, first or {})
    order = iter(ranking)
    while (plan := Plan.of(host, chosen)).share >= budget:
        unit = next((unit for unit in order
                     if _takes(host, unit, chosen, eligible, exclude)), None)  # fmt: skip
        if unit is None:
            raise ValueError(f"the units allowed leave {plan.share:.2%} of the parameters, and "
                             f"the budget is less than {budget:.2%}; allow more blocks or "
                             f"components, or give scores of more units")  # fmt: skip
        i, name = unit
        chosen[i] = ("all",) if name == "all" else (*chosen.get(i, ()), name)
        chosen = collapsed(host, chosen)
    return plan


def _takes(
    host: Host, unit: Unit, chosen: Removed, eligible: Collection[int] | None,
    exclude: Collection[str],
) -> bool:  # fmt: skip
    i, name = unit
    had = chosen.get(i, ())
    return ((eligible is None or i in eligible) and name not in exclude
            and name not in had and "all" not in had and host.count(i, name) > 0)  # fmt: skip
