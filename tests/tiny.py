"""A bench of six prompts, one of each task, and settings to judge it by fakes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from impasto.bench import Bench
from impasto.run.settings import Settings
from impasto.spec import Item, Spec
from tests.fakes import FakeScorer, FakeSecond

SPECS = (
    Spec(tag="single_object", include=(Item(cls="dog"),), prompt="a photo of a dog"),
    Spec(tag="two_object", include=(Item(cls="cat"), Item(cls="bus")),
         prompt="a photo of a cat and a bus"),
    Spec(tag="counting", include=(Item(cls="cup", count=2),),
         exclude=(Item(cls="cup", count=3),), prompt="a photo of two cups"),
    Spec(tag="colors", include=(Item(cls="car", color="red"),), prompt="a photo of a red car"),
    Spec(tag="position", include=(Item(cls="bed"), Item(cls="cow", position=("above", 0))),
         prompt="a photo of a cow above a bed"),
    Spec(tag="color_attr", include=(Item(cls="tie", color="blue"), Item(cls="kite", color="pink")),
         prompt="a photo of a blue tie and a pink kite"),
)  # fmt: skip

BENCH = Bench(name="tiny", specs=SPECS, samples_per_prompt=2)

NOT_COMPARED = {"cost.json", ".lock", "report.html"}


def settings(**changes) -> Settings:
    values = {"bench": BENCH, "scorer": FakeScorer(), "second": FakeSecond()}
    return Settings(**(values | changes))


def tree(folder: Path) -> dict[str, str]:
    """Hash of every file that an interruption may not change."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_COMPARED
    }
