"""What a feature extractor is: pictures in, the features out by which sets of them are compared.

Its name is in the name of every distance that it gives, and which measures those are is its own
to say: FID belongs to published weights and one way of resizing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from impasto.zoo.registry import nearest

__all__ = ["Extractor", "Measures", "published"]

Measures = Mapping[str, Mapping[str, Any]]
"""Measure (a key of `impasto.bench.measures.MEASURES`) -> its options."""


class Extractor(ABC):
    """name: in a-z, 0-9 and _. measures: what its features are compared by. widths: D of each
    stream of features."""

    def __init__(
        self, name: str, measures: Measures, widths: Mapping[str, int], only: str | None
    ) -> None:
        """only: the measures wanted, joined by "+"; None for all. Raises ValueError for others."""
        wanted = list(measures) if only is None else str(only).split("+")
        for measure in wanted:
            if measure not in measures:
                raise ValueError(f"{name} has no measure {measure!r}: "
                                 f"{nearest(measure, list(measures))}")  # fmt: skip
        self.name = name
        self.measures: Measures = {key: measures[key] for key in wanted}
        self.widths = widths

    @abstractmethod
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Stream -> (B, D) float32 on the CPU, of pictures (B, 3, H, W) in [0, 1]."""

    def record(self, sha256: str, resize: str) -> dict[str, Any]:
        """What is kept of it. sha256: of the weights. resize: how pictures come to its size."""
        return {"name": self.name, "sha256": sha256, "resize": resize,
                "measures": {key: dict(options) for key, options in self.measures.items()}
                }  # fmt: skip

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """See `record`."""


def published(
    hashes: Mapping[str, str], beginnings: Sequence[str], any_weights: bool, otherwise: str
) -> str:
    """What is put into a name for these weights: "" for the published ones.

    hashes: path -> sha256. beginnings: of the published ones. Others get eight hex digits of
    theirs, if `any_weights`. Raises ValueError for others without; otherwise: what their results
    would be called.
    """
    for (path, found), begin in zip(hashes.items(), beginnings, strict=True):
        if found.startswith(begin):
            continue
        if not any_weights:
            raise ValueError(f"{path} is not the published file: its sha256 begins with "
                             f"{found[:8]}, not {begin[:8]}. With any_weights=true it is used "
                             f"all the same, and its results are called {otherwise}_{found[:8]}"
                             )  # fmt: skip
        return found[:8]
    return ""
