"""What every training here shares: optimiser, schedule, moving average, progress."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from impasto.train import processes
from impasto.train.checkpoint import Carried, Checkpoint, load_optimizer

__all__ = [
    "SCHEDULES",
    "CodebookCollapse",
    "Loop",
    "NonFiniteLoss",
    "constant",
    "halved",
    "learning_rate",
    "mixed",
    "within",
]  # fmt: skip


class NonFiniteLoss(RuntimeError):
    """The loss or a weight is NaN or infinite: training stops and nothing more is saved."""


class CodebookCollapse(RuntimeError):
    """Nearly all features are given the same few codes: training stops."""


CLOCK = 10
"""Steps between two looks at process 0's clock, where several processes train."""


EXACT = {"cpu"}
"""Devices that train in float32."""


def mixed(device: torch.device) -> torch.autocast:
    """Products and convolutions in bfloat16, but not on a processor: without instructions for it
    a convolution there takes some 50 times as long as in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type not in EXACT)


def learning_rate(progress: float, warmup: float = 0.02) -> float:
    """Factor in [0, 1]: linear warm-up, then cosine to zero; `progress` in [0, 1]."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


def warmed(progress: float, warmup: float = 0.02) -> float:
    """Factor in [0, 1]: linear warm-up, then 1 (grafting, stage 2)."""
    return min(progress / warmup, 1.0)


def halved(progress: float) -> float:
    """Factor in (0, 1]: halved after every quarter (grafting, stage 1)."""
    return 0.5 ** min(int(4 * progress), 3)


SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "cosine": learning_rate, "constant": constant, "halved": halved, "warm-up": warmed,
}


def within(name: str, path: str) -> bool:
    """Whether the module or parameter of this dotted name is at `path` or below it."""
    return f"{name}.".startswith(f"{path}.")


@dataclass
class Loop:
    """Drives `steps` optimiser steps over `model`; `ema` holds the moving average.

    betas and weight decay are AdamW's; decay applies to matrices only, and not to those whose
    names hold one of `undecayed`. minutes: when given, the schedule runs over that time instead,
    and `steps` becomes the count that came out. last_good: where the last checkpoint is, in words.
    checkpoint: what makes the training go on where it stopped; carried: by name, what it must hold
    beside the model, all of it there before the first step.
    schedule: progress -> factor of the learning rate. factors: dotted path -> a further factor
    for what is below it (the longest path counts). clip: largest norm of the gradient, over all
    parameters but those below a path of `apart`, each of which has a norm of its own.
    Where several processes train, every one makes the same steps, by process 0's clock.
    """

    model: nn.Module
    steps: int
    lr: float
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    ema_decay: float = 0.999
    minutes: float | None = None
    log_every: float = 10.0
    undecayed: tuple[str, ...] = ()
    name: str = "train"
    step: int = 0
    last_good: str = "no checkpoint was written before"
    averaged: list[Tensor] = field(default_factory=list, repr=False)
    checkpoint: Checkpoint | None = None
    carried: dict[str, Carried] = field(default_factory=dict, repr=False)
    schedule: Callable[[float], float] = learning_rate
    clip: float = 1.0
    factors: Mapping[str, float] = field(default_factory=dict)
    apart: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError(f"{self.name}: no parameter of the {type(self.model).__name__} is to "
                             f"learn: let some require gradients")  # fmt: skip
        params: list[Tensor] = list(named.values())
        decayed = {name for name, p in named.items()
                   if p.ndim > 1 and not any(part in name for part in self.undecayed)}  # fmt: skip
        factor = {name: self.factors.get(_longest(name, self.factors), 1.0) for name in named}
        groups = [
            {"params": [p for name, p in named.items()
                        if factor[name] == one and (name in decayed) == yes],
             "weight_decay": self.weight_decay if yes else 0.0, "factor": one}
            for one in dict.fromkeys([1.0, *factor.values()]) for yes in (True, False)
        ]  # fmt: skip
        clipped: dict[str, list[Tensor]] = {}
        for name, param in named.items():
            clipped.setdefault(_longest(name, self.apart), []).append(param)
        self._clipped = list(clipped.values())
        fused = params[0].is_cuda
        self.optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=fused)
        self.params = params
        self.averaged = [p.detach().clone() for p in params]
        self._start = self._last = time.monotonic()
        self._passed = 0.0

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        return self.step / self.steps if self.minutes is None else self._passed

    @property
    def running(self) -> bool:
        """Whether another step is to be made. Ask once a step: it looks at the clock, and it is
        here that a training goes on from its checkpoint, and writes the next."""
        if self.checkpoint is not None:
            self.checkpoint.visit(self)
        if self.minutes is not None and (processes.count() == 1 or self.step % CLOCK == 0):
            passed = (time.monotonic() - self._start) / (60 * self.minutes)
            self._passed = processes.shared(min(passed, 1.0))
        done = self.progress >= 1 if self.minutes is not None else self.step >= self.steps
        if done:
            self.steps = self.step
            if self.checkpoint is not None:
                self.checkpoint.leave()
        return not done

    def update(self, loss: Tensor, parts: Mapping[str, Tensor] | None = None) -> None:
        """One optimiser step from `loss`; `parts` are scalars to show now and then.

        Raises NonFiniteLoss, when progress is shown.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.apply(loss, parts)

    def apply(self, loss: Tensor, parts: Mapping[str, Tensor] | None = None) -> None:
        """`update` by the gradients that the parameters have already."""
        factor = self.schedule(self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor * group.get("factor", 1.0)
        processes.average_gradients(self.params)
        for params in self._clipped:
            nn.utils.clip_grad_norm_(params, self.clip)
        self.optimizer.step()
        self.step += 1
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, self.params, 1 - decay)
        if not processes.first():
            return
        if time.monotonic() - self._last > self.log_every or self.step in (1, self.steps):
            self._show(float(loss.detach()), parts or {})

    def _show(self, loss: float, parts: Mapping[str, Tensor]) -> None:
        if not math.isfinite(loss):
            raise NonFiniteLoss(f"{self.name}: loss is {loss} at step {self.step}; "
                                f"{self.last_good}")  # fmt: skip
        self._last = time.monotonic()
        text = " ".join(f"{name} {float(value):.4f}" for name, value in parts.items())
        speed = self.step / max(self._last - self._start, 1e-9)
        print(f"{self.name} {self.progress:6.1%} step {self.step} loss {loss:.4f} {text} "
              f"({speed:.1f} steps/s)", flush=True)  # fmt: skip

    @torch.no_grad()
    def start_over(self, param: Tensor, rows: Tensor) -> None:
        """Rows (bool) of a parameter were set by hand: their moving average starts there."""
        for own, average in zip(self.params, self.averaged, strict=True):
            if own is param:
                average[rows] = own[rows]

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The model with its moving average for the block, then as it was."""
        kept = [p.detach().clone() for p in self.params]
        self.load_average()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.params, kept)

    def save_if_due(self, save: Callable[[], str | None], every: int) -> None:
        """Every `every` steps (0: never) call `save`, which may say where, with the average
        loaded.

        Raises NonFiniteLoss instead of saving what is not finite.
        """
        if not every or self.step % every or not processes.first():
            return
        with self.averaged_weights():
            where = save() or "the saved model"
        self.last_good = f"the last good checkpoint is {where}, of step {self.step}"

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on, beside random numbers and what is carried."""
        return {"step": self.step, "passed": self._passed,
                "seconds": time.monotonic() - self._start, "model": self.model.state_dict(),
                "averaged": self.averaged, "optimizer": self.optimizer.state_dict(),
                "learning": [p.requires_grad for p in self.params]}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`'s. Raises RuntimeError for another model's."""
        self.model.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        with torch.no_grad():
            for own, value in zip(self.averaged, state["averaged"], strict=True):
                own.copy_(value)
        for param, learning in zip(self.params, state["learning"], strict=True):
            param.requires_grad_(learning)
        self.step, self._passed = state["step"], state["passed"]
        self._start = time.monotonic() - state["seconds"]

    def require_finite(self) -> None:
        """Raises NonFiniteLoss when the moving average is not finite."""
        if not all(bool(torch.isfinite(average).all()) for average in self.averaged):
            raise NonFiniteLoss(f"{self.name}: weights are not finite at step {self.step}; "
                                f"{self.last_good}")  # fmt: skip

    @torch.no_grad()
    def load_average(self) -> None:
        """Put the moving average into the model: the weights to keep.

        Raises NonFiniteLoss when they are not finite.
        """
        self.require_finite()
        for param, average in zip(self.params, self.averaged, strict=True):
            param.copy_(average)


def _longest(name: str, paths: Iterable[str]) -> str:
    """The longest of the paths that `name` is within; "" for none."""
    return max((path for path in paths if within(name, path)), key=len, default="")
