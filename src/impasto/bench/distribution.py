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

x: the samples, y: the reference. A distance is called after its measure and its extractor,
"fd_sticker_detector"; FID, sFID, KID and IS are those of one published Inception only, and its
flavour is in the name: "fid_clean". Which measures an extractor has is the extractor's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["MEASURES", "FeatureSet", "Moments", "check_enough", "cmmd", "distances", "frechet",
           "inception_score", "kernel_distance", "moments", "precision_recall",
           "subset_kernel_distance"]  # fmt: skip

ROWS = 1024
"""Rows of a matrix of pairs that are in memory at once."""
Values = dict[str, dict[str, float]]
"""Measure -> {"value": …} and, over subsets or splits, {"std": …}."""


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


# ------------------------------------------------------------- measures, by what they need


@dataclass(frozen=True)
class FeatureSet:
    """Features of one set of pictures.

    count: pictures. streams: "pool", "spatial", "logits" -> (count, D). given: moments of a
    published reference, which stand for features that nobody has.
    """

    count: int
    streams: Mapping[str, Tensor] = field(default_factory=dict)
    given: Mapping[str, Moments] = field(default_factory=dict)

    def moments(self, stream: str) -> Moments:
        return self.given[stream] if stream in self.given else moments(self.streams[stream])


Options = Mapping[str, Any]


class Measure(NamedTuple):
    """compute: (samples, reference, options) -> values. stream: what it looks at. least: pictures
    of each set that it needs, from the stream's width and its options. reference: which of
    "features", "moments" (features will do), "nothing" it needs of the reference."""

    compute: Callable[[FeatureSet, FeatureSet, Options], Values]
    stream: str
    least: Callable[[int, Options], int]
    reference: str = "features"


def _frechet(name: str, stream: str) -> Measure:
    def compute(x: FeatureSet, y: FeatureSet, options: Options) -> Values:
        return {name: {"value": frechet(x.moments(stream), y.moments(stream))}}

    return Measure(compute, stream, lambda width, options: width + 1, "moments")


def _subsets(x: FeatureSet, y: FeatureSet, options: Options) -> Values:
    value, std = subset_kernel_distance(x.streams["pool"], y.streams["pool"], **options)
    return {"kid": {"value": value, "std": std}}


def _whole(x: FeatureSet, y: FeatureSet, options: Options) -> Values:
    return {"kd": {"value": kernel_distance(x.streams["pool"], y.streams["pool"])}}


def _cmmd(x: FeatureSet, y: FeatureSet, options: Options) -> Values:
    return {"cmmd": {"value": cmmd(x.streams["pool"], y.streams["pool"])}}


def _precision_recall(x: FeatureSet, y: FeatureSet, options: Options) -> Values:
    values = precision_recall(x.streams["pool"], y.streams["pool"], **options)
    return {name: {"value": value}
            for name, value in zip(("precision", "recall"), values, strict=True)}  # fmt: skip


def _inception_score(x: FeatureSet, y: FeatureSet, options: Options) -> Values:
    """options: "size" of a split; or "splits", of rows shuffled from "seed" (torch-fidelity)."""
    logits = x.streams["logits"]
    if "splits" not in options:
        value, std = inception_score(logits, options["size"])
        return {"is": {"value": value, "std": std}}
    order = np.random.RandomState(options["seed"]).permutation(len(logits))
    n, splits = len(logits), options["splits"]
    shuffled = logits[order]
    scores = [inception_score(part, len(part))[0] for part in
              (shuffled[i * n // splits : (i + 1) * n // splits] for i in range(splits))]
    return {"is": {"value": float(np.mean(scores)), "std": float(np.std(scores))}}


MEASURES: Mapping[str, Measure] = {
    "fid": _frechet("fid", "pool"),
    "sfid": _frechet("sfid", "spatial"),
    "fd": _frechet("fd", "pool"),
    "sfd": _frechet("sfd", "spatial"),
    "kid": Measure(_subsets, "pool", lambda width, options: options["size"]),
    "kd": Measure(_whole, "pool", lambda width, options: 2),
    "cmmd": Measure(_cmmd, "pool", lambda width, options: 2),
    "is": Measure(_inception_score, "logits", lambda width, options: options.get("splits", 2),
                  "nothing"),
    "precision_recall": Measure(_precision_recall, "pool",
                                lambda width, options: options["k"] + 1),
}  # fmt: skip


def check_enough(
    extractor: str, measures: Mapping[str, Options], widths: Mapping[str, int], *, samples: int,
    reference: int, given: Mapping[str, Moments] | None = None,
) -> None:  # fmt: skip
    """Whether all `measures` can be had of so many pictures; to be asked before any is looked at.

    widths: of the extractor's streams. given: published moments of the reference, which may stand
    alone (reference = 0). Raises ValueError that says how many pictures are needed, or for which
    measure moments are not enough or are of other features.
    """
    for name, options in measures.items():
        rule, others = MEASURES[name], "+".join(key for key in measures if key != name)
        out = f", or leave it out: measures={others}" if others else ""
        width, counts = widths[rule.stream], [samples]
        moment = (given or {}).get(rule.stream) if rule.reference == "moments" else None
        if moment is not None and len(moment.mean) != width:
            raise ValueError(f"{name}_{extractor} is of {width:,} features, the reference's "
                             f"moments are of {len(moment.mean):,}")  # fmt: skip
        if moment is None and rule.reference != "nothing":
            counts.append(reference)
        if not reference and len(counts) > 1:
            raise ValueError(f"{name}_{extractor} needs the reference's pictures, which its "
                             f"moments do not tell; give a folder of them{out}")  # fmt: skip
        if min(counts) < (least := rule.least(width, options)):
            why = (f": a covariance of {width:,} features takes more pictures than features"
                   if rule.reference == "moments" else "")  # fmt: skip
            raise ValueError(f"{name}_{extractor} needs at least {least:,} pictures, there are "
                             f"{min(counts):,}{why}; give more{out}")  # fmt: skip


def distances(
    extractor: str, measures: Mapping[str, Options], samples: FeatureSet, reference: FeatureSet
) -> Values:
    """{"fd_sticker_detector": {"value": …}, …}: every measure, called after the extractor.

    Raises ValueError for features that are not finite.
    """
    values: Values = {}
    for name, options in measures.items():
        rule = MEASURES[name]
        found = rule.compute(samples, reference, options)
        values |= {f"{key}_{extractor}": value for key, value in found.items()}
    return values
