"""Pictures named after the keys of a bench's items: edited ones, or one for each prompt.

    DIR/KEY.png                   also .jpg, .jpeg, .webp, whatever lies before the key
    DIR/fullset/KEY.png           a key may have "/": GEdit's are GROUP/LANGUAGE/KEY

As with GenEval's folders, what does not fit is refused by name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from impasto.bench.flat import picture_files
from impasto.bench.layout import IncompleteError, Picture, listed
from impasto.spec import Spec

__all__ = ["scan_keyed"]


class _Keys:
    """Which item a file is of: its name ends with the key, or lies in the folder itself and is the
    key's last part, where no other key ends so."""

    def __init__(self, specs: Sequence[Spec]) -> None:
        self.whole = {spec.key: i for i, spec in enumerate(specs)}
        if len(self.whole) < len(specs) or "" in self.whole:
            raise ValueError("every item of this bench needs a key of its own")
        names = Counter(PurePosixPath(key).name for key in self.whole)
        self.last = {name: i for key, i in self.whole.items()
                     if names[name := PurePosixPath(key).name] == 1}  # fmt: skip

    def place(self, file: str) -> int | None:
        parts = PurePosixPath(file).with_suffix("").parts
        tails = ["/".join(parts[start:]) for start in range(len(parts))]
        found = next((self.whole[tail] for tail in tails if tail in self.whole), None)
        return self.last.get(file.rpartition(".")[0]) if found is None else found


def scan_keyed(
    images: str | Path,
    specs: Sequence[Spec],
    *,
    foreign: str = "",
    allow_incomplete: bool = False,
    allow_extra: bool = False,
) -> list[Picture]:
    """The pictures below `images`, one for each item, in the items' order.

    foreign: pattern of names that belong to something else and may lie there (a source beside its
    edit). Raises ValueError, by name, for two pictures of one item, links out of the folder and,
    unless `allow_extra`, pictures of no item; IncompleteError for missing ones unless
    `allow_incomplete`.
    """
    root = Path(images)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give the one that holds the pictures")
    keys = _Keys(specs)
    pictures: dict[int, str] = {}
    wrong, extra = [], []
    for name in picture_files(root):
        if foreign and re.search(foreign, name):
            continue
        place = keys.place(name)
        if not (root / name).resolve().is_relative_to(root.resolve()):
            wrong.append(f"{name} lies outside the folder")
        elif place is None:
            extra.append(f"{name} is named after no item")
        elif place in pictures:
            wrong.append(f"{name} and {pictures[place]} are of the same item")
        else:
            pictures[place] = name
    if refused := wrong + ([] if allow_extra else extra):
        raise ValueError(f"{root}: {listed(refused)}; mend, rename or move what is not part of "
                         f"the set")  # fmt: skip
    missing = [f"{spec.key}.png" for i, spec in enumerate(specs) if i not in pictures]
    if missing and not allow_incomplete:
        raise IncompleteError(len(pictures), len(specs), missing)
    return [Picture(pictures[i], i, 0) for i in sorted(pictures)]
