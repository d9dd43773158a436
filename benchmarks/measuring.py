"""What benchmarks share: clocks, random weights, tables of figures."""

from __future__ import annotations

import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from roofline import CARDS, Peaks, Stage
from torch import nn

# -------------------------------------------------------------------------------- time


def say(**values: Any) -> None:
    """One line of JSON, at once."""
    print(json.dumps(values), flush=True)


class Timed(NamedTuple):
    """Seconds of the first call, of the second, and of those timed; peak memory of the latter."""

    result: Any
    cold: float
    second: float
    warm: list[float]
    gib: float | None

    @property
    def seconds(self) -> float:
        return statistics.median(self.warm)


def timed(
    run: Callable[[], Any], device: str, repeats: int, enough: float | None = None
) -> Timed:
    """Two calls that warm up, then `repeats`. enough: for what needs little warming: the second
    call is timed already, and no more follow after so many seconds of timed calls; two at least,
    or one where the first took twice as long."""
    cuda = device.startswith("cuda")

    def once() -> tuple[Any, float]:
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        result = run()
        if cuda:
            torch.cuda.synchronize()
        return result, time.perf_counter() - start

    cold = once()[1]
    second = once()[1] if enough is None else None
    fewest = repeats if enough is None else 1 + (cold < 2 * enough)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    warm: list[float] = []
    result = None
    while len(warm) < repeats and (len(warm) < fewest or sum(warm) < (enough or 0)):
        result = None  # or it would count as memory of the next call
        result, seconds = once()
        warm.append(seconds)
    gib = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    return Timed(result, cold, warm[0] if second is None else second, warm, gib)


# -------------------------------------------------------------------------------- weights


@torch.no_grad()
def filled(network: Any, device: str, dtype: torch.dtype) -> Any:
    """A network from the meta device, where it runs: of seed 0, weights of variance 1 / inputs,
    norms 1, biases small. Random weights change no cost."""
    torch.manual_seed(0)
    nn.Module.to_empty(nn.Module.to(network, dtype), device=device)
    for name, own in [*network.named_parameters(), *network.named_buffers()]:
        if "position_ids" in name:
            own.copy_(torch.arange(own.shape[-1], device=device))
        elif own.ndim == 1 and "norm" in name and name.endswith("weight"):
            own.fill_(1)
        elif own.ndim == 1:
            own.normal_(std=0.02)
        elif own.is_floating_point():
            own.normal_(std=own[0].numel() ** -0.5)
    return network.eval().requires_grad_(False)


# -------------------------------------------------------------------------------- tables


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else device


class Sheet:
    """Rows of figures. `device`, `repeats` and `enough` are those of `timed`. A card that is not
    known has no share of the roofline."""

    def __init__(self, device: str, repeats: int, enough: float | None = 0.4) -> None:
        self.device, self.repeats, self.enough = device, repeats, enough
        self.card = CARDS.get(device_name(device))
        self.rows: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []

    def note(self, **values: Any) -> None:
        """Say what is no time, and keep it for the file."""
        self.notes.append(values)
        say(**values)

    def header(self, dtypes: Iterable[torch.dtype]) -> None:
        """The machine, and the peaks that shares are of."""
        peaks = {str(dtype): Peaks.of(self.card, dtype)._asdict() for dtype in dtypes
                 } if self.card else "not known of this device: no share of the roofline"
        self.note(device=device_name(self.device), torch=torch.__version__, peaks=peaks)

    def time(
        self, what: Mapping[str, Any], run: Callable[[], Any], stages: Sequence[Stage], *,
        dtype: torch.dtype, pictures: int, base: Timed | None = None, warming: bool = False,
    ) -> Timed | None:  # fmt: skip
        """Time one way and add its row; a way that fails says why, and the next goes on.

        what: what the row is called, by column. base: what it is compared with. warming: whether
        two calls are needed before any is timed, as of recorded graphs.
        """
        told = dict(what) | {"type": str(dtype).removeprefix("torch."), "pictures": pictures}
        try:
            done = timed(run, self.device, self.repeats, None if warming else self.enough)
        except Exception as error:
            why = traceback.format_exc()[-1500:]
            self._add(told | {"failed": f"{type(error).__name__}: {error}"[:120]}, traceback=why)
            return None
        tflop = pictures * sum(stage.flops for stage in stages) / 1e12
        floor = None
        if self.card:
            peaks = Peaks.of(self.card, dtype)
            floor = sum(stage.seconds(peaks, dtype, pictures) for stage in stages)
        self._add(told | {
            "ms": _digits(1e3 * done.seconds),
            "least": _digits(1e3 * min(done.warm)),
            "most": _digits(1e3 * max(done.warm)),
            "pictures/s": _digits(pictures / done.seconds),
            "GiB": None if done.gib is None else round(done.gib, 2),
            "times faster": None if base is None else round(base.seconds / done.seconds, 2),
            "TFLOP": _digits(tflop),
            "TFLOP/s": _digits(tflop / done.seconds),
            "share": None if floor is None else f"{100 * floor / done.seconds:.1f} %",
        }, cold=round(done.cold, 4), seconds=done.warm, floor=floor)  # fmt: skip
        return done

    def _add(self, row: dict[str, Any], **more: Any) -> None:
        self.rows.append(row | more)
        say(**row, **more)

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if "failed" in row]

    def markdown(self) -> str:
        """All rows as one table; what a row has not is empty."""
        kept = ("cold", "seconds", "floor", "traceback")
        names = list(dict.fromkeys(name for row in self.rows for name in row if name not in kept))
        cells = [[str(row.get(name, "")).replace("None", "") for name in names]
                 for row in self.rows]  # fmt: skip
        lines = [names, ["---"] * len(names), *cells]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def close(self, file: Path | None, **settings: Any) -> int:
        """Print the table and write the file; 1 if a way failed."""
        print("\n" + self.markdown(), flush=True)
        if file is not None:
            whole = {"settings": settings, "notes": self.notes, "rows": self.rows}
            file.write_text(json.dumps(whole, indent=1, default=str) + "\n")
        return int(bool(self.failed))


def _digits(value: float) -> float:
    """Three digits."""
    return float(f"{value:.3g}")
