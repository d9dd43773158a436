"""The pictures: the same prompts side by side, all of them or a part that is fixed beforehand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from impasto.bench import Record
from impasto.bench.reasons import KINDS, read_reason
from impasto.report.data import Run
from impasto.report.pictures import Embedded, embed
from impasto.report.seen import Crop, crops, mask_path
from impasto.report.tree import Tree, tree
from impasto.report.words import digits
from impasto.run.directory import read_json
from impasto.run.seen import View
from impasto.score.base import Found

__all__ = ["Box", "Gallery", "Row", "Shot", "gallery"]

BOX_COLORS = 4
"""How many classes of one picture have a colour of their own (`.box-0` … in the style)."""
DOUBT = 0.75
"""From which doubt on the scorers are said to disagree on a picture."""
LAYOUTS = {1: "ones", 2: "pairs", 4: "fours", math.inf: "many"}
LETTERING = 0.07
"""Height of a box's words as a share of the picture's longest side."""


@dataclass(frozen=True)
class Box:
    """A kept object, in pixels of the picture. color: which of the page's box colours.

    mask: SVG path data, "" where the detector made none.
    """

    cls: str
    score: float
    x: float
    y: float
    width: float
    height: float
    color: int
    mask: str = ""


@dataclass(frozen=True)
class Shot:
    """One picture with its result.

    correct: the verdict, None where the result is a number: value, None where no answer could be
    read. scores: (name, number) of its parts. answer: in words, None where none was asked.
    reasons: a line per failure. drawn: the sample's own record (seed, candidates, chosen), None
    for pictures drawn elsewhere. second: the second scorer's value; doubt: how far it stands from
    the verdict (`Run.doubts`). crops: the objects whose colour was asked. tree: its search, of a
    prompt's first picture.
    """

    picture: Embedded
    sample: int
    correct: bool | None
    reasons: tuple[str, ...]
    boxes: tuple[Box, ...]
    second: float | None
    drawn: dict[str, Any] | None
    doubt: float = 0.0
    crops: tuple[Crop, ...] = ()
    value: float | None = None
    scores: tuple[tuple[str, float], ...] = ()
    answer: str | None = None
    tree: Tree | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its failures, each once, in `KINDS`' order."""
        found = {read_reason(line).kind for line in self.reasons}
        return tuple(kind for kind in KINDS if kind in found)

    @property
    def doubted(self) -> bool:
        """Right, but among the run's lowest quarter of second scores; or wrong and the highest."""
        return self.doubt >= DOUBT

    @property
    def searched(self) -> bool:
        """Whether it was chosen among several by a reward."""
        return self.drawn is not None and self.drawn["candidates"][0]["value"] is not None

    @property
    def rewards(self) -> list[str]:
        """The candidates' rewards, in order."""
        values = [c["value"] for c in self.drawn["candidates"]] if self.drawn else []
        return [f"{value:.{digits(value)}f}" for value in values]

    @property
    def second_text(self) -> str:
        return "" if self.second is None else f"{self.second:.{digits(self.second)}f}"

    @property
    def unit(self) -> float:
        """Height of a box's words, in pixels of the picture."""
        return round(max(self.picture.width, self.picture.height) * LETTERING, 2)


@dataclass(frozen=True)
class Row:
    """A prompt. sides: per run its pictures by sample; flags: which verdict filters find it.

    sources: the pictures that the prompt is about, where there are any.
    """

    prompt: str
    task: str
    sides: tuple[tuple[Shot, ...], ...]
    sources: tuple[Embedded, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """ "right" (every picture), "wrong" (some picture), "disagree" (a sample between runs),
        "scorers" (the second scorer stands against a verdict)."""
        verdicts = [{shot.sample: shot.correct for shot in side} for side in self.sides]
        every = [correct for side in verdicts for correct in side.values()]
        samples = set().union(*verdicts)
        disagree = any(len({side[s] for side in verdicts if s in side}) > 1 for s in samples)
        scorers = any(shot.doubted for side in self.sides for shot in side)
        known = None not in every
        found = {"right": known and all(every), "wrong": known and not all(every),
                 "disagree": disagree, "scorers": scorers}  # fmt: skip
        return tuple(flag for flag, holds in found.items() if holds)


    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of failure of any of its pictures."""
        found = {kind for side in self.sides for shot in side for kind in shot.kinds}
        return tuple(kind for kind in KINDS if kind in found)

    @property
    def doubt(self) -> float:
        """That of the picture that the scorers disagree on most."""
        return round(max(shot.doubt for side in self.sides for shot in side), 4)


@dataclass(frozen=True)
class Gallery:
    """rows: the prompts shown, of so many `prompts` with so many `pictures` in all."""

    rows: tuple[Row, ...]
    prompts: int
    pictures: int

    @property
    def shown(self) -> int:
        """Pictures shown."""
        return sum(len(side) for row in self.rows for side in row.sides)

    @property
    def given(self) -> bool:
        """Whether some prompt is about given pictures."""
        return any(row.sources for row in self.rows)

    @property
    def looked(self) -> bool:
        """Whether any picture has objects to show."""
        return any(shot.boxes for row in self.rows for side in row.sides for shot in side)

    @property
    def kinds(self) -> list[tuple[str, int]]:
        """(kind of failure, pictures shown that have it), of those that occur."""
        shots = [shot for row in self.rows for side in row.sides for shot in side]
        counts = Counter(kind for shot in shots for kind in shot.kinds)
        return [(kind, counts[kind]) for kind in KINDS if counts[kind]]

    @property
    def layout(self) -> str:
        """The page's layout by the most pictures of one prompt: how wide its cards must be."""
        widest = max(sum(len(side) for side in row.sides) for row in self.rows)
        return next(name for most, name in LAYOUTS.items() if widest <= most)


def gallery(runs: Sequence[Run], max_pictures: int | None) -> Gallery:
    """The prompts' pictures, in the bench's order.

    max_pictures: above so many pictures (of all runs together) a part of the prompts is shown,
    spread evenly over tasks and within each; at least one prompt. Raises ValueError below 1.
    """
    if max_pictures is not None and max_pictures < 1:
        raise ValueError(f"max_pictures is {max_pictures}; give at least 1, or None for all")
    prompts = _by_prompt(runs)
    pictures = sum(len(run.records) for run in runs)
    chosen = list(prompts)
    if max_pictures is not None and pictures > max_pictures:
        widest = max(sum(map(len, sides)) for sides in prompts.values())
        chosen = _part(prompts, max(max_pictures // widest, 1))
    doubted = [run.doubts() for run in runs]
    rows = tuple(_row(runs, prompts[key], doubted) for key in chosen)
    return Gallery(rows, len(prompts), pictures)


Sides = list[list[Record]]


def _by_prompt(runs: Sequence[Run]) -> dict[str, Sides]:
    """Prompt (its metadata) -> per run its records."""
    prompts: dict[str, Sides] = {}
    for number, run in enumerate(runs):
        for record in run.records:
            sides = prompts.setdefault(record.metadata, [[] for _ in runs])
            sides[number].append(record)
    return prompts


def _spread(keys: Sequence[str]) -> list[str]:
    """All keys, those that lie evenly apart first: by halves, quarters, eighths of the list."""
    n, step = len(keys), 1
    order: list[int] = []
    while len(order) < n and step <= 2 * n:
        order += [(2 * i + 1) * n // (2 * step) for i in range(step)]
        step *= 2
    return [keys[i] for i in dict.fromkeys([*order, *range(n)])]


def _part(prompts: dict[str, Sides], count: int) -> list[str]:
    """`count` of the prompts, as many of each task as the tasks' sizes allow, in their order."""
    tasks: dict[str, list[str]] = {}
    for key, sides in prompts.items():
        tasks.setdefault(next(chain(*sides)).tag, []).append(key)
    turns = chain(*zip_longest(*(_spread(keys) for keys in tasks.values())))
    chosen = set([key for key in turns if key is not None][:count])
    return [key for key in prompts if key in chosen]


def _row(runs: Sequence[Run], sides: Sides, doubted: Sequence[dict[str, float]]) -> Row:
    """doubted: `Run.doubts` of each run."""
    first = next(chain(*sides))
    shots = (tuple(_shot(run, record, doubts, first=not i) for i, record in enumerate(side))
             for run, side, doubts in zip(runs, sides, doubted, strict=True))  # fmt: skip
    return Row(first.prompt, first.tag, tuple(shots), _sources(runs, sides))


def _sources(runs: Sequence[Run], sides: Sides) -> tuple[Embedded, ...]:
    """What the first run that has them keeps beside this prompt's picture."""
    for run, side in zip(runs, sides, strict=True):
        if side and not run.drawn:
            folder = (run.folder.path / side[0].filename).parent.parent
            if found := sorted(folder.glob("source_[0-9].png")):
                return tuple(embed(path) for path in found)
    return ()


def _shot(run: Run, record: Record, doubts: dict[str, float], *, first: bool) -> Shot:
    """first: whether its search is shown. Those of a prompt look alike, and are large."""
    path = run.folder.path / record.filename
    view = run.seen.get(record.filename)
    drawn = read_json(path.with_suffix(".json")) if run.drawn else None
    trace = drawn.get("trace") if drawn and first else None
    return Shot(
        picture=embed(path),
        sample=record.sample,
        correct=record.correct,
        reasons=tuple(line for line in record.reason.split("\n") if line),
        boxes=tuple(_boxes(record) if view is None else _overlays(view)),
        second=run.second.get(record.filename),
        drawn=drawn,
        doubt=doubts.get(record.filename, 0.0),
        crops=() if view is None else crops(path, view),
        value=record.value,
        scores=tuple(record.scores.items()),
        answer=record.answer,
        tree=tree(trace, run.folder.tree(record.filename)) if trace else None,
    )


def _overlays(view: View) -> list[Box]:
    colors = {cls: i for i, cls in enumerate(dict.fromkeys(o.found.cls for o in view.objects))}
    return [_overlay(one.found, colors[one.found.cls] % BOX_COLORS) for one in view.objects]


def _overlay(found: Found, color: int) -> Box:
    x1, y1, x2, y2 = found.box
    mask = "" if found.mask is None else mask_path(found.mask)
    return Box(found.cls, found.score, x1, y1, x2 - x1, y2 - y1, color, mask)


def _boxes(record: Record) -> list[Box]:
    return [
        Box(cls, score, x1, y1, x2 - x1, y2 - y1, color % BOX_COLORS)
        for color, (cls, rows) in enumerate(record.objects.items())
        for x1, y1, x2, y2, score in rows
    ]
