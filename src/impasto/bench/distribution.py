"""How far two sets of pictures are apart, by features of a named network.

    FD          |m1 - m2|^2 + tr S1 + tr S2 - 2 sum sqrt(eig(R S2 R)),  S1 = V w V^T,
                R = V sqrt(w) V^T                                   (Heusel et al. 2017)
    KD          mean k(x, x') + mean k(y, y') - 2 mean k(x, y) over pairs of different pictures,
                k(x, y) = (x.y / D + 1)^3                           (Binkowski et al. 2018, KID)
    CMMD        1000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)) over all pairs,
                k(x, y) = exp(-|x - y|^2 / 200), features of length 1   (Jayasumana et al. 2024)
    IS          exp(mean KL(p(c|x) || mean p(c|x))), mean over splits   (Salimans et al. 2016)
    precision   share of samples in the ball of a reference picture that reaches to its k-th
                neighbour among the reference; recall: the same with the sides exchanged
                                                                    (Kynkäänniemi et al. 2019)

x: the samples, y: the reference. What each is called by is in `impasto.bench.measures`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Moments", "cmmd", "frechet", "inception_score", "kernel_distance", "moments",
           "precision_recall", "subset_kernel_distance"]  # fmt: skip

ROWS = 1024
"""Rows of a matrix of pairs that are in memory at once."""


class Moments(NamedTuple):
    """mean (D,) and unbiased covariance (D, D) of features, float64."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Of (N, D) features. Raises ValueError for fewer than two, or values that are not finite."""
    if features.ndim != 2 or len(features) < 2 or not torch.isfinite(features).all():
        raise ValueError(f"features must be (N >= 2, D) and finite, given {tuple(features.shape)}")
    mean = torch.stack([part.double().sum(0) for part in features.split(ROWS)]).sum(0)
    mean /= len(features)
    spread = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in features.split(ROWS):
        centred = part.double() - mean
        spread += centred.T @ centred
    return Moments(mean, spread / (len(features) - 1))


def _root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a covariance; rounding's negative eigenvalues are 0."""
    w, v = torch.linalg.eigh(matrix)
    return v * w.clamp(min=0).sqrt() @ v.T


def frechet(a: Moments, b: Moments) -> float:
    """Squared Fréchet distance of the two Gaussians. Also right for N < D."""
    root = _root(a.covariance)
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    gap = (a.mean - b.mean).square().sum()
    return float(gap + a.covariance.trace() + b.covariance.trace() - 2 * cross)


Kernel = Callable[[Tensor, Tensor], Tensor]


def _polynomial(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _gaussian(x: Tensor, y: Tensor, sigma: float = 10.0) -> Tensor:
    gap = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T
    return torch.exp(-gap / (2 * sigma**2))


def _sum(kernel: Kernel, x: Tensor, y: Tensor) -> float:
    """Of k over all pairs, in float64."""
    return sum(float(kernel(part.double(), y.double()).sum()) for part in x.split(ROWS))


def _mmd(kernel: Kernel, x: Tensor, y: Tensor, *, itself: bool) -> float:
    """Squared maximum mean discrepancy. itself: whether a picture pairs with itself."""
    n, m = len(x), len(y)
    xx, yy = _sum(kernel, x, x), _sum(kernel, y, y)
    if itself:
        within = xx / n**2 + yy / m**2
    else:
        xx, yy = (total - sum(float(kernel(row, row)) for row in z.double().split(1))
                  for total, z in ((xx, x), (yy, y)))  # fmt: skip
        within = xx / (n * (n - 1)) + yy / (m * (m - 1))
    return within - 2 * _sum(kernel, x, y) / (n * m)


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """KD of features (N, D) and (M, D), N and M at least 2; unbiased, so it may be below 0."""
    return _mmd(_polynomial, x, y, itself=False)


def subset_kernel_distance(
    x: Tensor, y: Tensor, subsets: int, size: int, seed: int
) -> tuple[float, float]:
    """Mean and standard deviation of `kernel_distance` over pairs of random subsets, drawn as
    torch-fidelity 0.4 draws them. Raises ValueError for fewer features than `size`."""
    if min(len(x), len(y)) < size:
        raise ValueError(f"subsets of {size:,} need as many pictures, given {len(x):,} and "
                         f"{len(y):,}")  # fmt: skip
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        rows, columns = (rng.choice(len(z), size, replace=False) for z in (x, y))
        values.append(kernel_distance(x[rows], y[columns]))
    return float(np.mean(values)), float(np.std(values))


def cmmd(x: Tensor, y: Tensor) -> float:
    """CMMD of CLIP features (N, D) and (M, D), rows of length 1."""
    return 1000 * _mmd(_gaussian, x, y, itself=True)


def inception_score(logits: Tensor, size: int) -> tuple[float, float]:
    """Mean and standard deviation over consecutive splits of `size` rows of logits (N, C); the
    last may be smaller."""
    scores = []
    for part in logits.double().split(size):
        p = part.log_softmax(1)
        marginal = p.exp().mean(0).log()
        scores.append(float((p.exp() * (p - marginal)).sum(1).mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))


def _radii(x: Tensor, k: int) -> Tensor:
    """(N,) distance of each row to its k-th neighbour, itself not counted."""
    return torch.cat([torch.cdist(part, x).kthvalue(k + 1, dim=1).values
                      for part in x.split(ROWS)])  # fmt: skip


def _covered(x: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Share of the rows of x that lie in at least one ball."""
    inside = [(torch.cdist(part, centres) <= radii).any(1) for part in x.split(ROWS)]
    return float(torch.cat(inside).double().mean())


def precision_recall(x: Tensor, y: Tensor, k: int = 3) -> tuple[float, float]:
    """Of samples (N, D) and a reference (M, D). Raises ValueError for fewer than k + 1 of one."""
    if min(len(x), len(y)) <= k:
        raise ValueError(f"{k} neighbours need at least {k + 1} pictures, given {len(x)} and "
                         f"{len(y)}")  # fmt: skip
    x, y = x.double(), y.double()
    return _covered(x, y, _radii(y, k)), _covered(y, x, _radii(x, k))
