"""A training that goes on where it stopped, to the same bits.

    OUT/checkpoint/00002000/process-0.json, process-0.safetensors       one pair a process

holds all that step 2,001 depends on: weights, their averages, the optimiser's moments, random
numbers, the time used up, and what a training carries beside (an adversary, plans, counts). It is
written at a step's end into a hidden folder, which is then renamed; the one before goes only then.
So a kill at any moment leaves a whole one. Process 0 alone writes what is the same in all.

    with Checkpoint(out / "checkpoint", settings, every=1000) as checkpoint:
        loop = Loop(model, steps, lr, checkpoint=checkpoint)    # goes on, if there is one
        ...
        checkpoint.remove()                                     # all is trained and saved

Inside the block Ctrl-C and SIGTERM end a training after its step, with a checkpoint; the second
time at once.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from impasto import files
from impasto.train import processes

if TYPE_CHECKING:
    from impasto.train.loop import Loop

__all__ = ["Carried", "Checkpoint", "Stateful", "load_optimizer", "packed", "unpacked"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOOK_EVERY = 10
"""Steps between two looks whether process 0 is to stop, where several processes train."""


class Stateful(Protocol):
    """What gives and takes its state: tensors and plain values in dicts, lists and tuples."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any: ...


Carried = Stateful | torch.Generator | Tensor
"""What a training carries from step to step beside its weights. A tensor is changed in place."""


class Checkpoint:
    """Those of one Loop. folder: theirs alone. settings: what must be the same for a training to
    go on, such as its recipe; plain values. every: steps between two checkpoints."""

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], every: int = 1000) -> None:
        if every < 1:
            raise ValueError(f"checkpoints are written every so many steps, at least 1, given "
                             f"{every}")  # fmt: skip
        self.folder, self.every = Path(folder), every
        self._given = json.dumps(dict(settings))
        self._running = False
        self._written = -1
        self._asked: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """As given, and how many processes there are: each has random numbers of its own."""
        return json.loads(self._given) | {"processes": processes.count()}

    # ------------------------------------------------------------------ what a Loop calls

    def visit(self, loop: Loop) -> None:
        """Before every step, and after the last: go on, write or stop, as is due.

        Raises ValueError for a checkpoint of another training, NonFiniteLoss instead of writing
        what is not finite, KeyboardInterrupt or SystemExit after the signals.
        """
        if not self._running:
            self._running = True
            self._resume(loop)
        elif loop.step % self.every == 0 and loop.step != self._written:
            self._write(loop)
        self._stop_if_asked(loop)

    def leave(self) -> None:
        """No more steps: signals act at once again."""
        self._running = False

    def latest(self) -> Path | None:
        """The newest checkpoint; None where there is none."""
        found = [path for path in self.folder.glob("*") if path.name.isdigit()]
        return max(found, key=lambda path: int(path.name), default=None)

    def remove(self) -> None:
        """Drop all checkpoints: the training is done."""
        if processes.first():
            shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------------ going on

    def _resume(self, loop: Loop) -> None:
        found = processes.shared(self.latest())
        if found is None:
            return
        whole, own = _read(found, 0), _read(found, processes.rank())
        if different := _different(whole["settings"], self.settings):
            raise ValueError(f"{found} is of another training: {different}; go on with its own "
                             f"settings, or remove {self.folder} to start anew")  # fmt: skip
        if set(own["carried"]) != set(loop.carried):
            raise ValueError(f"{found} carries {sorted(own['carried'])}, and this training "
                             f"{sorted(loop.carried)}: it is of another version; remove "
                             f"{self.folder} to start anew")  # fmt: skip
        try:
            loop.load_state_dict(whole["loop"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{found} does not fit this version's network ({error}); remove "
                             f"{self.folder} to start anew") from error  # fmt: skip
        for name, thing in loop.carried.items():
            _put(thing, own["carried"][name])
        _set_random(loop, own["random"])
        self._wrote(loop, found)
        if processes.first():
            print(f"{loop.name}: goes on from step {loop.step} ({found})", flush=True)

    # ------------------------------------------------------------------ writing

    def _write(self, loop: Loop) -> None:
        loop.require_finite()
        path = self.folder / f"{loop.step:08d}"
        temporary = self.folder / f".{path.name}.tmp"
        if processes.first():
            for left in self.folder.glob(".*.tmp"):
                shutil.rmtree(left)
            temporary.mkdir(parents=True)
        processes.wait()
        own: dict[str, Any] = {"random": _random(loop), "carried": {
            name: _taken(thing) for name, thing in loop.carried.items()}}  # fmt: skip
        if processes.first():
            own |= {"settings": self.settings, "loop": loop.state_dict()}
        _save(temporary, processes.rank(), own)
        processes.wait()
        if processes.first():
            self._publish(temporary, path)
        self._wrote(loop, path)

    def _publish(self, temporary: Path, path: Path) -> None:
        old = [each for each in self.folder.glob("*") if each.name.isdigit() and each != path]
        files.publish(temporary, path)
        for each in old:
            shutil.rmtree(each)

    def _wrote(self, loop: Loop, path: Path) -> None:
        self._written = loop.step
        loop.last_good = f"the last good checkpoint is {path}, of step {loop.step}"

    # ------------------------------------------------------------------ signals

    def __enter__(self) -> Checkpoint:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self._running and self._asked is None:
            self._asked = number
            return
        signal.signal(number, self._before[number])
        signal.raise_signal(number)

    def _stop_if_asked(self, loop: Loop) -> None:
        if processes.count() > 1 and loop.step % LOOK_EVERY:
            return
        asked = processes.shared(self._asked)
        if asked is None:
            return
        if loop.step != self._written:
            self._write(loop)
        if processes.first():
            print(f"{loop.name}: stopped at step {loop.step}; the same command goes on from "
                  f"there", flush=True)  # fmt: skip
        raise KeyboardInterrupt if asked == signal.SIGINT else SystemExit(128 + asked)


# ---------------------------------------------------------------------- states


def _taken(thing: Carried) -> Any:
    if isinstance(thing, torch.Generator):
        return thing.get_state()
    return thing if isinstance(thing, Tensor) else thing.state_dict()


def _put(thing: Carried, state: Any) -> None:
    if isinstance(thing, torch.Generator):
        thing.set_state(state)
    elif isinstance(thing, Tensor):
        with torch.no_grad():
            thing.copy_(state)
    else:
        thing.load_state_dict(state)


def _random(loop: Loop) -> dict[str, Tensor]:
    states, device = {"cpu": torch.get_rng_state()}, loop.params[0].device
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random(loop: Loop, states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if (device := loop.params[0].device).type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """`load_state_dict`, with moments laid out in memory as their parameters are, which fused
    optimisers need."""
    optimizer.load_state_dict(dict(state))
    for param, own in optimizer.state.items():
        for key, value in own.items():
            if isinstance(value, Tensor) and value.shape == param.shape:
                own[key] = torch.empty_like(param, dtype=value.dtype).copy_(value)


def _different(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs, in words; "" for nothing."""
    return ", ".join(f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
                     for key in sorted(set(there) | set(here))
                     if there.get(key) != here.get(key))  # fmt: skip


# ---------------------------------------------------------------------- files


def packed(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """`value` as JSON, its tensors put into `tensors` (on the CPU, each its own memory).

    Raises TypeError for anything but nested dicts, lists and tuples of tensors and plain values.
    """
    def inside(key: Any, part: Any) -> Any:
        return packed(part, tensors, f"{path}/{key}" if path else str(key))

    if isinstance(value, Tensor):
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"dict": [[key, inside(key, part)] for key, part in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [inside(i, part) for i, part in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path} is {type(value).__name__}, which no checkpoint can hold; allowed: "
                    f"tensors and plain values, in dicts, lists and tuples")  # fmt: skip


def unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `packed` was given."""
    if not isinstance(value, dict):
        return value
    [(kind, held)] = value.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "dict":
        return {key: unpacked(part, tensors) for key, part in held}
    parts = [unpacked(part, tensors) for part in held]
    return parts if kind == "list" else tuple(parts)


def _save(folder: Path, process: int, state: Mapping[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    files.write_json(folder / f"process-{process}.json", packed(state, tensors))
    with files.replacing(folder / f"process-{process}.safetensors") as temporary:
        save_file(tensors, temporary)


def _read(folder: Path, process: int) -> dict[str, Any]:
    text = (folder / f"process-{process}.json").read_text()
    return unpacked(json.loads(text), load_file(folder / f"process-{process}.safetensors"))
