"""Edited pictures judged by a vision-language model: GEdit-Bench and ImgEdit-Bench.

GEdit (Step1X-Edit 2025), by VIEScore (Ku et al. 2024, arXiv 2312.14867); the edited picture is
first brought to the source's size:

    SC   source and edited one are shown: marks of success and of restraint            0 to 10
    PQ   the edited one is shown: marks of naturalness and of cleanness                0 to 10
    O    sqrt(min SC * min PQ)

ImgEdit (Ye et al. 2025): the question first, then source and edited one; three marks from 1 to 5
on lines "name: integer" by criteria of the edit's type; the value is their mean, 2 decimals.

The official judges are gpt-4.1 or Qwen2.5-VL-72B-Instruct-AWQ (GEdit), gpt-4o or gpt-4.1
(ImgEdit).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from impasto.images import read_image, resized
from impasto.score.base import Score
from impasto.score.judges.base import Question
from impasto.score.judges.parse import asked, lines, vie
from impasto.score.judges.prompts import fill, read_template
from impasto.score.rows import below, read_rows
from impasto.score.vlm import MarkScorer, unread
from impasto.zoo.registry import SCORERS

__all__ = [
    "CRITERIA",
    "GEDIT_GROUPS",
    "EditItem",
    "GEditScorer",
    "ImgEditScorer",
    "gedit_scorer",
    "imgedit_score",
    "imgedit_scorer",
    "read_gedit",
    "read_imgedit",
    "vie_score",
]  # fmt: skip

GEDIT = "stepfun-ai/GEdit-Bench"
IMGEDIT = "https://github.com/PKU-YuanGroup/ImgEdit"
GEDIT_GROUPS = ("background_change", "color_alter", "material_alter", "motion_change", "ps_human",
                "style_change", "subject-add", "subject-remove", "subject-replace", "text_change",
                "tone_transfer")  # fmt: skip
_PHYSICAL = ("Prompt Compliance", "Visual Naturalness", "Physical & Detail Integrity")
CRITERIA = {
    "extract": ("Object Identity", "Mask Precision", "Visual Quality"),
    "style": ("Style Fidelity", "Content Preservation", "Rendering Quality"),
    "add": ("Prompt Compliance", "Visual Naturalness", "Physical & Detail Coherence"),
    "adjust": ("Prompt Compliance", "Visual Seamlessness", "Physical & Detail Fidelity"),
    "background": ("Instruction Compliance", "Visual Seamlessness", "Physical Consistency"),
    "replace": _PHYSICAL,
    "remove": _PHYSICAL,
    "action": ("Action Fidelity", "Identity Preservation", "Visual & Anatomical Coherence"),
    "compose": ("Instruction Compliance", "Visual Naturalness",
                "Physical Consistency & Fine Detail"),
}  # fmt: skip
"""ImgEdit's types of edit and what each is marked by."""
OWN_SC = """The first picture was edited as follows; the second is the result: <<instruction>>
Give two whole numbers from 0 to 10: how well the instruction was carried out, and how well
everything that it does not name was left alone (10: nothing else was changed).
Answer in JSON and nothing else: {"score": [success, restraint], "reasoning": "short"}"""
OWN_PQ = """Look at this picture. Give two whole numbers from 0 to 10: how natural it looks, and
how free it is of artifacts (10: none). Answer in JSON and nothing else:
{"score": [naturalness, cleanness], "reasoning": "short"}"""
OWN_IMGEDIT = """The first picture was edited as follows; the second is the result: <<instruction>>
Give a whole number from 1 (bad) to 5 (perfect) for each, on a line of its own as "name: number",
and no number higher than the first one:
"""
"""Impasto's own wording, as the two above: not comparable with published scores."""


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


def _checked(items: Sequence[EditItem], groups: Sequence[str], where: str) -> tuple[EditItem, ...]:
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
    return _checked(found, GEDIT_GROUPS, str(path))


def read_imgedit(path: str | Path, images: str | Path = "") -> tuple[EditItem, ...]:
    """ImgEdit's basic items: {key: {"id": source's file, "prompt", "edit_type"}}.

    images: folder of the sources; default the file's own. Raises ValueError for no path or
    another shape.
    """
    path = str(path)
    if not path:
        raise ValueError(f"ImgEdit-Bench needs its file: path=singleturn.json, from {IMGEDIT}; "
                         f"without one, take sticker-edits")  # fmt: skip
    folder = Path(images) if str(images) else Path(path).parent
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        found = [_imgedit(str(key), row, folder, str(path)) for key, row in rows.items()]
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not ImgEdit's file ({error!r}): it needs "
                         f'{{key: {{"id", "prompt", "edit_type"}}}}') from error  # fmt: skip
    return _checked(found, tuple(CRITERIA), str(path))


def _imgedit(key: str, row: Mapping[str, Any], folder: Path, where: str) -> EditItem:
    source = below(folder, row["id"], f"{where}, {key}")
    return EditItem(key, str(row["edit_type"]), str(row["prompt"]), partial(read_image, source))


def vie_score(sc: Sequence[float], pq: Sequence[float]) -> float:
    """sqrt(min(sc) * min(pq)), in [0, 10]."""
    return math.sqrt(min(sc) * min(pq))


def imgedit_score(scores: Sequence[float]) -> float:
    """Mean of a picture's scores, to 2 decimals. Raises ValueError for none or beyond 1 to 5."""
    if not scores or not all(1 <= one <= 5 for one in scores):
        raise ValueError(f"{list(scores)} must be scores from 1 to 5, at least one")
    return round(sum(scores) / len(scores), 2)


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


class ImgEditScorer(MarkScorer[EditItem]):
    """Value: mean of the marks, which are its parts, "1", "2", "3". prompts: by type of edit."""

    def _one(self, image: Tensor, item: EditItem) -> Score:
        text = fill(self.prompts[item.group], instruction=item.instruction)
        question = Question((item.source(), image), text, text_first=True)
        marks = asked(self.judge, question, _imgedit_marks)
        if marks is None:
            return unread("marks")
        return Score(value=imgedit_score(marks),
                     scores={str(i): float(v) for i, v in enumerate(marks, 1)})  # fmt: skip


def _imgedit_marks(text: str) -> tuple[int, ...] | None:
    """`lines`, where all are from 1 to 5."""
    found = lines(text)
    return found if found and all(1 <= one <= 5 for one in found) else None


def _imgedit_prompts(path: str) -> dict[str, str]:
    """Type -> prompt, from a JSON file; place <<instruction>> or, officially, <edit_prompt>.

    Without a file impasto's own. Raises ValueError for another shape.
    """
    if not path:
        return {kind: OWN_IMGEDIT + "\n".join(f"{name}:" for name in names)
                for kind, names in CRITERIA.items()}  # fmt: skip
    texts = json.loads(Path(path).read_text(encoding="utf-8"))
    there = set(texts) if isinstance(texts, dict) else set()
    if lacking := sorted(set(CRITERIA) - there):
        raise ValueError(f"{path} must be an object of prompts by type; it lacks "
                         f"{', '.join(lacking)}")  # fmt: skip
    prompts = {kind: str(texts[kind]).replace("<edit_prompt>", "<<instruction>>")
               for kind in CRITERIA}  # fmt: skip
    for text in prompts.values():
        fill(text, instruction="")
    return prompts


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


@SCORERS.register("imgedit")
def imgedit_scorer(
    *, path: str = "", images: str = "", vlm: str = "", url: str = "", model: str = "",
    cache: str = "", prompts: str = "", device: str = "cpu",
) -> ImgEditScorer:  # fmt: skip
    """ImgEdit-Bench's three marks by a vision-language model: vlm=FOLDER or url=, model=

    path, images: as the bench's. prompts: JSON file of a prompt for each type of edit, such as the
    official one; else impasto's own. Raises ValueError for another file or no judge.
    """
    items = {item.key: item for item in read_imgedit(path, images)}
    texts = _imgedit_prompts(prompts)
    from impasto.score.judges.make import make_judge

    judge = make_judge(vlm=vlm, url=url, model=model, cache=cache, device=device)
    return ImgEditScorer(judge, items, name="imgedit", prompts=texts, official=bool(prompts))
