"""What modules of a host are given and give, as one pass of it gets there.

A scion is called with what its operator is given, at once, so no two scions' activations are in
memory together, and what is not finite is noticed without waiting for the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from impasto.train.loop import NonFiniteLoss, mixed

__all__ = ["Gates", "Listeners", "NonFiniteActivation", "Watch", "compiled", "streams"]

Gates = Mapping[str, Sequence[tuple[str, int] | None]]
"""Target -> for each of its streams, the module that makes its gate (B, D), and which of that
module's outputs it is; None for a stream without."""


class NonFiniteActivation(NonFiniteLoss):
    """The host gave NaN or infinity, or a scion did: the message names where and when."""


def streams(output: Any) -> tuple[Tensor | None, ...]:
    """The tensors that an operator gives: one, or several such as (image, text) of a joint
    attention; None where a stream ends."""
    return (output,) if isinstance(output, Tensor) else tuple(output)


@dataclass
class _Tap:
    """Between a target and who wants to know: `give` is called with the arguments, the keyword
    arguments and the output, as the host's pass gets there."""

    target: str
    give: Callable[[str, tuple[Any, ...], dict[str, Any], Any], None]
    given: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.given = args, kwargs

    def leave(self, _: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.given is None:
            raise ValueError(f"{self.target}: the host calls the last before the first; the first "
                             f"must come first")  # fmt: skip
        (args, kwargs), self.given = self.given, None
        self.give(self.target, args, kwargs, output)


def _module(host: nn.Module, path: str) -> nn.Module:
    try:
        return host.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"{type(host).__name__} has no module {path!r} ({error})") from None


@contextlib.contextmanager
def compiled(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While it lasts, what the modules do goes through torch.compile; hooks stay outside."""
    there = list(modules)
    for module in there:
        module.forward = torch.compile(module.forward)
    try:
        yield
    finally:
        for module in there:
            vars(module).pop("forward", None)


@contextlib.contextmanager
def _tapped(host: nn.Module, targets: Iterable[str], give: Callable[..., None]) -> Iterator[None]:
    """With `give` called at every target. Raises ValueError for one that is not there."""
    handles = []
    try:
        for target in targets:
            first, _, last = target.partition(">")
            tap = _Tap(target, give)
            entered, left = _module(host, first), _module(host, last or first)
            handles += [entered.register_forward_pre_hook(tap.enter, with_kwargs=True),
                        left.register_forward_hook(tap.leave, with_kwargs=True)]  # fmt: skip
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class Watch:
    """Which target was the first to have something not finite, without waiting for the device."""

    device: torch.device
    bad: dict[str, Tensor] = field(default_factory=dict)

    def see(self, what: str, step: int, values: Iterable[Tensor | None]) -> None:
        for value in values:
            if value is not None:
                never = torch.full((), -1, dtype=torch.int64, device=value.device)
                before, fine = self.bad.get(what, never), torch.isfinite(value).all()
                self.bad[what] = torch.where(fine | (before >= 0), before, step)

    def look(self) -> None:
        """Raises NonFiniteActivation."""
        steps = torch.stack(list(self.bad.values())).tolist() if self.bad else []
        found = [(step, what) for what, step in zip(self.bad, steps, strict=True) if step >= 0]
        if found:
            step, what = min(found, key=lambda pair: pair[0])  # of one step, the first in the pass
            raise NonFiniteActivation(
                f"step {step}: {what} gave NaN or infinity; try bfloat16 or float32 instead of "
                f"float16, a smaller lr, or other weights of the host")  # fmt: skip


def _differences(
    target: str, given: Any, wanted: Any, gates: Sequence[Tensor | None]
) -> list[tuple[Tensor, Tensor]]:
    """The streams (scion's, host's) that both have, multiplied by their gates: a last block's text
    may be None. Raises ValueError for a scion that gives something else than its operator."""
    a, b = streams(given), streams(wanted)
    shapes = [[None if x is None else tuple(x.shape) for x in side] for side in (a, b)]
    both = [(x, y) for x, y in zip(*shapes, strict=False) if None not in (x, y)]
    if len(a) != len(b) or not both or any(x != y for x, y in both):
        raise ValueError(f"{target}: the scion gives shapes {shapes[0]}, the host's operator "
                         f"{shapes[1]}; they must be the same")  # fmt: skip
    if gates and len(gates) != len(b):
        raise ValueError(f"{target} gives {len(b)} streams; name as many gates, not {len(gates)}")
    pairs = []
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        if x is not None and y is not None:
            gate = gates[i] if gates else None
            scale = 1 if gate is None else gate[:, None]
            pairs.append((scale * x, scale * y))
    return pairs


@dataclass
class Listeners:
    """Calls each scion with what its operator is given, and hands both sides on."""

    scions: Mapping[str, nn.Module]
    gates: Gates
    use: Callable[[str, list[tuple[Tensor, Tensor]]], None]
    watch: Watch
    learning: bool = False
    step: int = 0
    made: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    @property
    def places(self) -> set[tuple[str, int]]:
        return {each for found in self.gates.values() for each in found if each}

    def __call__(self, target: str, args: Any, kwargs: Any, output: Any) -> None:
        given = (*args, *kwargs.values())
        self.watch.see(f"what reaches {target}", self.step,
                       (x for x in given if isinstance(x, Tensor)))  # fmt: skip
        self.watch.see(target, self.step, streams(output))
        gates = [self.made[each] if each else None for each in self.gates.get(target, ())]
        with torch.set_grad_enabled(self.learning):
            own = self.scions[target](*args, **kwargs)
            self.watch.see(f"the scion of {target}", self.step, streams(own))
            self.use(target, _differences(target, own, output, gates))

    def gate(self, path: str, _: nn.Module, __: Any, output: Any) -> None:
        for of, place in self.places:
            if of == path:
                made = streams(output)
                gate = made[place] if place < len(made) else None
                if gate is None or gate.ndim != 2:
                    raise ValueError(f"output {place} of {path} is no gate (B, D); take another "
                                     f"of its {len(made)}, or train without gates")  # fmt: skip
                self.made[of, place] = gate

    def call(self, host: nn.Module, kwargs: Mapping[str, Any], called: Collection[str]) -> None:
        """One pass of the host. called: grows by the targets that it gets to."""
        with torch.no_grad(), mixed(self.watch.device):
            host(**kwargs)
        if missed := [target for target in self.scions if target not in called]:
            raise ValueError(f"the host's pass never calls {', '.join(missed)}; scions stand in "
                             f"for modules that it calls")  # fmt: skip

    @contextlib.contextmanager
    def listening(self, host: nn.Module) -> Iterator[None]:
        handles = [_module(host, path).register_forward_hook(partial(self.gate, path))
                   for path in sorted({path for path, _ in self.places})]  # fmt: skip
        try:
            with _tapped(host, self.scions, self):
                yield
        finally:
            for handle in handles:
                handle.remove()
            self.made.clear()
