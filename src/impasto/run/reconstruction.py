"""What an autoencoder leaves of pictures: the run behind `impasto eval reconstruction` and
`impasto measure reconstruction`.

    OUT/run.json  OUT/images/00000000.png …  OUT/parts/…  OUT/pictures.jsonl  OUT/summary.json
    and what the page shows besides (`impasto.run.shown`)

A picture is read, cut (`Frame`), reconstructed and put on the 8-bit grid, so that every figure is
of what is in images/. (Rounded; LlamaGen and TokenFlow cut off 127.5 x + 128 of x in [-1, 1],
which is the same but for exact halves.) pictures.jsonl has a line for each: {"name", "image",
"psnr" (null for one that came back exactly), "ssim_…", "mean_color_error" (8-bit levels),
"lpips_…", "before", "after" (verdicts)}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from impasto.bench.codes import place_classes, place_colors
from impasto.bench.reconstruction import SMALLEST, SSIMS, decibels, ssim
from impasto.bench.reconstruction_summary import (
    MEANS,
    summarise_ids,
    summarise_reconstruction,
)
from impasto.files import write_json, write_text
from impasto.images import quantise, write_png
from impasto.models.autoencoders import Autoencoder
from impasto.run.cost import Meter
from impasto.run.directory import RunDirectory, opened
from impasto.run.distance import (
    Progress,
    check_extractors,
    feature_sets,
    features_of,
    resizing,
    silent,
)
from impasto.run.parts import in_parts
from impasto.run.pictures import Frame, Pictures
from impasto.run.provenance import default_folder, normal, versions
from impasto.run.shown import image_name, keep_codes, keep_pictures
from impasto.run.speed import pictures_per_second
from impasto.score.base import Scorer
from impasto.score.features import Extractor
from impasto.score.lpips import Lpips

__all__ = ["ReconstructionSettings", "measure_reconstruction"]


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings:
    """What is measured, and by what.

    perceptual: LPIPS variants. extractors: what the distance of the reconstructions from the same
    originals (rFID) is computed of. scorer: gives verdicts on the world's scenes before and after.
    """

    model: Autoencoder
    pictures: Pictures
    frame: Frame = field(default_factory=Frame)
    perceptual: Sequence[Lpips] = ()
    extractors: Sequence[Extractor] = ()
    scorer: Scorer | None = None

    def check(self) -> tuple[int, int]:
        """Height and width of the originals as they are reconstructed.

        Raises ValueError for what cannot be measured, ScorerBroken for a broken scorer.
        """
        if not len(self.pictures):
            raise ValueError(f"{self.pictures.name} holds moments and no pictures")
        height, width = self.pictures.framed(self.frame)
        try:
            self.model.sizes_of(height, width)
        except ValueError as error:
            raise ValueError(f"the pictures are {width} x {height}: {error}; "
                             f"{self.frame.advice}") from error  # fmt: skip
        compared = self.frame.measured or min(height, width)
        if compared < SMALLEST:
            raise ValueError(f"pictures are compared at {SMALLEST} x {SMALLEST} pixels or more, "
                             f"given a side of {compared}; enlarge them (--size, --measured)"
                             )  # fmt: skip
        names = [each.name for each in self.perceptual]
        if len(set(names)) < len(names):
            raise ValueError(f"perceptual distances are asked for twice: {', '.join(names)}")
        check_extractors(self.extractors, len(self.pictures), len(self.pictures))
        if self.scorer is not None:
            self._check_scorer(self.scorer)
        return height, width

    def _check_scorer(self, scorer: Scorer) -> None:
        if self.pictures.specs(range(1)) is None:
            raise ValueError("verdicts need pictures whose truth is known: world:scenes=NUMBER")
        if not scorer.gives_verdict:
            raise ValueError("this scorer gives no verdict; give one with a rule, as 'sticker'")
        scorer.self_test()

    def record(self) -> dict[str, Any]:
        """The content of `run.json`."""
        return normal({
            "kind": "reconstruction", "model": self.model.provenance(),
            "pictures": self.pictures.provenance(), "frame": self.frame.record(),
            "ssim": list(SSIMS), "perceptual": [each.provenance() for each in self.perceptual],
            "features": [extractor.provenance() for extractor in self.extractors],
            "scorer": None if self.scorer is None else self.scorer.provenance(),
            "versions": versions(),
        })  # fmt: skip

    def tasks(self) -> list[str] | None:
        """Of each picture, where there are verdicts."""
        specs = self.pictures.specs(range(len(self.pictures))) if self.scorer is not None else None
        return None if specs is None else [spec.tag for spec in specs]


def measure_reconstruction(
    settings: ReconstructionSettings, out: str | Path | None = None, *, batch_size: int = 8,
    progress: Progress = silent,
) -> RunDirectory:  # fmt: skip
    """Reconstruct every picture and write a run folder with what is lost.

    Interrupted at any moment, the same call goes on. Raises ValueError, before anything is looked
    at, for pictures of several sizes or of one that the model does not take, and for too few;
    ScorerBroken; the errors of `impasto.run.directory.opened` for the folder.
    """
    height, width = settings.check()
    record, pictures = settings.record(), settings.pictures
    with opened(out or default_folder("reconstruction", record), record) as run:
        meter = Meter(run, drawn=False)
        with meter.timing("score"):
            found = in_parts(run.path / "parts", "pictures", len(pictures),
                             lambda at: _looked(settings, run, at), batch_size=batch_size,
                             progress=lambda done, total: progress("reconstructing", done, total)
                             )  # fmt: skip
            summary = _summary(settings, found)
        _keep(settings, run, found)
        write_text(run.path / "pictures.jsonl", _lines(pictures.names, found))
        write_json(run.summary, {
            "model": settings.model.name, "pictures": pictures.name, "number": len(pictures),
            "size": [height, width], "measured": settings.frame.measured,
            "features": resizing(settings.extractors), **summary,
        })  # fmt: skip
        first = pictures.read(range(min(batch_size, len(pictures))), settings.frame)
        meter.tell(pictures_per_second=pictures_per_second(settings.model, first))
    return run


def _keep(
    settings: ReconstructionSettings, run: RunDirectory, found: Mapping[str, Tensor]
) -> None:  # fmt: skip
    """What the page shows besides figures."""
    keep_pictures(run, settings.pictures, settings.frame, found["mse"])
    if "codes" in found:
        sizes = settings.model.sizes_of(*settings.pictures.framed(settings.frame))
        keep_codes(run, settings.pictures, settings.frame, found, sizes[-1])


def _looked(settings: ReconstructionSettings, run: RunDirectory, at: range) -> dict[str, Tensor]:
    """A row for each picture of a batch; its reconstructions are saved on the way."""
    originals = settings.pictures.read(at, settings.frame)
    images, ids = settings.model.reconstruct(originals)
    restored = quantise(images)
    x, y = (settings.frame.resize(images) for images in (originals, restored))
    found = {} if ids is None else _places(settings, at, originals, ids)
    found["mse"] = (x.double() - y.double()).square().mean((1, 2, 3))
    gap = x.double().mean((2, 3)) - y.double().mean((2, 3))
    found["mean_color_error"] = 255 * gap.abs().mean(1)
    # One by one: a convolution's last bits depend on the batch.
    found |= {f"ssim_{name}": torch.cat([ssim(a, b, name) for a, b in
                                         zip(x.split(1), y.split(1), strict=True)])
              for name in SSIMS}  # fmt: skip
    found |= {each.name: each(x, y).double() for each in settings.perceptual}
    for side, images in (("originals", x), ("restored", y)):
        seen = features_of(settings.extractors, images)
        found |= {f"{side}.{key}": value for key, value in seen.items()}
    specs = settings.pictures.specs(at) if settings.scorer is not None else None
    if settings.scorer is not None and specs is not None:
        for side, images in (("before", originals), ("after", restored)):
            verdicts = settings.scorer.score(images, specs)
            found[side] = torch.tensor([bool(score.correct) for score in verdicts])
    for i, image in zip(at, restored, strict=True):  # last: what is refused leaves no folder
        write_png(run.images / image_name(i), image)
    return found


def _places(
    settings: ReconstructionSettings, at: range, originals: Tensor, ids: Sequence[Tensor]
) -> dict[str, Tensor]:
    """All ids of a batch, and what the originals show at the places of the last map."""
    size = settings.model.sizes_of(*originals.shape[-2:])[-1]
    codes = torch.cat(list(ids), dim=1)
    small = (settings.model.codebook_size or 0) <= 2**31
    found = {"codes": codes.to(torch.int32 if small else torch.int64),
             "place_color": place_colors(originals, size)}  # fmt: skip
    classes = settings.pictures.classes(at)
    if classes is not None and classes.shape[1:] == originals.shape[2:]:  # not of cut pictures
        found["place_class"] = place_classes(classes, size)
    return found


def _summary(settings: ReconstructionSettings, found: Mapping[str, Tensor]) -> dict[str, Any]:
    def side(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}."): value for key, value in found.items()
                if key.startswith(f"{name}.")}  # fmt: skip

    sets = [feature_sets(settings.extractors, len(settings.pictures), side(name))
            for name in ("restored", "originals")]  # fmt: skip
    measures = {extractor.name: extractor.measures for extractor in settings.extractors}
    summary = summarise_reconstruction(found, measures, *sets, tasks=settings.tasks())
    model, codebook_size = settings.model, settings.model.codebook_size
    if codebook_size is None:
        return summary
    sizes = model.sizes_of(*settings.pictures.framed(settings.frame))
    return summary | summarise_ids(found, sizes, codebook_size, model.tokens_of(sizes))


def _lines(names: Sequence[str], found: Mapping[str, Tensor]) -> str:
    """pictures.jsonl."""
    rows = []
    kept = [key for key in found if key.startswith(MEANS)]
    for i, name in enumerate(names):
        mse = found["mse"][i]
        row: dict[str, Any] = {"name": name, "image": image_name(i)}
        row["psnr"] = None if mse == 0 else float(decibels(mse))
        row |= {key: float(found[key][i]) for key in kept}
        row |= {side: bool(found[side][i]) for side in ("before", "after") if side in found}
        rows.append(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    return "".join(rows)
