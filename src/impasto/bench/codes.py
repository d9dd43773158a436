"""What ids of pictures say of a tokenizer: how its codes are used, and what each stands for.

    perplexity   exp(H) of the codes' frequencies: how many codes, used equally often, say as much
    cover        share of ids that the k most used codes make up, k = 1, 2, 4, ...
    same class   P(two places of one code show the same class), over pairs of different places,
                 sum_c n_c p_c / sum_c n_c  with  p_c = sum_y n_cy (n_cy - 1) / (n_c (n_c - 1)),
                 of codes that occur at least twice; chance: the same of all places together
    colour       sum_c n_c s_c^2 / sum_c n_c  over  s^2: how much of the variance of a place's mean
                 colour is left inside a code (s_c^2 with n_c - 1; summed over channels)

Both are unbiased however rare a code is, where a code's most frequent class would be its only one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from impasto.bench.reconstruction import use_of_counts

__all__ = ["NOTHING", "cover", "meaning", "place_classes", "place_colors", "use_of", "uses"]

NOTHING = -1
"""The class of a place that shows the background."""


def use_of(ids: Tensor, size: int) -> dict[str, Any]:
    """Of ids of any shape, 0 to size - 1: {"ids": how many, "distinct", "share" of the size codes,
    "perplexity"}. Raises ValueError for others or for none."""
    flat = ids.reshape(-1)
    if not len(flat) or int(flat.min()) < 0 or int(flat.max()) >= size:
        raise ValueError(f"codes must be from 0 to {size - 1}, at least one")
    counts = torch.unique(flat, return_counts=True)[1]
    return {"ids": len(flat), "distinct": len(counts), "share": len(counts) / size,
            "perplexity": use_of_counts(counts).perplexity}  # fmt: skip


def uses(ids: Tensor, sizes: Sequence[tuple[int, int]], size: int) -> list[dict[str, Any]]:
    """`use_of` of every map. ids: (N, sum h_k w_k), maps one after another."""
    parts = ids.split([h * w for h, w in sizes], dim=1)
    return [{"size": list(own), **use_of(part, size)}
            for own, part in zip(sizes, parts, strict=True)]  # fmt: skip


def cover(ids: Tensor) -> list[tuple[int, float]]:
    """(k, share of ids that are of the k most used codes): for k = 1, 2, 4 …, of all codes, and
    the first k of at least a half."""
    counts = torch.unique(ids, return_counts=True)[1].sort(descending=True).values
    shares = counts.cumsum(0).double() / counts.sum()
    half = 1 + int((shares < 0.5).sum())
    ends = sorted({*(2**i for i in range(len(counts).bit_length())), half, len(counts)})
    return [(k, float(shares[k - 1])) for k in ends]


def place_colors(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h w, 3): mean colour of each place of a map over pictures (B, 3, H, W)."""
    return F.adaptive_avg_pool2d(images, size).flatten(2).transpose(1, 2)


def place_classes(classes: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h w) int16: the class that most pixels of a place show. classes: (B, H, W)."""
    there = classes.unique()
    shares = torch.stack([F.adaptive_avg_pool2d((classes == one).float(), size)
                          for one in there])  # fmt: skip
    return there[shares.argmax(0)].flatten(1).to(torch.int16)


def _pairs(labels: np.ndarray[Any, Any]) -> float:
    """P(two different ones of these are equal); at least two."""
    counts = np.unique(labels, return_counts=True)[1].astype(float)
    n = len(labels)
    return float((counts * (counts - 1)).sum() / (n * (n - 1)))


def _groups(ids: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Places of each code that occurs at least twice."""
    order = np.argsort(ids, kind="stable")
    starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
    return [group for group in np.split(order, starts[1:]) if len(group) > 1]


def meaning(ids: Tensor, colors: Tensor, classes: Tensor | None) -> dict[str, Any]:
    """JSON-ready, of the ids (N, n) of one map, its places' colours (N, n, 3) and, where they are
    known, classes (N, n): {"repeated": share of places whose code occurs twice, "color_left",
    "same_class", "chance"}; null where there is nothing to say it by."""
    flat, paint = ids.flatten().numpy(), colors.flatten(0, 1).double().numpy()
    groups = _groups(flat)
    n = sum(map(len, groups))
    total = float(paint.var(axis=0, ddof=1).sum()) if len(flat) > 1 else 0.0
    left = sum(len(g) * float(paint[g].var(axis=0, ddof=1).sum()) for g in groups)
    found = {"repeated": n / len(flat),
             "color_left": left / n / total if n and total else None}  # fmt: skip
    if classes is None:
        return found
    labels = classes.flatten().numpy()
    same = sum(len(g) * _pairs(labels[g]) for g in groups)
    return found | {"same_class": same / n if n else None,
                    "chance": _pairs(labels) if len(labels) > 1 else None}  # fmt: skip
