"""Pictures drawn elsewhere, as a run refers to them: by links, in GenEval's layout.

Whatever theirs is, results, report and comparison know one layout, and the official tools
read the run's folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from impasto.bench import Bench, Picture, is_geneval, scan, scan_flat
from impasto.bench.keyed import scan_keyed
from impasto.bench.layout import metadata_name, picture_name, write_metadata
from impasto.images import resized, write_png
from impasto.run.directory import RunDirectory
from impasto.spec import Spec

__all__ = ["Source"]

SHOWN = 512
"""Longest side, in pixels, of a source that is kept for the page."""


def _shown(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    scale = min(SHOWN / max(height, width), 1.0)
    return resized(image, max(round(height * scale), 1), max(round(width * scale), 1))


@dataclass(frozen=True)
class Source:
    """A folder of pictures. flat: not GenEval's layout, but a prompt file beside the pictures, or
    pictures named after the items' keys."""

    folder: Path
    flat: bool
    pictures: list[Picture]

    @classmethod
    def found(
        cls, folder: str | Path, bench: Bench, *, allow_incomplete: bool, allow_extra: bool
    ) -> Source:
        """What is in `folder` for `bench`. Errors: see `scan`, `scan_flat` and `scan_keyed`."""
        root = Path(folder)
        flat = root.is_dir() and not is_geneval(root)
        if flat and bench.keyed:
            return cls(root.resolve(), True, scan_keyed(
                root, bench.specs, foreign=bench.foreign, allow_incomplete=allow_incomplete,
                allow_extra=allow_extra))  # fmt: skip
        pictures = (scan_flat if flat else scan)(
            root, bench.given, bench.samples_per_prompt,
            allow_incomplete=allow_incomplete, allow_extra=allow_extra,
        )  # fmt: skip
        return cls(root.resolve(), flat, pictures)

    def link(self, run: RunDirectory, specs: Sequence[Spec]) -> list[Picture]:
        """Make the run's images/ refer to the pictures; returns them by their names there."""
        if self.flat:
            return [self._link_one(run, specs, picture) for picture in self.pictures]
        if not run.images.is_symlink():
            run.images.symlink_to(self.folder, target_is_directory=True)
        return self.pictures

    def keep_sources(self, run: RunDirectory, bench: Bench) -> None:
        """Beside each picture what it was made from, for the page: images/00000/source_1.png, …

        At most `SHOWN` pixels a side. Not where the run's images/ is somebody else's folder.
        """
        if bench.sources is None or run.images.is_symlink():
            return
        for picture in self.pictures:
            paths = [run.images / f"{picture.spec:05d}" / f"source_{n}.png" for n in range(1, 10)]
            if paths[0].is_file():
                continue
            images = bench.sources(bench.specs[picture.spec])
            # The first goes last: it says that all are there.
            for path, image in reversed(list(zip(paths, images, strict=False))):
                write_png(path, _shown(image))

    def _link_one(self, run: RunDirectory, specs: Sequence[Spec], picture: Picture) -> Picture:
        if not (run.images / metadata_name(picture.spec)).is_file():
            write_metadata(run.images, picture.spec, specs[picture.spec])
        name = picture_name(picture.spec, picture.sample)
        path = run.images / name
        path.parent.mkdir(exist_ok=True)
        if not path.is_symlink():
            path.symlink_to(self.folder / picture.filename)
        return Picture(name, picture.spec, picture.sample)
