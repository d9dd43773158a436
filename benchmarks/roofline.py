"""The roofline of a known card: the time below which a result cannot be had.

    share of the roofline = floor / seconds
    floor                 = sum over stages of the longer of   products at the card's peak
                                                               weights read once, at its bandwidth

The floor is that of the least work known to give the result, for every way beside it: what a way
computes on top is its own doing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from impasto.sample.flops import flops_by_operation


class Card(NamedTuple):
    """Dense products a second by type, and bytes of memory a second, by the maker's sheet."""

    bfloat16: float
    tf32: float
    float32: float
    bandwidth: float


CARDS = {
    "NVIDIA H100 80GB HBM3": Card(989e12, 494e12, 67e12, 3.35e12),
    "NVIDIA H200": Card(989e12, 494e12, 67e12, 4.8e12),
    "NVIDIA A100-SXM4-80GB": Card(312e12, 156e12, 19.5e12, 2.039e12),
}
"""By torch's name of the device."""


class Peaks(NamedTuple):
    """FLOP a second: of convolutions, of other products, of products that are float32 in every
    network. bandwidth: bytes a second."""

    convolutions: float
    products: float
    exact: float
    bandwidth: float

    @classmethod
    def of(cls, card: Card, dtype: torch.dtype) -> Peaks:
        """float32 networks run as torch is set: convolutions in TF32 and products in float32,
        unless told otherwise."""
        if dtype == torch.bfloat16:
            return cls(card.bfloat16, card.bfloat16, card.float32, card.bandwidth)
        if dtype != torch.float32:
            raise ValueError(f"peaks are known of bfloat16 and float32, not of {dtype}")
        exact = torch.get_float32_matmul_precision() == "highest"
        return cls(card.tf32 if torch.backends.cudnn.allow_tf32 else card.float32,
                   card.float32 if exact else card.tf32, card.float32, card.bandwidth
                   )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of the work. FLOPs of one picture, sorted as in `Peaks`; weights: how many are
    read, once for all pictures; times: how often all this is done."""

    convolutions: float = 0
    products: float = 0
    exact: float = 0
    weights: float = 0
    times: int = 1

    @classmethod
    def of(cls, module: nn.Module, *args: Any, times: int = 1, **kwargs: Any) -> Stage:
        """A call of a module for one picture, counted on the meta device."""
        found = flops_by_operation(module, *args, **kwargs)
        convolutions = sum(n for name, n in found.items() if "convolution" in name)
        return cls(convolutions=convolutions, products=sum(found.values()) - convolutions,
                   weights=sum(p.numel() for p in module.parameters()), times=times)  # fmt: skip

    @property
    def flops(self) -> float:
        """Of one picture, all times together."""
        return self.times * (self.convolutions + self.products + self.exact)

    def seconds(self, peaks: Peaks, dtype: torch.dtype, pictures: int) -> float:
        computing = (self.convolutions / peaks.convolutions + self.products / peaks.products
                     + self.exact / peaks.exact)  # fmt: skip
        reading = self.weights * dtype.itemsize / peaks.bandwidth
        return self.times * max(pictures * computing, reading)
