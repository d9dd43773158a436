"""GEdit-Bench's edited pictures, judged by a vision-language model (ImgEdit's: `score.imgedit`).

GEdit (Step1X-Edit 2025), by VIEScore (Ku et al. 2024, arXiv 2312.14867); the edited picture is
first brought to the source's size:

    SC   source and edited one are shown: marks of success and of restraint            0 to 10
    PQ   the edited one is shown: marks of naturalness and of cleanness                0 to 10
    O    sqrt(min SC * min PQ)

The official judges are gpt-4.1 or Qwen2.5-VL-72B-Instruct-AWQ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from impasto.images import resized
from impasto.score.base import Score
from impasto.score.judges.base import Question
from impasto.score.judges.parse import asked, vie
from impasto.score.judges.prompts import fill, read_template
from impasto.score.rows import read_rows
from impasto.score.vlm import MarkScorer, unread
from impasto.zoo.registry import SCORERS

__all__ = ["GEDIT_GROUPS", "EditItem", "GEditScorer", "checked", "gedit_scorer", "read_gedit",
           "vie_score"]  # fmt: skip

GEDIT = "stepfun-ai/GEdit-Bench"
GEDIT_GROUPS = ("background_change", "color_alter", "material_alter", "motion_change", "ps_human",
                "style_change", "subject-add", "subject-remove", "subject-replace", "text_change",
                "tone_transfer")  # fmt: skip
OWN_SC = """The first picture was edited as follows; the second is the result: <<instruction>>
Give two whole numbers from 0 to 10: how well the instruction was carried out, and how well
everything that it does not name was left alone (10: nothing else was changed).
Answer in JSON and nothing else: {"score": [success, restraint], "reasoning": "short"}"""
OWN_PQ = """Look at this picture. Give two whole numbers from 0 to 10: how natural it looks, and
how free it is of artifacts (10: none). Answer in JSON and nothing else:
{"score": [naturalness, cleanness], "reasoning": "short"}"""
"""Impasto's own wording, as the one above: not comparable with published scores."""


@dataclass(frozen=True)
class EditItem:
    """An edit to be done. key: its name. group: GEdit's task or ImgEdit's type.

    source: reads the picture to edit, (3, H, W). shared: whether GEdit has it in both languages.
    """

    key: str
    group: str
    instruction: str
    source: Callable[[], Tensor]
    shared: bool = True


def checked(items: Sequence[EditItem], groups: Sequence[str], where: str) -> tuple[EditItem, ...]:
    """The items. Raises ValueError for a group that is none of `groups` or a key there twice."""
    if unknown := sorted({one.group for one in items} - set(groups)):
        raise ValueError(f"{where} has the unknown group(s) {unknown}; allowed: "
                         f"{', '.join(groups)}")  # fmt: skip
    keys = [one.key for one in items]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"{where} holds {twice[0]!r} more than once")
    return tuple(items)


def read_gedit(path: str | Path, language: str = "en") -> tuple[EditItem, ...]:
    """GEdit's items of a language, in the file's order; keys are GROUP/LANGUAGE/KEY.

    path: .parquet, folder of them, .jsonl, or the hub's id. Raises ValueError for no path, another
    language or another shape.
    """
    path = str(path)  # an option such as 2024 arrives as a number
    if not path:
        raise ValueError(f"GEdit-Bench needs its data: path=FILE or FOLDER (parquet), or "
                         f"path={GEDIT}; without any, take sticker-edits")  # fmt: skip
    if language not in ("en", "cn"):
        raise ValueError(f"GEdit-Bench has the languages en and cn, not {language!r}")
    table = read_rows(path, ("key", "task_type", "instruction", "instruction_language",
                             "Intersection_exist"), "input_image", "GEdit-Bench")  # fmt: skip
    found = [EditItem(f"{row['task_type']}/{language}/{row['key']}", str(row["task_type"]),
                      str(row["instruction"]), partial(table.image, i),
                      bool(row["Intersection_exist"]))
             for i, row in enumerate(table.rows)
             if row["instruction_language"] == language]  # fmt: skip
    if not found:
        raise ValueError(f"{path} holds no items in the language {language!r}")
    return checked(found, GEDIT_GROUPS, str(path))


def vie_score(sc: Sequence[float], pq: Sequence[float]) -> float:
    """sqrt(min(sc) * min(pq)), in [0, 10]."""
    return math.sqrt(min(sc) * min(pq))


class GEditScorer(MarkScorer[EditItem]):
    """Value: O. Parts: the marks, "sc.1", "sc.2", "pq.1", "pq.2"."""

    max_tokens = 1400

    def _marks(self, image: Tensor, item: EditItem) -> dict[str, tuple[float, ...] | None]:
        source = item.source()
        edited = resized(image, int(source.shape[-2]), int(source.shape[-1]))
        text = fill(self.prompts["sc"], instruction=item.instruction)
        shown = {"sc": Question((source, edited), text),
                 "pq": Question((edited,), self.prompts["pq"])}  # fmt: skip
        return {part: asked(self.judge, question, vie, max_tokens=self.max_tokens)
                for part, question in shown.items()}  # fmt: skip

    def _one(self, image: Tensor, item: EditItem) -> Score:
        marks = self._marks(image, item)
        if missing := [part.upper() for part, values in marks.items() if not values]:
            return unread(" and ".join(missing))
        parts = {part: values for part, values in marks.items() if values}
        return Score(value=vie_score(parts["sc"], parts["pq"]),
                     scores={f"{part}.{i}": v for part, values in parts.items()
                             for i, v in enumerate(values, 1)})  # fmt: skip


@SCORERS.register("gedit")
def gedit_scorer(
    *, path: str = "", language: str = "en", vlm: str = "", url: str = "", model: str = "",
    cache: str = "", sc_prompt: str = "", pq_prompt: str = "", device: str = "cpu",
) -> GEditScorer:  # fmt: skip
    """VIEScore of GEdit-Bench's edits by a vision-language model: vlm=FOLDER or url=, model=

    path, language: as the bench's. sc_prompt (place <<instruction>>), pq_prompt: files such as the
    official texts; else impasto's own. Raises ValueError for another file, one prompt without the
    other or no judge.
    """
    if bool(sc_prompt) != bool(pq_prompt):
        raise ValueError("give both sc_prompt=FILE and pq_prompt=FILE, or neither")
    items = {item.key: item for item in read_gedit(path, language)}
    texts = {"sc": read_template(sc_prompt, ("instruction",)) if sc_prompt else OWN_SC,
             "pq": read_template(pq_prompt, ()) if pq_prompt else OWN_PQ}  # fmt: skip
    from impasto.score.judges.make import make_judge

    judge = make_judge(vlm=vlm, url=url, model=model, cache=cache, device=device)
    return GEditScorer(judge, items, name="gedit", prompts=texts, official=bool(sc_prompt))
