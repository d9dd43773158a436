"""Stage 1 of grafting: new operators learn what the old ones do, each by itself.

Chandrasegaran et al. 2025 (arXiv 2506.05340), eq. 2: a scion g_theta stands in for the operator
f_phi of a frozen host, and with x what reaches f_phi when the host looks at noised latents
z_t = alpha_t z + sigma_t eps at a random t with its conditioning,

    L(theta) = E [ L_reg( g_theta(x), f_phi(x) ) ]        mean over all elements

    l1      |a - b|             for attention (table 2)
    l2      (a - b)^2           for MLPs
    huber   d^2 / 2 where d = |a - b| <= delta, delta (d - delta / 2) elsewhere

One pass of the host teaches all scions: hooks give each what its operator is given, and take its
gradients at once, so nothing goes to disk and no two scions' graphs are in memory together. A
scion sees the host's activations alone, never another scion's errors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.loop import Loop, NonFiniteLoss, halved

__all__ = ["CRITERIA", "Gates", "NonFiniteActivation", "Regression", "compiled", "criterion",
           "default_loss", "held_out_losses", "regress", "streams"]  # fmt: skip

CRITERIA = ("l1", "l2", "huber")
LOOK_EVERY = 10
"""Steps between two looks at a GPU for activations that are not finite."""

Batches = Callable[[], Mapping[str, Any]]
"""Draws what the host is called with: noised latents, times, conditioning."""
Gates = Mapping[str, Sequence[tuple[str, int] | None]]
"""Target -> for each of its streams, the module that makes its gate (B, D), and which of that
module's outputs it is; None for a stream without."""


class NonFiniteActivation(NonFiniteLoss):
    """The host gave NaN or infinity, or a scion did: the message names where and when."""


@dataclass(frozen=True)
class Regression:
    """What came of it. before, after: target -> criterion -> loss on the held-out batches."""

    loop: Loop
    before: Mapping[str, Mapping[str, float]]
    after: Mapping[str, Mapping[str, float]]


def default_loss(target: str) -> str:
    """L2 where the target's last name is an MLP's (ff, ff_context, mlp), else L1."""
    return "l2" if target.rpartition(".")[2].startswith(("ff", "mlp")) else "l1"


def criterion(name: str, a: Tensor, b: Tensor, delta: float = 1.0) -> Tensor:
    """L_reg of equal shapes, a scalar in float32. Raises ValueError for another name."""
    if name not in CRITERIA:
        raise ValueError(f"unknown loss {name!r}; allowed: {', '.join(CRITERIA)}")
    a, b = a.float(), b.float()
    if name == "huber":
        return F.huber_loss(a, b, delta=delta)
    return (F.l1_loss if name == "l1" else F.mse_loss)(a, b)


def streams(output: Any) -> tuple[Tensor | None, ...]:
    """The tensors that an operator gives: one, or several such as (image, text) of a joint
    attention; None where a stream ends."""
    return (output,) if isinstance(output, Tensor) else tuple(output)


# ---------------------------------------------------------------------- hooks


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
class _Watch:
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
class _Locals:
    """Calls each scion with what its operator is given, and hands both sides on."""

    scions: Mapping[str, nn.Module]
    gates: Gates
    use: Callable[[str, list[tuple[Tensor, Tensor]]], None]
    watch: _Watch
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
        with torch.no_grad(), torch.autocast(self.watch.device.type, torch.bfloat16):
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


# ---------------------------------------------------------------------- training


@torch.no_grad()
def held_out_losses(
    host: nn.Module, scions: Mapping[str, nn.Module], batches: Sequence[Mapping[str, Any]], *,
    gates: Gates | None = None, delta: float = 1.0,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Target -> criterion -> mean over the batches, in evaluation mode. Raises
    NonFiniteActivation."""
    sums: dict[str, list[Tensor]] = {}

    def use(target: str, pairs: list[tuple[Tensor, Tensor]]) -> None:
        rows = [torch.stack([criterion(name, a, b, delta) for name in CRITERIA]) for a, b in pairs]
        sums.setdefault(target, []).append(torch.stack(rows).mean(0))

    heard = _Locals(scions, gates or {}, use, _Watch(_device(host)))
    modes = {scion: scion.training for scion in scions.values()}
    for scion in modes:
        scion.eval()
    with heard.listening(host):
        for kwargs in batches:
            heard.call(host, kwargs, sums)
    for scion, mode in modes.items():
        scion.train(mode)
    heard.watch.look()
    return {target: dict(zip(CRITERIA, torch.stack(rows).mean(0).tolist(), strict=True))
            for target, rows in sums.items()}  # fmt: skip


def regress(
    host: nn.Module, scions: Mapping[str, nn.Module], batches: Batches, *, steps: int,
    lr: float = 1e-4, lrs: Mapping[str, float] | None = None,
    losses: Mapping[str, str] | None = None, delta: float = 1.0, clip: float = 10.0,
    weight_decay: float = 0.0, gates: Gates | None = None,
    held_out: Sequence[Mapping[str, Any]] = (), minutes: float | None = None, seed: int = 0,
    schedule: Callable[[float], float] = halved, compile: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Regression:  # fmt: skip
    """Train every scion on the host's activations; the host stays as it is.

    scions: target -> the module that is to stand in for it, called as the target is and giving
    what it gives. A target is a dotted path ("transformer_blocks.3.attn"), or two of them for a
    sequence ("transformer_blocks.0>transformer_blocks.1": given what the first is given, learning
    what the last gives). batches: draws the keyword arguments of a call of the host, anew each
    step. losses: by target, where not `default_loss`; lrs likewise over `lr`. clip: largest norm
    of each scion's gradient. gates: multiply both sides by these (off in the paper). compile:
    the scions, for the training.

    Raises ValueError for targets, losses or scions that do not fit, NonFiniteActivation naming
    module and step.
    """
    if not scions:
        raise ValueError("there is no scion to train; give at least one operator")
    chosen = {target: default_loss(target) for target in scions} | dict(losses or {})
    if strange := sorted((set(chosen) | set(lrs or {}) | set(gates or {})) - set(scions)):
        raise ValueError(f"no scion is at {', '.join(strange)}; there are {', '.join(scions)}")
    torch.manual_seed(seed + processes.rank())
    before = held_out_losses(host, scions, held_out, gates=gates, delta=delta) if held_out else {}
    places = {target: str(i) for i, target in enumerate(scions)}
    loop = Loop(nn.ModuleList(scions.values()).eval(), steps, lr, weight_decay=weight_decay,
                betas=(0.9, 0.999), ema_decay=0.0, minutes=minutes, name="regression",
                checkpoint=checkpoint, schedule=schedule, clip=clip,
                factors={places[target]: own / lr for target, own in (lrs or {}).items()},
                apart=tuple(places.values()))  # fmt: skip
    found: dict[str, Tensor] = {}

    def learn(target: str, pairs: list[tuple[Tensor, Tensor]]) -> None:
        loss = torch.stack([criterion(chosen[target], a, b, delta) for a, b in pairs]).mean()
        loss.backward()
        found[target] = loss.detach()

    with compiled(scions.values() if compile else ()):
        _steps(host, loop, batches, found,
               _Locals(scions, gates or {}, learn, _Watch(_device(host)), learning=True)
               )  # fmt: skip
    loop.load_average()
    for scion in scions.values():
        scion.eval()
    after = held_out_losses(host, scions, held_out, gates=gates, delta=delta) if held_out else {}
    return Regression(loop, before, after)


def _steps(
    host: nn.Module, loop: Loop, batches: Batches, found: dict[str, Tensor], heard: _Locals
) -> None:
    every = 1 if heard.watch.device.type == "cpu" else LOOK_EVERY
    host.eval()
    try:
        with heard.listening(host):
            while loop.running:
                kwargs, heard.step = batches(), loop.step + 1
                loop.optimizer.zero_grad(set_to_none=True)
                heard.call(host, kwargs, found)
                if heard.step % every == 0 or heard.step == loop.steps:
                    heard.watch.look()
                values = torch.stack([found[target] for target in heard.scions])
                loop.apply(values.mean(), {"worst": values.max()})
    except NonFiniteLoss:
        heard.watch.look()  # it knows where
        raise


def _device(host: nn.Module) -> torch.device:
    return next(host.parameters()).device
