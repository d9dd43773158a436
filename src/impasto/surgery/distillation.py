"""HierarchicalPrune's distillation: a pruned student learns from the network it was cut from.

Kwon et al. 2025 (arXiv 2508.04663). With v the networks' outputs on the same x_t, t and texts,

    L      = a_task L_task + a_out L_out + a_feat L_feat
    L_out  = mean |v_S - v_T|^2
    L_task = mean |(x_t - sigma_t v_S) - x_0|^2        the estimate of x_0, whatever v is
    L_feat = sum over blocks that learn and are not removed, and over their streams (image, text),
             of mean |f_S - f_T|^2

What of the student learns is said before (`surgery.sensitivity`). What teacher and frozen student
have in common at their beginning is run once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from impasto.surgery.listening import compiled, streams
from impasto.surgery.noised import Noised, output_of
from impasto.surgery.sensitivity import TAIL
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.loop import Loop, constant, mixed

__all__ = ["Losses", "TeacherAndStudent", "distil", "distillation_loss", "shared_blocks"]


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Weights of the three; task: 0 for SD3.5-Large-Turbo, 1 for SD3.5-Medium as released."""

    task: float = 0.0
    output: float = 1.0
    features: float = 1e-4

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f"the weight of {name} must be a number >= 0, given {value!r}")
        if not any(asdict(self).values()):
            raise ValueError("all three losses have weight 0; give one of them more")


# ---------------------------------------------------------------------- two networks, one batch


def _twins(a: nn.Module, b: nn.Module) -> bool:
    """Whether both have the same kinds of modules (and of processors, which are none) and equal
    tensors, and b does not learn."""
    def kinds(network: nn.Module) -> list[Any]:
        return [(type(m), type(getattr(m, "processor", None))) for m in network.modules()]

    ours, theirs = a.state_dict(), b.state_dict()
    return (kinds(a) == kinds(b)
            and not any(p.requires_grad for p in b.parameters()) and set(ours) == set(theirs)
            and all(x.dtype == theirs[key].dtype and torch.equal(x, theirs[key])
                    for key, x in ours.items()))  # fmt: skip


def shared_blocks(teacher: nn.Module, student: nn.Module, blocks: Sequence[str]) -> int:
    """How many blocks of the beginning are the same in both and frozen, with all that comes before
    them; at least one block is left."""
    def before(name: str) -> bool:
        return not name.startswith(TAIL) and not any(path.startswith(f"{name}.")
                                                     for path in blocks)  # fmt: skip

    if not all(_twins(child, student.get_submodule(name))
               for name, child in teacher.named_children() if before(name)):  # fmt: skip
        return 0
    count = 0
    while count < len(blocks) - 1 and _twins(teacher.get_submodule(blocks[count]),
                                             student.get_submodule(blocks[count])):  # fmt: skip
        count += 1
    return count


@dataclass
class TeacherAndStudent:
    """Both outputs on one batch, and the features to compare. blocks: dotted paths in the order of
    execution, the same in both. shared: how many of them the teacher runs for both. compile:
    whether the blocks that are run go through torch.compile."""

    teacher: nn.Module
    student: nn.Module
    blocks: Sequence[str]
    compile: bool = False
    shared: int = field(init=False)
    hooked: list[str] = field(init=False)
    _seen: dict[str, Any] = field(init=False, default_factory=dict, repr=False)
    _entered: tuple[Any, Any] | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        self.shared = shared_blocks(self.teacher, self.student, self.blocks)
        self.hooked = [path for path in self.blocks if any(
            p.requires_grad for p in self.student.get_submodule(path).parameters())]  # fmt: skip

    def __call__(
        self, given: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """v_T, v_S and the streams (teacher's, student's) of every hooked block. Call it within
        `together`."""
        with torch.no_grad():
            v_T = output_of(self.teacher, given)
        features = {path: self._seen[path] for path in self.hooked}
        v_S = output_of(self.student, given)
        pairs = [(a, b) for path in self.hooked
                 for a, b in zip(streams(features[path]), streams(self._seen[path]), strict=True)
                 if a is not None and b is not None]  # fmt: skip
        self._seen.clear()
        self._entered = None
        return v_T, v_S, pairs

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """While it lasts, the student's shared blocks give what the teacher's gave. Nothing of
        either network is another afterwards."""
        handles, run = [], [self.teacher.get_submodule(path) for path in self.blocks]
        own = [self.student.get_submodule(path) for path in self.blocks]
        try:
            for path in {*self.hooked, *map(self._replayed, range(self.shared))}:
                handles += [model.get_submodule(path).register_forward_hook(self._see(path))
                            for model in (self.teacher, self.student)]  # fmt: skip
            if self.shared:
                handles += [
                    run[self.shared].register_forward_pre_hook(self._enter, with_kwargs=True),
                    own[self.shared].register_forward_pre_hook(
                        lambda *_: self._entered, with_kwargs=True),
                ]  # fmt: skip
            for i in range(self.shared):
                own[i].forward = self._replay(i)
            with compiled([*run, *own[self.shared :]] if self.compile else ()):
                yield
        finally:
            for handle in handles:
                handle.remove()
            for block in own:
                vars(block).pop("forward", None)

    def _replayed(self, i: int) -> str:
        """The block whose output stands in for that of shared block i: the last one of its list,
        as what the lists' blocks give may differ (FLUX: two streams, then one)."""
        group = self.blocks[i].rpartition(".")[0]
        return [path for path in self.blocks[: self.shared]
                if path.rpartition(".")[0] == group][-1]  # fmt: skip

    def _replay(self, i: int) -> Callable[..., Any]:
        path = self._replayed(i)
        return lambda *_, **__: self._seen[path]

    def _see(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self._seen[path] = output

        return hook

    def _enter(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        self._entered = args, kwargs


# ---------------------------------------------------------------------- training


def distillation_loss(
    losses: Losses, batch: Noised, v_T: Tensor, v_S: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, dict[str, Tensor]]:
    """L, and its parts unweighted."""
    parts = {"output": (v_S - v_T).square().mean()}
    if losses.features:
        apart = [(b.float() - a.float()).square().mean() for a, b in pairs]
        parts["features"] = torch.stack(apart).sum() if apart else v_S.new_zeros(())
    if losses.task:
        parts["task"] = (batch.estimate(v_S) - batch.x_0).square().mean()
    weights = asdict(losses)
    return torch.stack([weights[name] * part for name, part in parts.items()]).sum(), {
        name: part.detach() for name, part in parts.items()}  # fmt: skip


def distil(
    student: nn.Module, teacher: nn.Module, batches: Callable[[], Noised], blocks: Sequence[str],
    *, steps: int, lr: float = 1e-4, losses: Losses | None = None,
    factors: Mapping[str, float] | None = None, weight_decay: float = 1e-4, clip: float = 1.0,
    ema: float = 0.0, schedule: Callable[[float], float] = constant,
    minutes: float | None = None, seed: int = 0, compile: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Loop:  # fmt: skip
    """Train what learns of `student` (`preserve`, `scale_updates`) on `teacher`'s outputs.

    ema: decay of the moving average that is kept, 0 for none as published. Frozen tensors have the
    same bits afterwards. Raises ValueError where nothing learns, NonFiniteLoss.
    """
    torch.manual_seed(seed + processes.rank())
    teacher.eval()
    loop = Loop(student.eval(), steps, lr, weight_decay=weight_decay, betas=(0.9, 0.999),
                ema_decay=ema, minutes=minutes, name="distillation", checkpoint=checkpoint,
                schedule=schedule, clip=clip, factors=dict(factors or {}))  # fmt: skip
    both, chosen = TeacherAndStudent(teacher, student, blocks, compile), losses or Losses()
    with both.together():
        while loop.running:
            batch = batches()
            with mixed(batch.x_t.device):
                loss, parts = distillation_loss(chosen, batch, *both(batch.given))
            loop.update(loss, parts)
    loop.load_average()
    student.eval()
    return loop
