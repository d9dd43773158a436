"""The tree of a search, drawn: which candidates lived after which step, with their previews.

A line of tiles a choice, a line from each tile to those that went on from it. The previews lie in
one file a sample (`impasto.run.tree`), which goes into the page once.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from impasto.images import read_image
from impasto.report.words import digits
from impasto.run.tree import columns

__all__ = ["Level", "Tile", "Tree", "tree"]

GAP, SIDE, LEAST, WIDTH = 8, 48, 26, 900
"""Units between tiles, and of a tile's longer side: less, but not below LEAST, where a line of
tiles would be longer than WIDTH."""
HEAD, FOOT, LINKS = 18, 16, 20
"""Units of a level's title, of the words under its tiles, and of the lines to the next."""
FEW = 8
"""Tiles in a line that a narrow screen can show whole."""


@dataclass(frozen=True)
class Tile:
    """x, y: on the page. sheet_x, sheet_y: on the file. value: its reward, "" where not asked.

    kept: how often it goes on. number: its place in the line, from 1. potential: what it was
    resampled by, "" where that is the reward itself.
    """

    number: int
    x: float
    y: float
    sheet_x: int
    sheet_y: int
    value: str
    kept: int
    potential: str = ""

    @property
    def title(self) -> str:
        fate = {0: "given up", 1: "kept"}.get(self.kept, f"kept {self.kept} times")
        told = [f"reward {self.value}"] if self.value else []
        told += [f"potential {self.potential}"] if self.potential else []
        return f"{self.number}: {', '.join([*told, fate])}"


@dataclass(frozen=True)
class Level:
    """One choice. links: (x, y, x, y) from each tile that went on."""

    title: str
    y: float
    tiles: tuple[Tile, ...]
    links: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Tree:
    """src: the file as a data: URI, of sheet_width x sheet_height with tiles of `of` pixels.

    size: of a tile on the page. width, height: of the drawing.
    """

    src: str
    sheet_width: int
    sheet_height: int
    of: tuple[int, int]
    size: tuple[float, float]
    width: float
    height: float
    levels: tuple[Level, ...]

    @property
    def about(self) -> str:
        """In words: what the numbers of rows were."""
        return "; ".join(level.title for level in self.levels)

    @property
    def rows(self) -> list[int]:
        """How many there were, before each choice and at the end."""
        counts = [len(level.tiles) for level in self.levels]
        return counts if counts[-1] == 1 else [*counts, 1]

    @property
    def few(self) -> bool:
        """Whether its longest line may be shown smaller."""
        return max(self.rows) <= FEW

    @property
    def copied(self) -> bool:
        """Whether any row goes on more than once."""
        return any(tile.kept > 1 for level in self.levels for tile in level.tiles)

    @property
    def rated(self) -> bool:
        """Whether any reward was asked for."""
        return any(tile.value for level in self.levels for tile in level.tiles)


def tree(trace: Sequence[Mapping[str, Any]], path: Path) -> Tree:
    """Of a sample's record ("trace") and its file.

    Raises ValueError when the file is gone, ImageError when it is damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path} is gone, and the report shows it; put it back, or make the run "
                         f"anew in another folder")  # fmt: skip
    height, width = read_image(path).shape[1:]
    counts = [int(choice["rows"]) for choice in trace]
    wide = columns(sum(counts))
    of = (width // wide, height // -(-sum(counts) // wide))
    scale = min(max(WIDTH / max(counts) - GAP, LEAST), SIDE) / max(of)
    size = (of[0] * scale, of[1] * scale)
    whole = max(max(counts) * (size[0] + GAP), 240)
    step = HEAD + size[1] + FOOT + LINKS
    levels = tuple(
        _level(trace, i, first, wide=wide, of=of, size=size, whole=whole, y=i * step)
        for i, first in enumerate(accumulate([0, *counts[:-1]]))
    )
    src = f"data:image/webp;base64,{base64.b64encode(path.read_bytes()).decode()}"
    return Tree(src, width, height, of, size, whole, len(trace) * step - LINKS, levels)


def _level(
    trace: Sequence[Mapping[str, Any]], i: int, first: int, *, wide: int, of: tuple[int, int],
    size: tuple[float, float], whole: float, y: float,
) -> Level:  # fmt: skip
    """The `i`-th choice, whose tiles begin at place `first` of the sheet."""
    choice = trace[i]
    kept, rows = Counter(choice["kept"]), int(choice["rows"])
    values, potentials = _texts(choice["values"], rows), _texts(choice.get("potentials"), rows)
    if potentials == values:
        potentials = [""] * rows
    tiles = tuple(
        Tile(j + 1, round(_middle(j, rows, whole) - size[0] / 2, 2), y + HEAD,
             (first + j) % wide * of[0], (first + j) // wide * of[1], values[j], kept[j],
             potentials[j])
        for j in range(rows)
    )  # fmt: skip
    below, above = y + HEAD + size[1], y + HEAD + size[1] + FOOT + LINKS + HEAD
    links = () if i + 1 == len(trace) else tuple(
        (_middle(a, rows, whole), below, _middle(b, len(choice["kept"]), whole), above)
        for b, a in enumerate(choice["kept"])
    )  # fmt: skip
    return Level(_title(choice), y, tiles, links)


def _title(choice: Mapping[str, Any]) -> str:
    """What was done after which step, and to how many."""
    rows, kept = int(choice["rows"]), choice["kept"]
    done = {"cluster": f"clusters keep {len(kept)} of {rows}",
            "resample": f"resampling draws {len(kept)} from {rows}",
            "final": f"number {kept[0] + 1} of {rows} is chosen" if rows > 1
            else "the picture"}  # fmt: skip
    return f"after step {choice['step']}: {done[choice['kind']]}"


def _texts(numbers: Sequence[float] | None, rows: int) -> list[str]:
    """Numbers as they are shown, "" for none."""
    if numbers is None:
        return [""] * rows
    return [f"{number:.{digits(number)}f}" for number in numbers]


def _middle(j: int, rows: int, whole: float) -> float:
    """Where the middle of the j-th of so many tiles lies."""
    return round((j + 0.5) * whole / rows, 2)
