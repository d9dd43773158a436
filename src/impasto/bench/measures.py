"""Distances by name: what each measure needs of two sets of pictures, and what it is called.

A distance is called after its measure and its extractor, "fd_sticker_detector"; FID, sFID, KID
and IS are those of one published Inception only, and its flavour is in the name: "fid_clean".
Which measures an extractor has is the extractor's to say. The formulas are in
`impasto.bench.distribution`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from impasto.bench.distribution import (
    Moments,
    cmmd,
    frechet,
    inception_score,
    kernel_distance,
    moments,
    precision_recall,
    subset_kernel_distance,
)

__all__ = ["MEASURES", "FeatureSet", "check_enough", "distances"]

Values = dict[str, dict[str, float]]
"""Measure -> {"value": …} and, over subsets or splits, {"std": …}."""


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
        out = f", or leave it out: --features NAME:measures={others}" if others else ""
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
