"""What a run has cost so far: wall seconds and peak memory, summed over interruptions.

FLOPs, pictures, steps and calls are sums over the samples' own records, so that an interruption
can neither lose nor repeat any of them.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch

from impasto.files import write_json
from impasto.run.directory import RunDirectory, read_json
from impasto.sample.protocol import Cost

__all__ = ["Meter", "device_name", "peak_memory"]

PHASES = ("generate", "score")


def peak_memory() -> dict[str, int]:
    """Bytes at the highest so far: of this process, and of the first GPU when there is one."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available():
        peak["device"] = torch.cuda.max_memory_allocated()
    return peak


def device_name() -> str:
    """The first GPU's own name, or how many threads of a processor are used."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'' if threads == 1 else 's'}"


class Meter:
    """Keeps a run's `cost.json`. `resumed` tells that several executions added to the seconds.

    adds: whether this one does. Finding a finished run again costs it nothing; set it where such a
    run has lost something that is made anew.
    """

    def __init__(self, run: RunDirectory, drawn: bool = True, counted: bool = True) -> None:
        """drawn: whether the run draws its own pictures; else their cost is unknown, null.
        counted: whether its model's FLOPs are known."""
        self.path = run.cost
        self.drawn, self.counted = drawn, counted
        self.seconds = dict.fromkeys(PHASES, 0.0) if drawn else {"score": 0.0}
        self.peak: dict[str, int] = {}
        self.spent = Cost()
        self.more: dict[str, Any] = {}
        self.resumed = self.path.exists()
        self.adds = not (self.resumed and run.summary.is_file())
        if self.resumed:
            before = read_json(self.path)
            self.seconds |= before["seconds"]
            self.peak = before["peak_memory_bytes"]

    @contextlib.contextmanager
    def timing(self, phase: str) -> Iterator[None]:
        """Add the block's wall seconds to `phase` and save, also when the block fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start
            self.save()

    def seen(self, peak: Mapping[str, int]) -> None:
        """Take in a process's peak memory: the record has the largest of any one process."""
        self.peak |= {key: max(value, self.peak.get(key, 0)) for key, value in peak.items()}

    def tell(self, **more: Any) -> None:
        """Save further entries of a run's own kind."""
        self.more |= more
        self.save()

    def save(self) -> None:
        """Write `cost.json`, if this execution adds to it."""
        if not self.adds:
            return
        self.seen(peak_memory())
        values: dict[str, Any] = {
            "seconds": {phase: round(value, 3) for phase, value in self.seconds.items()},
            **self._spent(),
            "peak_memory_bytes": self.peak,
            "device": device_name(),
            "resumed": self.resumed,
            **self.more,
        }
        write_json(self.path, values)

    def _spent(self) -> dict[str, Any]:
        """What drawing cost; null where it is not known."""
        spent = asdict(self.spent) | ({} if self.counted else {"flops": None})
        return spent if self.drawn else dict.fromkeys(spent)
