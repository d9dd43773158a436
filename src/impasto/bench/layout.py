"""GenEval's folders: which picture is whose, and what is missing, extra or misnamed.

    IMAGES/00000/metadata.jsonl       one JSON object: the prompt's metadata
    IMAGES/00000/samples/00000.png    sample 0 (official code writes 5 digits, its README shows 4)

As in the official evaluator a folder's name is all digits, a picture's begins with `digits.png`,
and the metadata, not the folder's number, says which prompt was drawn. Unlike there, what does
not fit is refused by name, since a score over fewer pictures is another score.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from impasto.files import write_text
from impasto.spec import Spec

__all__ = ["PICTURE_SUFFIXES", "IncompleteError", "Picture", "is_geneval", "listed",
           "metadata_name", "picture_name", "scan", "write_metadata"]  # fmt: skip

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
SHOWN = 5
"""How many names an error message gives before it says how many more there are."""


class IncompleteError(RuntimeError):
    """Pictures are missing. found, expected: numbers; missing: what lacks them, in order."""

    def __init__(self, found: int, expected: int, missing: Sequence[str], what: str = "pictures",
                 note: str = "") -> None:  # fmt: skip
        self.found, self.expected, self.missing = found, expected, tuple(missing)
        super().__init__(
            f"{found}/{expected} {what}; missing: {listed(self.missing)}.{note} Finish the run, "
            f"or allow incomplete sets to get a score that says so"
        )


class Picture(NamedTuple):
    """A picture's file (relative to the images folder), its spec's index, its sample's index."""

    filename: str
    spec: int
    sample: int


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def is_geneval(images: str | Path) -> bool:
    """Whether the folder holds folders named by digits, which GenEval would read."""
    return any(path.is_dir() and re.fullmatch("[0-9]+", path.name)
               for path in Path(images).iterdir())  # fmt: skip


def metadata_name(index: int) -> str:
    """Where prompt `index`'s metadata is, relative to the images folder."""
    return f"{index:05d}/metadata.jsonl"


def picture_name(index: int, sample: int) -> str:
    """Where sample `sample` of prompt `index` is, relative to the images folder."""
    return f"{index:05d}/samples/{sample:05d}.png"


def write_metadata(images: str | Path, index: int, spec: Spec) -> None:
    """Write prompt `index`'s metadata.jsonl, the bytes that GenEval's sampling script writes."""
    write_text(Path(images) / metadata_name(index), spec.to_json())


@dataclass
class _Scan:
    """What a walk over the folders found so far; the lists hold sentences' halves, by name."""

    root: Path
    specs: Sequence[Spec]
    samples: int
    folders: dict[int, str] = field(default_factory=dict)
    pictures: dict[tuple[int, int], str] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    """Of a prompt that the bench has not."""
    extra: list[str] = field(default_factory=list)
    """A further sample, or not named so that GenEval would read it."""
    wrong: list[str] = field(default_factory=list)
    """Contradictory: two files in one place, metadata that cannot be read, or a link out."""

    def __post_init__(self) -> None:
        self._index = {_key(spec.to_dict()): i for i, spec in enumerate(self.specs)}

    def spec_of(self, folder: Path) -> int | None:
        """Index of the spec that the folder's metadata holds; its own number goes first."""
        try:
            key = _key(json.loads((folder / "metadata.jsonl").read_text(encoding="utf-8")))
        except FileNotFoundError:
            self.wrong.append(f"{folder.name}/metadata.jsonl is not there")
            return None
        except ValueError as error:
            self.wrong.append(f"{folder.name}/metadata.jsonl is not one JSON object ({error})")
            return None
        number = int(folder.name)
        if number < len(self.specs) and _key(self.specs[number].to_dict()) == key:
            return number
        if key not in self._index:
            self.foreign.append(f"{folder.name}/metadata.jsonl is none of the bench's specs")
        return self._index.get(key)

    def folder(self, folder: Path) -> None:
        index = self.spec_of(folder)
        if index is None:
            return
        if index in self.folders:
            self.wrong.append(f"{folder.name} and {self.folders[index]} hold the same prompt")
            return
        self.folders[index] = folder.name
        samples = folder / "samples"
        for path in sorted(samples.iterdir()) if samples.is_dir() else ():
            self.file(path, index, f"{folder.name}/samples/{path.name}")

    def file(self, path: Path, index: int, name: str) -> None:
        match = re.match(r"([0-9]+)\.png", path.name)
        if match is None or not path.is_file():
            if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith("."):
                self.extra.append(f"{name} is not named DIGITS.png")
            return
        place = index, int(match[1])
        if not path.resolve().is_relative_to(self.root):
            self.wrong.append(f"{name} lies outside the folder")
        elif place[1] >= self.samples:
            self.extra.append(f"{name} is beyond the {self.samples} samples of a prompt")
        elif place in self.pictures:
            self.wrong.append(f"{name} and {self.pictures[place]} are the same sample")
        else:
            self.pictures[place] = name

    def missing(self) -> list[str]:
        """Where each picture that is not there should be, in order."""
        return [
            f"{self.folders.get(i, f'{i:05d}')}/samples/{s:05d}.png"
            for i in range(len(self.specs))
            for s in range(self.samples)
            if (i, s) not in self.pictures
        ]


def _key(values: object) -> str:
    return json.dumps(values, sort_keys=True)


def scan(
    images: str | Path,
    specs: Sequence[Spec],
    samples: int,
    *,
    allow_incomplete: bool = False,
    allow_extra: bool = False,
) -> list[Picture]:
    """The pictures below `images`, by prompt then sample; file names relative and with "/".

    Raises ValueError, by name, for two files in one place, unreadable metadata, a link that leads
    out of the folder or a folder that is not there; for other prompts' metadata, further samples
    and misnamed pictures, unless `allow_extra` (a part of a larger set is wanted). Raises
    IncompleteError (n/N and the first missing names) unless `allow_incomplete`.
    """
    root = Path(images)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give the one that holds 00000, 00001, …")
    found = _Scan(root.resolve(), specs, samples)
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if re.fullmatch("[0-9]+", folder.name):
            found.folder(folder)
        elif (folder / "samples").is_dir():
            found.extra.append(f"{folder.name}/ is not named by digits only")
    extra = [] if allow_extra else found.extra
    refused = found.wrong + ([] if allow_extra else found.foreign)
    missing = found.missing()
    if missing and not refused and not allow_incomplete:
        note = f" Also: {listed(extra)}." if extra else ""
        raise IncompleteError(len(found.pictures), len(specs) * samples, missing, note=note)
    if refused + extra:
        raise ValueError(f"{root}: {listed(refused + extra)}; mend, rename or move what is not "
                         f"part of the set")  # fmt: skip
    return [Picture(name, *place) for place, name in sorted(found.pictures.items())]
