"""What a run has cost so far: wall seconds and peak memory, summed over interruptions.

FLOPs, pictures and row-steps are not counted here: they are sums over the samples' own records,
so an interruption can lose or repeat none of them.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from impasto.files import write_json

__all__ = ["Meter", "peak_memory"]

PHASES = ("generate", "score")


def peak_memory() -> dict[str, int]:
    """Bytes at the highest so far: of this process, and of the first GPU when there is one."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available():
        peak["device"] = torch.cuda.max_memory_allocated()
    return peak


class Meter:
    """Keeps `cost.json`. `resumed` tells that the seconds come from more than one execution."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.peak: dict[str, int] = {}
        self.resumed = path.exists()
        self.totals: dict[str, Any] = {"flops": 0.0, "images": 0, "row_steps": 0}
        if self.resumed:
            before = json.loads(path.read_text(encoding="utf-8"))
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

    def save(self) -> None:
        """Write `cost.json`."""
        now = peak_memory()
        self.peak = {key: max(now[key], self.peak.get(key, 0)) for key in now}
        write_json(self.path, {
            "seconds": {phase: round(value, 3) for phase, value in self.seconds.items()},
            "peak_memory_bytes": self.peak,
            **self.totals,
            "resumed": self.resumed,
        })  # fmt: skip
