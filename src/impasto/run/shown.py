"""What a reconstruction run keeps for its page beside figures: some originals, and what codes are.

    OUT/originals/00000007.png …   those that came back worst or best, and some at random
    OUT/shown.json                 which: {"worst": [places], "best": …, "random": …}
    OUT/codes.png                  a line of patches for each code, of originals
    OUT/codes.json                 {"map", "patch" (pixels high and wide), "cover", "codes":
                                   [{"id", "count", "why", "patches", "class", "class_share"}]}

Codes are those of the last map: the most used, where the truth is known those most used for
objects, and some at random of the rest, of those that occur at least twice where there are any.
Which patches are shown of a code is drawn from a fixed seed: every place that has it is as likely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from impasto.bench.codes import NOTHING, cover
from impasto.files import write_json
from impasto.images import write_png
from impasto.run.directory import RunDirectory
from impasto.run.pictures import Frame, Pictures
from impasto.spec import CLASSES

__all__ = ["CODES", "PATCHES", "image_name", "keep_codes", "keep_pictures"]

EXTREMES, RANDOM = 12, 24
"""Pictures on either end, and at random of the rest."""
CODES, PATCHES = 12, 12
"""Codes of each kind, and patches a code."""


def image_name(i: int) -> str:
    """A picture's name below images/ and originals/."""
    return f"{i:08d}.png"


def _chosen(mse: Tensor) -> dict[str, list[int]]:
    order = mse.argsort(stable=True).tolist()
    ends = min(EXTREMES, max(1, len(order) // 4))
    best, rest, worst = order[:ends], order[ends:-ends], order[-ends:][::-1]
    rng = np.random.default_rng(0)
    some = sorted(rng.choice(rest, min(RANDOM, len(rest)), replace=False).tolist()) if rest else []
    return {"worst": [i for i in worst if i not in best], "best": best, "random": some}


def keep_pictures(run: RunDirectory, pictures: Pictures, frame: Frame, mse: Tensor) -> None:
    """Write shown.json and its originals. mse: (N,), of all pictures."""
    chosen = _chosen(mse)
    for i in sorted(i for kind in chosen.values() for i in kind):
        path = run.path / "originals" / image_name(i)
        if not path.is_file():
            write_png(path, pictures.read(range(i, i + 1), frame)[0])
    write_json(run.path / "shown.json", chosen)


def _codes(ids: Tensor, classes: Tensor | None) -> list[tuple[int, int, str]]:
    """(id, count, why) of the codes to show, the most used first. ids, classes: (N, n)."""
    values, places, counts = torch.unique(ids, return_inverse=True, return_counts=True)
    order = counts.argsort(descending=True, stable=True).tolist()
    groups = {"most used": order[:CODES]}
    if classes is not None:
        on = torch.bincount(places[classes != NOTHING], minlength=len(values))
        far = [k for k in on.argsort(descending=True, stable=True).tolist()
               if on[k] and k not in groups["most used"]]  # fmt: skip
        groups["objects"] = far[:CODES]
    taken = {k for keys in groups.values() for k in keys}
    left = [k for k in order if k not in taken]
    rest = [k for k in left if counts[k] > 1] or left
    some = np.random.default_rng(0).permutation(rest)[:CODES].tolist()
    groups["random"] = sorted(map(int, some), key=lambda k: -int(counts[k]))
    return [(int(values[k]), int(counts[k]), why) for why, keys in groups.items() for k in keys]


def _commonest(classes: Tensor) -> dict[str, Any]:
    """Of the places of a code: the class that most show, and their share."""
    values, counts = torch.unique(classes, return_counts=True)
    best = int(counts.argmax())
    name = "background" if int(values[best]) == NOTHING else CLASSES[int(values[best])]
    return {"class": name, "class_share": float(counts[best] / counts.sum())}


class _Cutter:
    """Patches of places (picture, row, column) of a map over originals of one size."""

    def __init__(self, pictures: Pictures, frame: Frame, size: tuple[int, int]) -> None:
        self.pictures, self.frame = pictures, frame
        height, width = pictures.framed(frame)
        self.high, self.wide = max(1, height // size[0]), max(1, width // size[1])
        self.scale = height / size[0], width / size[1]

    def sheet(self, lines: Sequence[Sequence[tuple[int, int, int]]]) -> Tensor:
        """(3, lines high, PATCHES wide) of the lines' places; white where a line is shorter."""
        sheet = torch.ones(3, len(lines) * self.high, PATCHES * self.wide)
        wanted: dict[int, list[tuple[int, int, int, int]]] = {}
        for line, places in enumerate(lines):
            for column, (picture, i, j) in enumerate(places):
                wanted.setdefault(picture, []).append((line, column, i, j))
        for picture, uses in sorted(wanted.items()):
            image = self.pictures.read(range(picture, picture + 1), self.frame)[0]
            for line, column, i, j in uses:
                top, left = (int(k * step) for k, step in zip((i, j), self.scale, strict=True))
                y, x = line * self.high, column * self.wide
                sheet[:, y : y + self.high, x : x + self.wide] = \
                    image[:, top : top + self.high, left : left + self.wide]  # fmt: skip
        return sheet


def keep_codes(
    run: RunDirectory, pictures: Pictures, frame: Frame, found: Mapping[str, Tensor],
    size: tuple[int, int],
) -> None:  # fmt: skip
    """Write codes.json and codes.png. found: "codes" (N, n) and perhaps "place_class" of all
    pictures; size: of the last map."""
    h, w = size
    ids, classes = found["codes"][:, -h * w :], found.get("place_class")
    cutter, rng, lines, rows = _Cutter(pictures, frame, size), np.random.default_rng(1), [], []
    for code, count, why in _codes(ids, classes):
        places = (ids == code).nonzero()
        picked = rng.choice(len(places), min(PATCHES, len(places)), replace=False)
        lines.append([(n, k // w, k % w) for n, k in places[np.sort(picked)].tolist()])
        shown = {} if classes is None else _commonest(classes[ids == code])
        rows.append({"id": code, "count": count, "why": why, "patches": len(lines[-1]), **shown})
    write_png(run.path / "codes.png", cutter.sheet(lines))
    write_json(run.path / "codes.json", {"map": [h, w], "patch": [cutter.high, cutter.wide],
                                         "cover": cover(ids), "codes": rows})  # fmt: skip
