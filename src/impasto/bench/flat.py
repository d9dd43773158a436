"""Pictures in one flat folder, with a file beside them that says which prompt each was drawn from.

    DIR/metadata.jsonl      {"file_name": "a.png", "prompt": "a photo of a dog"}, a line a picture
    DIR/metadata.csv        file_name,prompt; these two as HF imagefolder has them
    DIR/manifest.jsonl      {"file": "00000-00.png", "prompt": …}, as `impasto generate` writes

or a list of prompts, one a line in the order in which the pictures are numbered from 0:

    DIR/prompts.txt, prompts.jsonl, generation_prompts.txt, evaluation_metadata.jsonl
    DIR/00000_00.png        prompt 0, sample 0; also 0-0.jpg, and 00000.png for sample 0

The n-th picture of a prompt in a file that names pictures is its sample n. As with GenEval's
folders, what does not fit is refused by name.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from impasto.bench.layout import PICTURE_SUFFIXES, IncompleteError, Picture, listed
from impasto.spec import Spec

__all__ = ["NAMED", "NUMBERED", "picture_files", "prompt_files", "scan_flat"]

NAMED = ("metadata.jsonl", "metadata.csv", "manifest.jsonl")
NUMBERED = ("prompts.txt", "prompts.jsonl", "generation_prompts.txt", "evaluation_metadata.jsonl")
FILE_KEYS, PROMPT_KEYS = ("file_name", "file"), ("prompt", "text", "caption")

Claim = tuple[str, str, int]
"""(a picture's file name, its prompt, its place among that prompt's pictures)."""


def prompt_files(root: Path) -> list[str]:
    """Those of the known prompt files that the folder has."""
    return [name for name in (*NAMED, *NUMBERED) if (root / name).is_file()]


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(where, row) of a prompt file; a plain line is a row with "prompt"."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error})") from error
    if path.suffix == ".csv":
        lines = text.splitlines(keepends=True)
        yield from ((f"{path}, row {n}", row) for n, row in enumerate(csv.DictReader(lines), 1))
        return
    # Not splitlines(): a prompt may hold U+2028 and its like.
    for n, line in enumerate(text.replace("\r\n", "\n").removesuffix("\n").split("\n"), 1):
        where = f"{path}, line {n}"
        yield where, (_object(line, where) if path.suffix == ".jsonl" else {"prompt": line})


def _object(line: str, where: str) -> Mapping[str, object]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where} must be a JSON object, not {line[:40]!r}")
    return row


def _text(row: Mapping[str, object], keys: Sequence[str], where: str) -> str:
    """The one text under one of `keys`."""
    value = next((row[key] for key in keys if key in row), None)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} has no text under {' or '.join(map(repr, keys))}")
    return value.strip()


def _named(path: Path) -> list[Claim]:
    """Claims of a file that names each picture."""
    seen: Counter[str] = Counter()
    claims = []
    for where, row in _rows(path):
        name, prompt = _text(row, FILE_KEYS, where), _text(row, PROMPT_KEYS, where)
        pure = PurePosixPath(name)
        foreign = "\\" in name or "\0" in name or PureWindowsPath(name).drive
        if pure.is_absolute() or ".." in pure.parts or foreign:
            raise ValueError(f"{where}: {name!r} is not the name of a file below that folder")
        claims.append((str(pure), prompt, seen[prompt]))
        seen[prompt] += 1
    return claims


def _numbered(path: Path, names: Sequence[str]) -> list[Claim]:
    """Claims of a list of prompts on the pictures whose names tell a number."""
    prompts = [_text(row, PROMPT_KEYS, where) for where, row in _rows(path)]
    twice = [prompt for prompt, n in Counter(prompts).items() if n > 1]
    if twice:
        raise ValueError(f"{path} holds {twice[0]!r} more than once; name the pictures instead, "
                         f"in a metadata.jsonl")  # fmt: skip
    claims = []
    for name in names:
        match = re.fullmatch(r"(\d+)(?:[_-](\d+))?", PurePosixPath(name).stem)
        if match is None:
            raise ValueError(f"{path.parent / name} is not named PROMPT_SAMPLE, as 00000_00.png, "
                             f"which {path.name} needs")  # fmt: skip
        if int(match[1]) >= len(prompts):
            raise ValueError(f"{path.parent / name}: {path.name} has no prompt {int(match[1])}, "
                             f"only 0 to {len(prompts) - 1}")  # fmt: skip
        claims.append((name, prompts[int(match[1])], int(match[2] or 0)))
    return claims


def _claims(root: Path, names: Sequence[str]) -> list[Claim]:
    """What the folder's prompt files say; several must say the same."""
    found = {name: _named(root / name) if name in NAMED else _numbered(root / name, names)
             for name in prompt_files(root)}  # fmt: skip
    if not found:
        raise ValueError(f"{root} holds neither GenEval's folders 00000, 00001, … nor a prompt "
                         f"file; allowed: {', '.join((*NAMED, *NUMBERED))}")  # fmt: skip
    (first, claims), *others = found.items()
    for name, other in others:
        if sorted(other) != sorted(claims):
            raise ValueError(f"{root}: {first} and {name} do not say the same; keep one")
    return claims


def picture_files(root: Path) -> list[str]:
    """Every picture below the folder, as a relative name with "/"."""
    paths = (path for path in root.rglob("*") if not path.name.startswith("."))
    return sorted(path.relative_to(root).as_posix() for path in paths
                  if path.suffix.lower() in PICTURE_SUFFIXES)  # fmt: skip


class _Places:
    """Where a claim's picture belongs: specs of one prompt take its pictures in turn."""

    def __init__(self, specs: Sequence[Spec], samples: int) -> None:
        self._of: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for i, spec in enumerate(specs):
            self._of[spec.prompt.strip()] += [(i, sample) for sample in range(samples)]
        self.prompts = {prompt: len(places) for prompt, places in self._of.items()}

    def of(self, prompt: str, number: int) -> tuple[int, int] | None:
        return self._of[prompt][number] if number < self.prompts.get(prompt, 0) else None

    def names(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Every place with what to call it."""
        for prompt, places in self._of.items():
            yield from ((f"sample {n} of {prompt!r}", place) for n, place in enumerate(places))


@dataclass
class _Scan:
    """What the claims come to; the lists hold sentences' halves, by name."""

    pictures: dict[tuple[int, int], str] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    """Named by a line, but not there."""
    extra: list[str] = field(default_factory=list)
    """A further sample, another prompt's, or named by no line."""
    wrong: list[str] = field(default_factory=list)
    """Contradictory, or outside the folder."""

    def claim(self, claim: Claim, places: _Places, files: Collection[str]) -> None:
        name, prompt, number = claim
        place = places.of(prompt, number)
        if place is None:
            known = prompt in places.prompts
            self.extra.append(f"{name} is beyond the samples of {prompt!r}" if known
                              else f"{name}: the prompt {prompt!r} is none of the "
                                   f"bench's")  # fmt: skip
        elif name not in files:
            self.absent.append(name)
        elif place in self.pictures:
            self.wrong.append(f"{name} and {self.pictures[place]} are the same sample of "
                              f"{prompt!r}")  # fmt: skip
        else:
            self.pictures[place] = name

    def check_names(self, root: Path, claims: Sequence[Claim], files: Sequence[str]) -> None:
        """Names that two lines or none give, and links that lead out of the folder."""
        lines = Counter(name for name, _, _ in claims)
        self.wrong += [f"{name} is named {n} times" for name, n in lines.items() if n > 1]
        self.wrong += [f"{name} lies outside the folder" for name in self.pictures.values()
                       if not (root / name).resolve().is_relative_to(root.resolve())]  # fmt: skip
        self.extra += [f"{name} is named by no line" for name in files if name not in lines]


def scan_flat(
    images: str | Path,
    specs: Sequence[Spec],
    samples: int,
    *,
    allow_incomplete: bool = False,
    allow_extra: bool = False,
) -> list[Picture]:
    """The pictures of a flat folder, by prompt then sample; as `impasto.bench.layout.scan`.

    Raises ValueError, by name, for prompts that are not the bench's, further samples and pictures
    that no line names, unless `allow_extra`; for one picture named twice, two for one place, and
    names outside the folder. Raises IncompleteError for missing pictures unless
    `allow_incomplete`.
    """
    root, found = Path(images), _Scan()
    files, places = picture_files(root), _Places(specs, samples)
    claims = _claims(root, files)
    there = frozenset(files)
    for claim in claims:
        found.claim(claim, places, there)
    found.check_names(root, claims, files)
    refused = found.wrong + ([] if allow_extra else found.extra)
    if refused:
        raise ValueError(f"{root}: {listed(refused)}; mend, rename or move what is not part of "
                         f"the set")  # fmt: skip
    missing = found.absent + [n for n, place in places.names() if place not in found.pictures]
    if missing and not allow_incomplete:
        raise IncompleteError(len(found.pictures), len(specs) * samples, missing)
    return [Picture(name, *place) for place, name in sorted(found.pictures.items())]
