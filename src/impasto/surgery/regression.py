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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.surgery.listening import Gates, Listeners, Watch, compiled
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.loop import Loop, NonFiniteLoss, halved

__all__ = ["CRITERIA", "Regression", "criterion", "default_loss", "held_out_losses", "regress"]

CRITERIA = ("l1", "l2", "huber")
LOOK_EVERY = 10
"""Steps between two looks at a GPU for activations that are not finite."""

Batches = Callable[[], Mapping[str, Any]]
"""Draws what the host is called with: noised latents, times, conditioning."""


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

    heard = Listeners(scions, gates or {}, use, Watch(_device(host)))
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
               Listeners(scions, gates or {}, learn, Watch(_device(host)), learning=True)
               )  # fmt: skip
    loop.load_average()
    for scion in scions.values():
        scion.eval()
    after = held_out_losses(host, scions, held_out, gates=gates, delta=delta) if held_out else {}
    return Regression(loop, before, after)


def _steps(
    host: nn.Module, loop: Loop, batches: Batches, found: dict[str, Tensor], heard: Listeners
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
