"""Work over many pictures in parts, each kept on disk when it is done.

    parts/NAME-00000.safetensors      what was found of pictures 0 to 31, and so on

A part is whole or absent, so an interrupted run goes on with the first that is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from impasto.files import write_bytes
from impasto.run.batches import in_batches
from impasto.zoo.weights import load_state

__all__ = ["PART", "in_parts"]

PART = 32
"""Pictures of a part. Fixed: results do not depend on how often a run was interrupted."""

Work = Callable[[range], Mapping[str, Tensor]]
"""Places of at most `batch_size` pictures -> named tensors, a row for each."""


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]} if parts else {}


def _worked(at: range, work: Work, batch_size: int) -> dict[str, Tensor]:
    """`work` on one part, in batches that halve when memory runs out."""
    found: list[Mapping[str, Tensor]] = []
    in_batches(at, batch_size,
               lambda rows, size: found.append(work(range(rows[0], rows[-1] + 1))))  # fmt: skip
    rows = _joined(found)
    for key, value in rows.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{key} of the pictures {at.start} to {at.stop - 1} is NaN or "
                             f"infinite; the network that gives it is broken (check its weights)"
                             )  # fmt: skip
    return {key: value.contiguous() for key, value in rows.items()}


def in_parts(
    folder: Path, name: str, count: int, work: Work, *, batch_size: int,
    progress: Callable[[int, int], None],
) -> dict[str, Tensor]:  # fmt: skip
    """`work` on `count` pictures, the tensors of all parts joined along their first axis.

    Raises what `work` raises, and ValueError for a part that was changed from outside.
    """
    ranges = [range(i, min(i + PART, count)) for i in range(0, count, PART)]
    paths = [folder / f"{name}-{i:05d}.safetensors" for i in range(len(ranges))]
    for path, at in zip(paths, ranges, strict=True):
        if not path.is_file():
            write_bytes(path, save(_worked(at, work, batch_size)))
        progress(at.stop, count)
    parts = [load_state(path) for path in paths]
    for path, part, at in zip(paths, parts, ranges, strict=True):
        if part.keys() != parts[0].keys() or any(len(v) != len(at) for v in part.values()):
            raise ValueError(f"{path} is not this run's; delete it and run the same command again")
    return dict(sorted(_joined(parts).items()))  # a file's tensors have no order of their own
