"""How far two sets of pictures are apart: the run behind `impasto measure distance`.

    OUT/run.json  OUT/parts/…  OUT/summary.json  OUT/cost.json

summary.json: {"samples": {"name", "pictures"}, "reference": …, "pictures": [height, width],
"features": {"sticker_detector": "RESIZING"}, "distances": {"fd_sticker_detector": {"value": …}}}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from impasto.bench.distribution import Moments
from impasto.bench.measures import FeatureSet, check_enough, distances
from impasto.files import write_json
from impasto.run.cost import Meter
from impasto.run.directory import RunDirectory, opened
from impasto.run.parts import in_parts
from impasto.run.pictures import Frame, Pictures
from impasto.run.provenance import default_folder, normal, versions
from impasto.score.features import Extractor

__all__ = ["WHOLE", "check_extractors", "common_size", "feature_sets", "features_of",
           "measure_distance", "resizing"]  # fmt: skip

Progress = Callable[[str, int, int], None]


WHOLE = Frame()
"""Pictures as they are."""
Given = Mapping[str, Moments] | None


def silent(what: str, done: int, total: int) -> None:
    """No progress."""


def check_extractors(
    extractors: Sequence[Extractor], samples: int, reference: int, given: Given = None
) -> None:
    """Raises ValueError for one asked for twice, and as `check_enough`."""
    names = [extractor.name for extractor in extractors]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"features {', '.join(sorted(twice))} are asked for twice")
    for extractor in extractors:
        check_enough(extractor.name, extractor.measures, extractor.widths, samples=samples,
                     reference=reference, given=given)  # fmt: skip


def features_of(extractors: Sequence[Extractor], images: Tensor) -> dict[str, Tensor]:
    """{"EXTRACTOR.STREAM": (B, D)} of pictures (B, 3, H, W)."""
    return {f"{extractor.name}.{stream}": value for extractor in extractors
            for stream, value in extractor(images).items()}  # fmt: skip


def resizing(extractors: Sequence[Extractor]) -> dict[str, str]:
    """Extractor's name -> how pictures come to its size, which is a part of every distance."""
    return {extractor.name: extractor.provenance()["resize"] for extractor in extractors}


def _looked(
    pictures: Pictures, frame: Frame, extractors: Sequence[Extractor], at: range
) -> dict[str, Tensor]:
    return features_of(extractors, frame.resize(pictures.read(at, frame)))


def feature_sets(
    extractors: Sequence[Extractor], count: int, found: Mapping[str, Tensor], given: Given = None
) -> dict[str, FeatureSet]:
    """Extractor's name -> its features, of what `features_of` gave of all pictures."""
    return {
        extractor.name: FeatureSet(
            count, {key.partition(".")[2]: value for key, value in found.items()
                    if key.partition(".")[0] == extractor.name}, given or {})
        for extractor in extractors
    }  # fmt: skip


def common_size(samples: Pictures, reference: Pictures, frame: Frame) -> list[int]:
    """The common height and width. Raises ValueError when the sets differ in it."""
    sizes = [side.framed(frame) for side in (samples, reference) if len(side)]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"the pictures of {samples.name} are {sizes[0][1]} x {sizes[0][0]}, those of "
            f"{reference.name} {sizes[1][1]} x {sizes[1][0]}: a distance between resolutions is "
            f"not one between models; give --size PIXELS to cut both to a square"
        )
    return [frame.measured, frame.measured] if frame.measured else list(sizes[0])


def measure_distance(
    samples: Pictures, reference: Pictures, extractors: Sequence[Extractor],
    out: str | Path | None = None, *, frame: Frame = WHOLE, batch_size: int = 8,
    progress: Progress = silent,
) -> RunDirectory:  # fmt: skip
    """Distances of `samples` from `reference` by each extractor's measures, in a run folder.

    Interrupted at any moment, the same call goes on. Raises ValueError, before anything is looked
    at, for sets of different sizes, too few pictures, or no extractor; the errors of
    `impasto.run.directory.opened` for the folder.
    """
    if not extractors:
        raise ValueError("name the features to compare by: --features NAME")
    if not len(samples):
        raise ValueError(f"{samples.name} holds moments and no pictures; it can be the reference, "
                         f"not the samples")  # fmt: skip
    check_extractors(extractors, len(samples), len(reference), reference.given)
    size = common_size(samples, reference, frame)
    record = normal({
        "kind": "distance", "samples": samples.provenance(), "reference": reference.provenance(),
        "frame": frame.record(), "features": [e.provenance() for e in extractors],
        "versions": versions(),
    })  # fmt: skip
    with opened(out or default_folder("distance", record), record) as run:
        meter = Meter(run, drawn=False)
        sets = []
        with meter.timing("score"):
            for side, pictures in (("samples", samples), ("reference", reference)):
                look = partial(_looked, pictures, frame, extractors)
                found = in_parts(run.path / "parts", side, len(pictures), look,
                                 batch_size=batch_size, progress=partial(progress, side))
                given = pictures.given if side == "reference" else None
                sets.append(feature_sets(extractors, len(pictures), found, given))
            values: dict[str, Any] = {}
            for e in extractors:
                values |= distances(e.name, e.measures, sets[0][e.name], sets[1][e.name])
        write_json(run.summary, {
            "samples": {"name": samples.name, "pictures": len(samples)},
            "reference": {"name": reference.name, "pictures": len(reference),
                          "moments": sorted(reference.given)},
            "pictures": size, "features": resizing(extractors), "distances": values,
        })  # fmt: skip
    return run
