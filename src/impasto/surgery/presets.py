"""Published lists of what is removed, and how such lists are written.

HierarchicalPrune's released code (Kwon et al., arXiv 2508.04663; github SamsungLabs/
HierarchicalPrune), for transformers of diffusers. Shares are of the parameters that are left. Of
blocks 25-35 of SD3.5-Large-Turbo 29, 30 and 35 are kept as critical; 36 and 37 are kept too. Which
of the two 30 % lists is the paper's is not said; the paper's FLUX lists are not published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from impasto.models.edited.hosts import Host

__all__ = ["PRESETS", "Preset", "Removed", "parse_blocks", "parse_components", "removal"]

Removed = Mapping[int, tuple[str, ...]]
"""Block -> its components that are removed, or ("all",)."""


def _number(text: str, whole: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"{text.strip()!r} in {whole!r} is no block number; blocks are written "
                         f"as 25-29,31 (25 to 28, and 31: a range's end is left out)")  # fmt: skip
    return int(text)


def parse_blocks(text: str) -> tuple[int, ...]:
    """Block numbers of "25-29,31": 25, 26, 27, 28, 31. As in the released code a range's end is
    left out. Raises ValueError for what is no list, an empty range, or a block named twice."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, end = part.partition("-")
        start = _number(first, text)
        stop = _number(end, text) if dash else start + 1
        if stop <= start:
            raise ValueError(f"range {part.strip()!r} in {text!r} holds no block: its end is left "
                             f"out, so 25-29 is 25 to 28")  # fmt: skip
        found += range(start, stop)
    if twice := sorted({i for i in found if found.count(i) > 1}):
        raise ValueError(f"block {twice[0]} is named twice in {text!r}")
    return tuple(found)


def parse_components(text: str) -> dict[int, tuple[str, ...]]:
    """Components of blocks of "13:ff+ff_context,17-19:ff". Raises ValueError."""
    found: dict[int, tuple[str, ...]] = {}
    for part in text.split(","):
        blocks, colon, names = part.partition(":")
        components = tuple(name.strip() for name in names.split("+"))
        if not colon or not all(components):
            raise ValueError(f"{part.strip()!r} in {text!r} does not name components; they are "
                             f"written as 13:ff+ff_context,17-19:ff")  # fmt: skip
        for i in parse_blocks(blocks):
            if i in found:
                raise ValueError(f"block {i} is named twice in {text!r}")
            found[i] = components
    return found


def removal(removed: Removed, intervals: Sequence[Sequence[int]] = ()) -> dict[str, Any]:
    """The edit that removes this; see `impasto.models.edited.record`. intervals: [first, end] of
    blocks that the first is to stand in for."""
    edit = {"edit": "remove", "removed": {str(i): list(removed[i]) for i in sorted(removed)}}
    return edit | ({"intervals": [list(one) for one in intervals]} if intervals else {})


@dataclass(frozen=True)
class Preset:
    """family, depth: of the transformer that it was made for."""

    family: str
    depth: int
    removed: Removed
    about: str

    def check(self, host: Host, name: str) -> None:
        """Raises ValueError for a host of another family or depth."""
        if (host.family.name, host.depth) != (self.family, self.depth):
            raise ValueError(f"preset {name!r} is for a transformer of {self.family} with "
                             f"{self.depth} blocks, and this one is of {host.family.name} with "
                             f"{host.depth}; name its blocks yourself")  # fmt: skip


def _whole(blocks: str) -> dict[int, tuple[str, ...]]:
    return dict.fromkeys(parse_blocks(blocks), ("all",))


LATE = _whole("25-29,31-35")
PRESETS: dict[str, Preset] = {
    "sd3.5-large-turbo-20": Preset("SD3", 38, LATE, "eight late blocks; 78.85 % left"),
    "sd3.5-large-turbo-30": Preset(
        "SD3", 38, LATE | parse_components("13:ff+ff_context,14-17:ff+ff_context+w_norm1_context,"
                                           "17-19:ff+ff_context"),
        "hybrid: the eight, then by score within 13 to 18 without attention; 70.48 % left"),
    "sd3.5-large-turbo-30-spread": Preset(
        "SD3", 38, LATE | parse_components("16-19:ff+ff_context+w_norm1_context,"
                                           "30:ff+ff_context+w_norm1_context,"
                                           "36:ff+ff_context+w_norm1_context"),
        "hybrid: the eight, then the MLPs and text modulations of 16, 17, 18, 30, 36; 70.77 % "
        "left"),
    "sd3.5-medium": Preset("SD3", 24, _whole("13,15-17,18,20-22"), "six blocks of 24"),
}  # fmt: skip
