"""DPG-Bench's questions (Hu et al. 2024, ELLA, arXiv 2403.05135) and a judge that answers them.

`dpg_bench.csv`, a row per question: item_id, text, proposition_id, dependency (parents' ids, 0 for
none), tuple ("attribute - color (dog, red)"), question_natural_language and further columns. The
file comes from TencentQQGYLab/ELLA, by path.

    answer          yes or no; what is neither after three tries counts as unreadable
    a question      0 if any parent is (already) 0, in the order of ids: zeros cascade
    a picture       mean over its questions
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from impasto.score.base import Score, Scorer
from impasto.score.judges.base import Judge, Question
from impasto.score.judges.parse import asked, yes_no
from impasto.score.judges.sight import check_sight
from impasto.spec import Spec
from impasto.zoo.registry import SCORERS

__all__ = ["DpgItem", "DpgScorer", "Proposition", "cascaded", "dpg_scorer", "parse_items",
           "read_items", "split_grid"]  # fmt: skip

SOURCE = "https://github.com/TencentQQGYLab/ELLA"
NEEDED = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
SUFFIX = "Answer yes or no."


@dataclass(frozen=True)
class Proposition:
    """category: "attribute - color", its first half is the broad one."""

    id: int
    question: str
    parents: tuple[int, ...]
    category: str

    @property
    def broad(self) -> str:
        return self.category.partition("-")[0].strip()


@dataclass(frozen=True)
class DpgItem:
    """A dense prompt with its propositions, in the order of their ids."""

    id: str
    prompt: str
    propositions: tuple[Proposition, ...]


def _proposition(row: Mapping[str, str]) -> Proposition:
    parents = [int(part) for part in row["dependency"].split(",") if part.strip()]
    return Proposition(int(row["proposition_id"]), row["question_natural_language"].strip(),
                       tuple(p for p in parents if p), row["tuple"].partition("(")[0].strip()
                       )  # fmt: skip


def parse_items(text: str, where: str = "the text") -> tuple[DpgItem, ...]:
    """The items of a CSV in `dpg_bench.csv`'s columns, in order of first appearance.

    Raises ValueError for missing columns, and for an item with a parent that it has not.
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    if missing := [key for key in NEEDED if not rows or key not in rows[0]]:
        raise ValueError(f"{where} lacks the columns {', '.join(missing)} of dpg_bench.csv, from "
                         f"{SOURCE}")  # fmt: skip
    by_item: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        by_item.setdefault(row["item_id"], []).append(row)
    return tuple(_item(name, rows, where) for name, rows in by_item.items())


def _item(name: str, rows: Sequence[Mapping[str, str]], where: str) -> DpgItem:
    found = tuple(sorted(map(_proposition, rows), key=lambda one: one.id))
    ids = {one.id for one in found}
    if len(ids) < len(found) or any(p not in ids for one in found for p in one.parents):
        raise ValueError(f"{where}: item {name} has a proposition twice or a parent that is not "
                         f"there")  # fmt: skip
    return DpgItem(name, rows[0]["text"].strip(), found)


def read_items(path: str | Path) -> tuple[DpgItem, ...]:
    """The items of the official CSV. Raises ValueError without a path or for another shape."""
    if not str(path):
        raise ValueError(f"DPG-Bench needs its official file: path=dpg_bench.csv, from {SOURCE}")
    return parse_items(Path(path).read_text(encoding="utf-8-sig"), str(path))


def cascaded(propositions: Sequence[Proposition], answers: Mapping[int, float]
             ) -> dict[int, float]:  # fmt: skip
    """Id -> 1.0 or 0.0 after zeroing, in the order of ids. Raises KeyError for no answer."""
    values: dict[int, float] = {}
    for one in propositions:
        zero = any(values.get(parent, answers[parent]) == 0 for parent in one.parents)
        values[one.id] = 0.0 if zero else answers[one.id]
    return values


def split_grid(image: Tensor) -> Tensor:
    """(3, 2h, 2w) as its four pictures (4, 3, h, w): top left, top right, bottom left, right.

    Raises ValueError for odd sides.
    """
    _, height, width = image.shape
    if height % 2 or width % 2:
        raise ValueError(f"a grid of {height} x {width} pixels has no four equal parts")
    rows = image.unflatten(1, (2, height // 2)).unflatten(3, (2, width // 2))
    return rows.permute(1, 3, 0, 2, 4).reshape(4, 3, height // 2, width // 2)


class DpgScorer(Scorer):
    """Value: a picture's mean after zeroing; correct where every answer is yes.

    Details hold each proposition's answer as [[0, 0, W, H, 1.0 or 0.0]], and [] for one that could
    not be read: such a picture has no part in the bench's score.
    """

    gives_verdict: ClassVar[bool] = True

    def __init__(self, judge: Judge, items: Sequence[DpgItem]) -> None:
        self.judge = judge
        self.items = {item.prompt: item for item in items}

    def score(self, images: Tensor, specs: Sequence[Spec]) -> list[Score]:
        """Raises ValueError for a prompt that is not among the items."""
        return [self._one(image, self._item(spec))
                for image, spec in zip(images, specs, strict=True)]  # fmt: skip

    def _item(self, spec: Spec) -> DpgItem:
        if spec.prompt not in self.items:
            raise ValueError(f"{spec.prompt[:60]!r}… is no prompt of DPG-Bench's file")
        return self.items[spec.prompt]

    def _answer(self, image: Tensor, text: str) -> float | None:
        word = asked(self.judge, Question((image,), f"{text} {SUFFIX}"), yes_no, max_tokens=8)
        return None if word is None else float(word == "yes")

    def _one(self, image: Tensor, item: DpgItem) -> Score:
        answers = {one.id: self._answer(image, one.question) for one in item.propositions}
        whole = [0.0, 0.0, float(image.shape[-1]), float(image.shape[-2])]
        known = {k: v for k, v in answers.items() if v is not None}
        # An unreadable parent zeroes nothing; the picture is left out of the bench's score.
        values = cascaded(item.propositions, {k: v if v is not None else 1.0
                                              for k, v in answers.items()})  # fmt: skip
        wrong = [f"{one.question} {'no' if one.id in known else 'unreadable'}"
                 for one in item.propositions if known.get(one.id) != 1.0]  # fmt: skip
        value = sum(values[k] for k in known) / len(known) if known else 0.0
        return Score(value=value, correct=not wrong, reason="\n".join(wrong),
                     details={str(k): [] if v is None else [[*whole, v]]
                              for k, v in answers.items()})  # fmt: skip

    def self_test(self) -> None:
        check_sight(self.judge)

    def provenance(self) -> dict[str, Any]:
        return {"id": "dpg", "judge": self.judge.provenance(), "suffix": SUFFIX,
                "official": False}  # fmt: skip


@SCORERS.register("dpg")
def dpg_scorer(
    *, path: str = "", vlm: str = "", url: str = "", model: str = "", cache: str = "",
    device: str = "cpu",
) -> DpgScorer:  # fmt: skip
    """DPG-Bench's questions answered by a vision-language model: vlm=FOLDER or url=, model=

    path: dpg_bench.csv. Not mPLUG, which published scores are by. Raises ValueError for another
    file or no judge.
    """
    items = read_items(path)
    from impasto.score.judges.make import make_judge

    return DpgScorer(make_judge(vlm=vlm, url=url, model=model, cache=cache, device=device), items)
