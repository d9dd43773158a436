"""Pictures drawn elsewhere, as a run refers to them: by links, in GenEval's layout.

Whatever theirs is, results, report and comparison know one layout, and the official tools
read the run's folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from impasto.bench import Bench, Picture, is_geneval, scan, scan_flat
from impasto.bench.layout import metadata_name, picture_name, write_metadata
from impasto.run.directory import RunDirectory
from impasto.spec import Spec

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """A folder of pictures. flat: not GenEval's layout, but a prompt file beside the pictures."""

    folder: Path
    flat: bool
    pictures: list[Picture]

    @classmethod
    def found(
        cls, folder: str | Path, bench: Bench, *, allow_incomplete: bool, allow_extra: bool
    ) -> Source:
        """What is in `folder` for `bench`. Errors: see `scan` and `scan_flat`."""
        root = Path(folder)
        flat = root.is_dir() and not is_geneval(root)
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

    def _link_one(self, run: RunDirectory, specs: Sequence[Spec], picture: Picture) -> Picture:
        if not (run.images / metadata_name(picture.spec)).is_file():
            write_metadata(run.images, picture.spec, specs[picture.spec])
        name = picture_name(picture.spec, picture.sample)
        path = run.images / name
        path.parent.mkdir(exist_ok=True)
        if not path.is_symlink():
            path.symlink_to(self.folder / picture.filename)
        return Picture(name, picture.spec, picture.sample)
