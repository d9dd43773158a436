"""What a reconstruction run sums up to.

    PSNR, SSIM, LPIPS   mean over pictures, 95 %: bootstrap up to 1,000 pictures, beyond them the
                        normal law's +- 1.96 s / sqrt(n), which is then the same
    rFID                the reconstructions' distance from the same originals; "fd_…" of others
    verdicts            share of the originals' true verdicts that hold of the reconstructions,
                        by task and over all, Wilson's 95 %
    codebook            share of codes used and perplexity, over all pictures
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from impasto.bench.measures import FeatureSet, distances
from impasto.bench.reconstruction import codebook_use, decibels
from impasto.score.check import wilson
from impasto.score.statistics import Outcome, bootstrap

__all__ = ["kept_verdicts", "mean_interval", "summarise_reconstruction"]

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
    tasks: Sequence[str] | None = None, codebook_size: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """JSON-ready. found: "mse", "ssim_…", "lpips_…", "before", "after", "codes" over all pictures.

    measures, restored, originals: by the extractor's name. tasks: of each picture, where verdicts
    were asked for. codebook_size: of a vector-quantised model.
    """
    values: dict[str, Any] = {"psnr": _psnr(found["mse"])}
    values |= {key: mean_interval(value) for key, value in sorted(found.items(), reverse=True)
               if key.startswith(("ssim_", "lpips_", "perceptual_"))}  # fmt: skip
    between: dict[str, dict[str, float]] = {}
    for name, wanted in measures.items():
        for key, value in distances(name, wanted, restored[name], originals[name]).items():
            own = key.startswith(tuple(f"{measure}_" for measure in OWN_NAME))
            between[f"r{key}" if own else key] = value
    summary: dict[str, Any] = {"means": values, "distances": between}
    if tasks is not None:
        summary["verdicts"] = kept_verdicts(found["before"], found["after"], tasks)
    if codebook_size is not None:
        use = codebook_use(found["codes"], codebook_size)
        summary["codebook"] = {"size": codebook_size, **use._asdict()}
    return summary
