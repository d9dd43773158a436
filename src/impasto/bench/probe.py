"""What features of places tell by a linear map: ridge regression onto what is at each place.

    W = argmin |F W - Y|^2 + l n |W|^2 = (F'F + l n I)^-1 F'Y,     said: argmax_c (f W)_c

F: (n, D + 1) features and a one (which is not shrunk); Y: (n, C) one-hot. Sums are enough, so
places come in batches. In float64; the answer does not depend on their order but by rounding.
Source of the idea: Alain & Bengio 2016 (arXiv 1610.01644).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Ridge"]


class Ridge:
    """A linear probe of C classes. shrink: l, over features of variance 1."""

    def __init__(self, classes: int, shrink: float = 1e-4) -> None:
        self.classes, self.shrink = classes, shrink
        self.outer: Tensor | None = None
        self.with_labels: Tensor | None = None
        self.count = 0

    @staticmethod
    def _extended(features: Tensor) -> Tensor:
        f = features.double()
        return torch.cat([f, f.new_ones(len(f), 1)], dim=1)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Places to learn from: features (n, D), labels (n,) from 0 to C - 1."""
        f = self._extended(features)
        if self.outer is None or self.with_labels is None:
            self.outer = f.new_zeros(f.shape[1], f.shape[1])
            self.with_labels = f.new_zeros(f.shape[1], self.classes)
        self.outer += f.t() @ f
        self.with_labels += f.t() @ F.one_hot(labels, self.classes).to(f)
        self.count += len(f)

    def weights(self) -> Tensor:
        """W, (D + 1, C). Raises ValueError before there is anything to learn from."""
        if self.outer is None or self.with_labels is None:
            raise ValueError("a probe needs places to learn from: call add")
        n = max(self.count, 1)
        second = self.outer.diagonal()[:-1] / n
        mean = self.outer[-1, :-1] / n
        shrunk = self.outer.clone()
        shrunk.diagonal()[:-1] += self.shrink * n * (second - mean.square()).clamp_min(1e-12)
        return torch.linalg.solve(shrunk, self.with_labels)

    def said(self, features: Tensor) -> Tensor:
        """(n,) the classes that features (n, D) tell."""
        return (self._extended(features) @ self.weights().to(features.device)).argmax(1)
