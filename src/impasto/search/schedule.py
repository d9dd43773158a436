"""How many rows are alive at which step, and where rows are chosen: TTS-VAR's schedule.

The schedule of K steps has K entries b_s, each times N. b_0 rows are begun; a choice is made after
step s has been drawn, and b_s rows go on from it. So the rows that step s is drawn for are b_0 at
s = 0 and b_(s-1) after it: for the published one of 13 scales N times

    entries   8 8 6 6 6 4 2 2 2 1 1 1 1      clusters after 2 and 5, resampling after 6 and 9
    drawn     8 8 8 6 6 6 4 2 2 2 1 1 1

For K steps (scales, or steps of a diffusion) the default is the same path, 8 -> 6 -> 4 -> 2 -> 1,
with the choices at the same part of the way: after ceil(K i / 13) steps for i = 3, 6, 7, 10, and
one step later where two would fall together. 13 steps give the published schedule, 7 steps
8 8→6 6 6→4 4→2 2→1 1: clusters after 1 and 3, resampling after 4 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Plan", "default_steps", "plan"]

START, PATH = 8, (6, 4, 2, 1)
"""Rows begun and kept after each choice, for N = 1."""
PLACES = (3, 6, 7, 10)
"""Scales drawn of the published 13 before each choice."""


class Plan(NamedTuple):
    """start: rows begun. stops: step -> (kind, rows kept), kind "cluster" or "resample"."""

    start: int
    stops: dict[int, tuple[str, int]]


def default_steps(steps: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cluster steps and resample steps, 0-based, of a drawing of so many steps.

    Raises ValueError for fewer than 6 steps: four choices and an end do not fit.
    """
    found: list[int] = []
    for place in PLACES:
        found.append(max(math.ceil(steps * place / 13), (found or [0])[-1] + 1))
    if found[-1] >= steps:
        raise ValueError(f"there is no default schedule for {steps} steps (at least 6 are "
                         f"needed); give schedule, cluster and resample, as {_example(steps)}"
                         )  # fmt: skip
    at = [number - 1 for number in found]
    return tuple(at[:2]), tuple(at[2:])


def _example(steps: int) -> str:
    if steps < 3:
        return "no schedule can: at least 3 steps are needed for a choice on the way"
    return f"schedule={'/'.join(['2', *['1'] * (steps - 1)])},cluster=none,resample=1"


def plan(
    steps: int, n: int, schedule: Sequence[int] | None = None,
    cluster: Sequence[int] | None = None, resample: Sequence[int] | None = None,
) -> Plan:  # fmt: skip
    """The plan of a drawing of `steps` steps, checked. None: the default.

    schedule: entries for N = 1. Without one the choices, in their order, leave 6, 4, 2 and 1 of 8
    rows; clusters alone leave 6 and 4, resampling alone 2 and 1.
    Raises ValueError that says which entry or step is wrong.
    """
    if schedule is not None and len(schedule) != steps:
        raise ValueError(f"the schedule has {len(schedule)} entries for a drawing of {steps} "
                         f"steps; give one entry a step")  # fmt: skip
    if cluster is None or resample is None:
        default = default_steps(steps)
        cluster = default[0] if cluster is None else cluster
        resample = default[1] if resample is None else resample
    kinds = _kinds(steps, cluster, resample)
    if schedule is None:
        start, kept = START, dict(zip(kinds, _path(kinds, cluster, resample), strict=True))
    else:
        start, kept = schedule[0], _kept(schedule, kinds)
    _check_path(start, kept)
    return Plan(n * start, {step: (kinds[step], n * rows) for step, rows in kept.items()})


def _kinds(steps: int, cluster: Sequence[int], resample: Sequence[int]) -> dict[int, str]:
    """Step -> kind, ascending. Raises ValueError for steps that cannot be chosen at."""
    for name, given in (("cluster", cluster), ("resample", resample)):
        for step in given:
            if isinstance(step, bool) or not isinstance(step, int) or not 0 < step < steps - 1:
                raise ValueError(f"{name} step {step!r} is out of range: of {steps} steps (0 to "
                                 f"{steps - 1}) rows can be chosen after 1 to {steps - 2}; after "
                                 f"the last the best is taken anyway")  # fmt: skip
        if len(set(given)) != len(given):
            raise ValueError(f"{name} steps {_told(given)} repeat one")
    if both := sorted(set(cluster) & set(resample)):
        raise ValueError(f"step {both[0]} cannot be both a cluster step and a resample step")
    if not cluster and not resample:
        raise ValueError("without cluster steps and resample steps there is nothing to choose on "
                         "the way; take best-of-n")  # fmt: skip
    kinds = dict.fromkeys(cluster, "cluster") | dict.fromkeys(resample, "resample")
    return dict(sorted(kinds.items()))


def _path(
    kinds: dict[int, str], cluster: Sequence[int], resample: Sequence[int]
) -> tuple[int, ...]:
    """Rows kept after each choice where no schedule says so."""
    if len(kinds) == len(PATH):
        return PATH
    if len(kinds) == 2 and not (cluster and resample):
        return PATH[:2] if cluster else PATH[2:]
    raise ValueError(f"there is no default schedule for cluster steps {_told(cluster)} and "
                     f"resample steps {_told(resample)}; give schedule, one entry a step")


def _kept(schedule: Sequence[int], kinds: dict[int, str]) -> dict[int, int]:
    """Rows kept after each choice. Raises ValueError for entries that are no numbers of rows, or
    that change where nothing is chosen."""
    for entry in schedule:
        if isinstance(entry, bool) or not isinstance(entry, int) or entry < 1:
            raise ValueError(f"schedule {_told(schedule)}: {entry!r} is not a number of rows >= 1")
    for step in range(1, len(schedule)):
        before, after = schedule[step - 1 : step + 1]
        if after > before:
            raise ValueError(f"schedule {_told(schedule)} grows at step {step} ({before} to "
                             f"{after}); rows can only be given up")  # fmt: skip
        if after < before and step not in kinds:
            raise ValueError(f"schedule {_told(schedule)} drops from {before} to {after} at step "
                             f"{step}, which is neither a cluster step nor a resample step")
    return {step: schedule[step] for step in kinds}


def _check_path(start: int, kept: dict[int, int]) -> None:
    """Raises ValueError where a choice does not leave fewer rows than there were."""
    before = start
    for step, rows in kept.items():
        if rows >= before:
            raise ValueError(f"step {step} would keep {rows} of {before} rows: a choice must "
                             f"leave fewer (there cannot be as many clusters as candidates, nor "
                             f"more); give a schedule that goes down there")  # fmt: skip
        before = rows


def _told(given: Sequence[int]) -> str:
    return "/".join(map(str, given)) or "none"
