"""What a recipe says of surgery's trainings: its `regression`, `distillation` or `tuning`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from impasto.surgery.distillation import Losses
from impasto.surgery.regression import CRITERIA
from impasto.surgery.sensitivity import R_THRES
from impasto.train.loop import SCHEDULES
from impasto.zoo.registry import nearest

__all__ = ["Distillation", "Regression", "Tuning"]

SENSITIVITY = ("auto", "none", "graded", "binary")


def _among(value: Any, allowed: Sequence[str], what: str) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {what} {value!r}: {nearest(str(value), list(allowed))}")


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A recipe's `regression`. attention, mlp, blocks (pairs, intervals, blocks that lost parts):
    the loss of each kind of operator (`surgery.regression`), delta of huber's. gated: both sides
    times the branch's gate. held_out: pictures that are kept for the losses of before and after.
    """

    attention: str = "l1"
    mlp: str = "l2"
    blocks: str = "l1"
    delta: float = 1.0
    gated: bool = False
    clip: float = 10.0
    weight_decay: float = 0.0
    schedule: str = "halved"
    held_out: int = 512

    def __post_init__(self) -> None:
        for name in ("attention", "mlp", "blocks"):
            _among(getattr(self, name), CRITERIA, "loss")
        _among(self.schedule, list(SCHEDULES), "schedule")


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A recipe's `distillation`. task, output, features: weights of the losses
    (`surgery.distillation`). preserve: freeze what is before the first removed unit (PWP).
    sensitivity: "graded" by `scores`, the file of a contribution analysis (base: the whole
    network's score, where it has none), with kappa and cut_off in its units; "binary" by `range`,
    the first block that learns and the one after the last; "auto" either of them, whichever is
    given, where a quarter or more of the parameters is gone; or "none"."""

    task: float = 0.0
    output: float = 1.0
    features: float = 1e-4
    preserve: bool = True
    sensitivity: str = "auto"
    scores: str | None = None
    base: float | None = None
    kappa: float = 1.0
    cut_off: float = 0.1
    range: Sequence[int] | None = None
    clip: float = 1.0
    weight_decay: float = 1e-4
    ema: float = 0.0
    schedule: str = "constant"

    def __post_init__(self) -> None:
        _among(self.sensitivity, SENSITIVITY, "sensitivity")
        _among(self.schedule, list(SCHEDULES), "schedule")
        _ = self.losses
        needed = {"graded": "scores", "binary": "range"}.get(self.sensitivity)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"distillation: sensitivity {self.sensitivity} needs {needed}")

    @property
    def losses(self) -> Losses:
        return Losses(task=self.task, output=self.output, features=self.features)

    def way(self, compression: float) -> str:
        """none, graded or binary. Raises ValueError where "auto" has nothing to go by."""
        if self.sensitivity != "auto":
            return self.sensitivity
        if compression < R_THRES:
            return "none"
        given = [way for way, value in (("graded", self.scores), ("binary", self.range))
                 if value is not None]  # fmt: skip
        if len(given) != 1:
            raise ValueError(f"distillation: {compression:.1%} of the parameters is gone, and "
                             f"from {R_THRES:.0%} on updates are scaled by sensitivity: "
                             f"give either scores or range, or sensitivity: none")  # fmt: skip
        return given[0]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A recipe's `tuning`. rank: of low-rank additions to the linear layers below `targets`; none
    trains everything."""

    rank: int | None = None
    targets: Sequence[str] = ("attn", "ff")
    clip: float = 10.0
    weight_decay: float = 0.0
    ema: float = 0.9999
    schedule: str = "warm-up"

    def __post_init__(self) -> None:
        _among(self.schedule, list(SCHEDULES), "schedule")
