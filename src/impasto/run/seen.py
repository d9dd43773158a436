"""`seen.jsonl`: what the verdicts' scorer saw, one picture a line.

    {"filename", "size": [H, W], "objects": [{"class", "box", "score", "mask", "colors"}, …]}

Objects are those that counted, class by class, best first. mask: COCO's run lengths as text
(pycocotools reads {"size", "counts": mask}), null where none was made. colors: the probabilities
of the ten colours to four decimals, null where the colour was not asked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from impasto.score.base import Found, Score, Seen
from impasto.score.runs import mask_of, text_of

__all__ = ["View", "line_of", "objects_of", "read_lines", "read_seen"]


@dataclass(frozen=True)
class View:
    """What was seen of one picture, in its own pixels. size: (H, W)."""

    size: tuple[int, int]
    objects: tuple[Seen, ...]


def objects_of(score: Score) -> tuple[Seen, ...]:
    """The objects in a score's details, without masks and colours."""
    return tuple(Seen(Found(cls, (x1, y1, x2, y2), sure))
                 for cls, rows in score.details.items()
                 for x1, y1, x2, y2, sure in rows)  # fmt: skip


def _object(seen: Seen) -> dict[str, Any]:
    found, shares = seen
    return {
        "class": found.cls,
        "box": list(found.box),
        "score": found.score,
        "mask": None if found.mask is None else text_of(found.mask),
        "colors": None if shares is None else [round(share, 4) for share in shares],
    }


def line_of(filename: str, image: Tensor, objects: Sequence[Seen]) -> str:
    """The picture's line with its end. image: (3, H, W)."""
    row = {"filename": filename, "size": list(image.shape[-2:]),
           "objects": [_object(one) for one in objects]}  # fmt: skip
    return json.dumps(row, allow_nan=False) + "\n"


def read_lines(path: Path) -> dict[str, str]:
    """The lines as they stand, by file name."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return {json.loads(line)["filename"]: line for line in lines}


def read_seen(path: Path) -> dict[str, View]:
    """What was seen of each picture, by file name. Raises ValueError for a mask that is none."""
    return {name: _view(json.loads(line)) for name, line in read_lines(path).items()}


def _view(row: dict[str, Any]) -> View:
    height, width = row["size"]
    return View((height, width), tuple(_seen(one, (height, width)) for one in row["objects"]))


def _seen(one: dict[str, Any], size: tuple[int, int]) -> Seen:
    mask = None if one["mask"] is None else mask_of(one["mask"], size)
    shares = None if one["colors"] is None else tuple(one["colors"])
    x1, y1, x2, y2 = one["box"]
    return Seen(Found(one["class"], (x1, y1, x2, y2), one["score"], mask), shares)
