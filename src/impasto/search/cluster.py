"""Keeping rows that differ: k-means over patch features, and the row nearest to each centre.

Of the patch features X (P, D) of one picture, less their mean over places:

    pca          X v_1, v_1 the first right singular vector of this picture's X
    pca-signed   the same, v_1 turned so that its largest component is positive
    pca-all      X v_1, one v_1 and one mean of all candidates' places together
    pool         the mean over places, (D)

(TTS-VAR, arXiv 2507.18537; `pca` is its default: one number a place, so the layout stays. The sign
of a singular vector is arbitrary, so two like pictures may lie far apart: pca-signed mends it.)
With u_1 the first eigenvector of X X^T and s_1 the root of its eigenvalue, X v_1 = s_1 u_1.

k-means starts by k-means++ (Arthur and Vassilvitskii 2007) from a fixed seed and goes on by
Lloyd's steps until no row changes its cluster. Of fewer distinct rows than clusters each gives one
representative, and the rest are the first rows that are left. Own, since scipy's has no answer
where rows are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from impasto.sample.protocol import Cost
from impasto.sample.seeds import row_uniforms
from impasto.search.engine import Chosen, Population, Selector
from impasto.search.selectors import drawn_by
from impasto.zoo.registry import nearest

if TYPE_CHECKING:
    from impasto.score.features.patches import Patches

__all__ = ["PROJECTIONS", "Cluster", "k_means", "project", "representatives"]

ROUNDS = 300
"""Lloyd's steps, at most."""


def _first(x: Tensor) -> tuple[Tensor, Tensor]:
    """X v_1 (…, P) and v_1 (…, D) of x (…, P, D), by the smaller of X X^T and X^T X."""
    if x.shape[-2] < x.shape[-1]:
        s, u = torch.linalg.eigh(x @ x.mT)
        along = u[..., -1] * s[..., -1:].clamp(min=0).sqrt()
        v = (x.mT @ u[..., -1:]).squeeze(-1)
        return along, v / v.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    v = torch.linalg.eigh(x.mT @ x).eigenvectors[..., -1]
    return (x @ v.unsqueeze(-1)).squeeze(-1), v


def _pca(x: Tensor) -> Tensor:
    return _first(x - x.mean(1, keepdim=True))[0]


def _pca_signed(x: Tensor) -> Tensor:
    along, v = _first(x - x.mean(1, keepdim=True))
    return along * v.gather(-1, v.abs().argmax(-1, keepdim=True)).sign()


def _pca_all(x: Tensor) -> Tensor:
    places = x.flatten(0, 1)
    return _first(places - places.mean(0))[0].view(x.shape[:2])


PROJECTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "pca": _pca, "pca-signed": _pca_signed, "pca-all": _pca_all,
    "pool": lambda x: x.mean(1),
}  # fmt: skip


def project(patches: Tensor, projection: str) -> np.ndarray:
    """Patch features (B, P, D) as one row a picture, (B, P) or for "pool" (B, D), float64."""
    return PROJECTIONS[projection](patches.double()).cpu().numpy()


def _distances(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared Euclidean, (B, k)."""
    return ((rows[:, None] - centres[None]) ** 2).sum(-1)


def _seeded(rows: np.ndarray, k: int, seed: int) -> np.ndarray:
    """At most k of the rows as centres, each drawn with probability ∝ its squared distance from
    those before; fewer where no other row is left."""
    weights, chosen = np.ones(len(rows)), []
    for u in row_uniforms([seed], k)[0].numpy():
        if not weights.any():
            break
        chosen.append(int(drawn_by(weights, u)))
        weights = _distances(rows, rows[chosen]).min(1)
    return rows[chosen]


def k_means(rows: np.ndarray, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Each row's cluster (B,), and the centres (at most k, D), of rows (B, D)."""
    centres, labels = _seeded(rows, k, seed), np.full(len(rows), -1)
    for _ in range(ROUNDS):
        found = _distances(rows, centres).argmin(1)
        if (found == labels).all():
            break
        labels = found
        for cluster in set(labels.tolist()):  # an empty one keeps its centre
            centres[cluster] = rows[labels == cluster].mean(0)
    return labels, centres


def representatives(rows: np.ndarray, k: int) -> tuple[int, ...]:
    """k distinct indices, ascending: of each cluster the row nearest to its centre.

    Raises ValueError for more clusters than rows, or rows that are not finite.
    """
    if k > len(rows):
        raise ValueError(f"{k} clusters need as many candidates, there are {len(rows)}")
    if not np.isfinite(rows).all():
        raise ValueError("the features of a candidate are NaN or infinite; the network that gives "
                         "them, or the model that draws, is broken")  # fmt: skip
    labels, centres = k_means(rows, k)
    distances = _distances(rows, centres)
    chosen = []
    for cluster in sorted(set(labels.tolist())):
        members = np.flatnonzero(labels == cluster)
        chosen.append(int(members[distances[members, cluster].argmin()]))
    left = [i for i in range(len(rows)) if i not in chosen]
    return tuple(sorted([*chosen, *left[: k - len(chosen)]]))


class Cluster(Selector):
    """As many different rows as are to be kept.

    projection: a key of `PROJECTIONS`; None is "pca", or "pool" for features of the whole picture.
    Raises ValueError for an unknown projection, and for one of places that the features have not.
    """

    kind = "cluster"

    def __init__(self, patches: Patches, projection: str | None = None) -> None:
        projection = projection or ("pca" if patches.places else "pool")
        if projection not in PROJECTIONS:
            raise ValueError(f"unknown projection {projection!r}: "
                             f"{nearest(str(projection), list(PROJECTIONS))}")  # fmt: skip
        if not patches.places and projection != "pool":
            raise ValueError(f"features {patches.name!r} are of the whole picture, so the "
                             f"projection must be pool, given {projection}")  # fmt: skip
        self.patches, self.projection = patches, projection

    def __call__(self, population: Population, keep: int) -> Chosen:
        images = population.images
        rows = project(self.patches(images), self.projection)
        each = self.patches.flops(*images.shape[-2:])
        cost = Cost(feature_calls=len(images),
                    reward_flops=None if each is None else len(images) * each)  # fmt: skip
        return Chosen(representatives(rows, keep), cost=cost)

    def provenance(self) -> dict[str, Any]:
        return {"features": self.patches.provenance(), "projection": self.projection}
