"""What a reconstruction run sums up to.

    PSNR, SSIM, LPIPS   mean over pictures, 95 %: bootstrap up to 1,000 pictures, beyond them the
                        normal law's +- 1.96 s / sqrt(n), which is then the same
    rFID                the reconstructions' distance from the same originals; "fd_…" of others
    verdicts            share of the originals' true verdicts that hold of the reconstructions,
                        by task and over all, Wilson's 95 %
    mean_color_error    |mean of x - mean of y| a channel, in 8-bit levels, mean of the three
    tokens              how many a generator draws for a picture, and bits of its ids: n log2 K
    codebook, maps      ids, distinct ones, their share of all codes, perplexity: all maps and each
    meaning             what codes of the last map stand for (`impasto.bench.codes`)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from impasto.bench.codes import meaning, use_of, uses
from impasto.bench.measures import FeatureSet, distances
from impasto.bench.reconstruction import decibels
from impasto.score.check import wilson
from impasto.score.statistics import Outcome, bootstrap

__all__ = ["MEANS", "kept_verdicts", "mean_interval", "summarise_ids",
           "summarise_reconstruction"]  # fmt: skip

MEANS = ("ssim_", "mean_color_error", "lpips_", "perceptual_")
"""How the names of measures begin that are a number a picture, besides PSNR."""

BOOTSTRAPPED = 1000
OWN_NAME = ("fid", "sfid", "kid")
"""Measures that are called rFID and so on between reconstructions and originals."""


def mean_interval(values: Tensor) -> dict[str, float]:
    """{"value", "low", "high"} of (n,) values. Raises ValueError for none.

    One value alone has no interval: low and high are left out.
    """
    n = len(values)
    if not n:
        raise ValueError("no pictures: there is nothing to sum up")
    values = values.double()
    mean = float(values.mean())
    if n == 1:
        return {"value": mean}
    if n > BOOTSTRAPPED:
        half = 1.96 * float(values.std()) / n**0.5
        return {"value": mean, "low": mean - half, "high": mean + half}
    outcomes = [Outcome("pictures", str(i), 0, value) for i, value in enumerate(values.tolist())]
    return bootstrap(outcomes).overall._asdict()


def _psnr(mse: Tensor) -> dict[str, Any]:
    """Of the pictures that differ at all: an exact one has no number. exact: how many are."""
    differing = mse[mse > 0]
    exact = len(mse) - len(differing)
    if not len(differing):
        return {"value": None, "exact": exact}
    return {**mean_interval(decibels(differing)), "exact": exact}


def kept_verdicts(before: Tensor, after: Tensor, tasks: Sequence[str]) -> dict[str, Any]:
    """before, after: (n,) bool verdicts on originals and reconstructions.

    tasks: task -> {"kept", "of", "value", "low", "high"} where at least one original is judged
    right; overall: the same over all; gained: originals judged wrong whose reconstruction is
    judged right.
    """
    rows: dict[str, list[bool]] = {}
    for was, held, task in zip(before.tolist(), after.tolist(), tasks, strict=True):
        if was:
            rows.setdefault(task, []).append(held)

    def share(held: Sequence[bool]) -> dict[str, Any]:
        low, high = wilson(sum(held), len(held))
        return {"kept": sum(held), "of": len(held), "value": sum(held) / len(held), "low": low,
                "high": high}  # fmt: skip

    everything = [held for task in rows.values() for held in task]
    return {"tasks": {task: share(rows[task]) for task in dict.fromkeys(tasks) if task in rows},
            "overall": share(everything) if everything else None,
            "gained": int((after.bool() & ~before.bool()).sum())}  # fmt: skip


def summarise_reconstruction(
    found: Mapping[str, Tensor], measures: Mapping[str, Mapping[str, Any]],
    restored: Mapping[str, FeatureSet], originals: Mapping[str, FeatureSet], *,
    tasks: Sequence[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """JSON-ready. found: "mse", "ssim_…", "lpips_…", "before", "after" over all pictures.

    measures, restored, originals: by the extractor's name. tasks: of each picture, where verdicts
    were asked for.
    """
    values: dict[str, Any] = {"psnr": _psnr(found["mse"])}
    values |= {key: mean_interval(value) for key, value in sorted(found.items(), reverse=True)
               if key.startswith(MEANS)}  # fmt: skip
    between: dict[str, dict[str, float]] = {}
    for name, wanted in measures.items():
        for key, value in distances(name, wanted, restored[name], originals[name]).items():
            own = key.startswith(tuple(f"{measure}_" for measure in OWN_NAME))
            between[f"r{key}" if own else key] = value
    summary: dict[str, Any] = {"means": values, "distances": between}
    if tasks is not None:
        summary["verdicts"] = kept_verdicts(found["before"], found["after"], tasks)
    return summary


def summarise_ids(
    found: Mapping[str, Tensor], sizes: Sequence[tuple[int, int]], codebook_size: int, tokens: int
) -> dict[str, Any]:
    """JSON-ready. found: "codes" (N, n), of maps of `sizes` one after another; "place_color" and
    perhaps "place_class" of the last map's places. tokens: of a picture, as a generator counts."""
    codes = found["codes"]
    last = codes[:, -sizes[-1][0] * sizes[-1][1] :]
    return {
        "tokens": {"per_picture": tokens, "ids": codes.shape[1],
                   "bits": codes.shape[1] * math.log2(codebook_size)},
        "codebook": {"size": codebook_size, **use_of(codes, codebook_size)},
        "maps": uses(codes, sizes, codebook_size),
        "meaning": meaning(last, found["place_color"], found.get("place_class")),
    }  # fmt: skip
