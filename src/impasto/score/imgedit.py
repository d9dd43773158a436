"""ImgEdit-Bench's edited pictures (Ye et al. 2025), judged by a vision-language model.

The question first, then source and edited one. Two sets, of other items and other marks:

    basic   three marks from 1 to 5 on lines "name: integer", by criteria of the edit's type;
            the value is their mean, 2 decimals                                   737 items
    uge     understanding, grounding, editing: one mark from 1 to 5               47 items

The third, multi-turn, is judged by hand. The official judge is gpt-4o (basic: or gpt-4.1).

UGE's released script averages all lines "name: integer" of an answer and drops an answer without
one, such as "… Score: 2." of its own README. Here that ending is read too; what holds no mark, or
marks that differ, is unreadable and counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from impasto.files import sha256_file
from impasto.images import read_image
from impasto.score.base import Score
from impasto.score.edits import EditItem, checked
from impasto.score.judges.base import Judge, Question
from impasto.score.judges.parse import asked, lines
from impasto.score.judges.prompts import fill
from impasto.score.rows import below
from impasto.score.vlm import MarkScorer, unread
from impasto.spec import Spec
from impasto.zoo.registry import SCORERS

__all__ = ["CRITERIA", "ImgEditScorer", "check_set", "imgedit_score", "imgedit_scorer",
           "read_imgedit", "uge_mark"]  # fmt: skip

IMGEDIT = "https://github.com/PKU-YuanGroup/ImgEdit"
FILES = {"basic": "basic_edit.json", "uge": "UGE_edit.json"}
"""The sets, and what the repository calls their files (older copies: singleturn.json)."""
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
"""The basic set's types of edit and what each is marked by."""
OWN = """The first picture was edited as follows; the second is the result: <<instruction>>
Give a whole number from 1 (bad) to 5 (perfect) for each, on a line of its own as "name: number",
and no number higher than the first one:
"""
OWN_UGE = """The first picture was edited as follows; the second is the result: <<instruction>>
Was the right thing found, was the edit done as told, does it look natural, and was all else left
as it was? Give one whole number from 1 (bad) to 5 (perfect) for all of it, on a line of its own:
Score: number"""
"""Impasto's own wording, as the one above: not comparable with published scores."""


def check_set(name: str) -> None:
    """Raises ValueError unless `name` is a set that a judge can mark."""
    if re.sub(r"[^a-z]", "", str(name).lower()) == "multiturn":
        raise ValueError("ImgEdit's multi-turn set is judged by hand: there is no judge for it "
                         "here; take set=basic or set=uge")  # fmt: skip
    if name not in FILES:
        raise ValueError(f"set={name} is none of ImgEdit-Bench's; allowed: {', '.join(FILES)}")


def read_imgedit(path: str | Path, images: str | Path = "", which: str = "basic"
                 ) -> tuple[EditItem, ...]:  # fmt: skip
    """A set's items, of {key: {"id": source's file, "prompt", "edit_type"}}; uge has no edit_type.

    images: folder of the sources; default the file's own. which: basic or uge, whose items are
    all of group uge. Raises ValueError for no path, another shape or the file of another set.
    """
    check_set(which)
    path = str(path)
    if not path:
        raise ValueError(f"ImgEdit-Bench needs its file: path={FILES[which]}, from {IMGEDIT}; "
                         f"without one, take sticker-edits")  # fmt: skip
    folder = Path(images) if str(images) else Path(path).parent
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        for key, row in rows.items():
            _of_set(row, which, f"{path}, {key}")
        found = [_item(str(key), row, folder, path) for key, row in rows.items()]
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        shape = '"id", "prompt", "edit_type"' if which == "basic" else '"id", "prompt"'
        raise ValueError(f"{path} is not ImgEdit's file ({error!r}): set={which} needs "
                         f"{{key: {{{shape}}}}}") from error  # fmt: skip
    if not found:
        raise ValueError(f"{path} holds no items")
    return checked(found, _kinds(which), path)


def _kinds(which: str) -> tuple[str, ...]:
    return tuple(CRITERIA) if which == "basic" else ("uge",)


def _of_set(row: Mapping[str, Any], which: str, where: str) -> None:
    """Raises ValueError, naming the set, for a row of another set than `which`."""
    if "turn1" in row:
        raise ValueError(f"{where} has turns: it is of ImgEdit's multi-turn set, which is judged "
                         f"by hand; take {FILES[which]}")  # fmt: skip
    if which == "uge" and "edit_type" in row:
        raise ValueError(f"{where} has an edit_type: it is of the basic set, not of uge; take "
                         f"path={FILES['uge']} or set=basic")  # fmt: skip
    if which == "basic" and set(row) == {"id", "prompt"}:
        raise ValueError(f"{where} has no edit_type: it is of the set uge, not of basic; take "
                         f"path={FILES['basic']} or set=uge")  # fmt: skip


def _item(key: str, row: Mapping[str, Any], folder: Path, where: str) -> EditItem:
    source = below(folder, row["id"], f"{where}, {key}")
    if not isinstance(row["prompt"], str) or not row["prompt"].strip():
        raise ValueError(f"{where}, {key}: the prompt must be a text, got {row['prompt']!r}")
    return EditItem(key, str(row.get("edit_type", "uge")), row["prompt"],
                    partial(read_image, source))  # fmt: skip


def imgedit_score(scores: Sequence[float]) -> float:
    """Mean of a picture's scores, to 2 decimals. Raises ValueError for none or beyond 1 to 5."""
    if not scores or not all(1 <= one <= 5 for one in scores):
        raise ValueError(f"{list(scores)} must be scores from 1 to 5, at least one")
    return round(sum(scores) / len(scores), 2)


def _basic_marks(text: str) -> tuple[int, ...] | None:
    """`lines`, where all are from 1 to 5."""
    found = lines(text)
    return found if found and all(1 <= one <= 5 for one in found) else None


def uge_mark(text: str) -> tuple[int, ...] | None:
    """The one mark from 1 to 5: a line "name: integer", or a line's end "Score: 2." or "(Fair)".

    None for no mark, several that differ, decimals, "4/5" or a mark beyond 1 to 5.
    """
    text = text.replace("\r\n", "\n")
    ends = re.findall(r"\bscore:[ \t]*(\d+)[ \t]*(?:\([^()\n]*\))?\.?[ \t]*$", text,
                      re.IGNORECASE | re.MULTILINE)  # fmt: skip
    found = {*(lines(text) or ()), *map(int, ends)}
    return tuple(found) if len(found) == 1 and found <= {1, 2, 3, 4, 5} else None


class ImgEditScorer(MarkScorer[EditItem]):
    """Value: mean of the marks. Parts: they, as "1", "2", "3"; of uge the one mark, as "uge".

    prompts: by type of edit, "uge" for that set. which: the set. file_sha256: of the items' file.
    """

    def __init__(self, judge: Judge, items: Mapping[str, EditItem], *, which: str,
                 file_sha256: str, prompts: Mapping[str, str], official: bool
                 ) -> None:  # fmt: skip
        name = "imgedit" if which == "basic" else f"imgedit:set={which}"
        super().__init__(judge, items, name=name, prompts=prompts, official=official)
        self.which, self.file_sha256 = which, file_sha256

    def _item(self, spec: Spec) -> EditItem:
        """The sets' keys are the same numbers, so the item must also have the spec's words."""
        item = super()._item(spec)
        if (item.group, item.instruction) != (spec.tag, spec.prompt):
            raise ValueError(f"item {spec.key!r} of {self.name}'s file is another than the "
                             f"bench's: give bench and scorer the same path and set")  # fmt: skip
        return item

    def _one(self, image: Tensor, item: EditItem) -> Score:
        text = fill(self.prompts[item.group], instruction=item.instruction)
        question = Question((item.source(), image), text, text_first=True)
        marks = asked(self.judge, question, _basic_marks if self.which == "basic" else uge_mark)
        if marks is None:
            return unread("marks")
        names = ["uge"] if self.which == "uge" else [str(i + 1) for i in range(len(marks))]
        return Score(value=imgedit_score(marks),
                     scores=dict(zip(names, map(float, marks), strict=True)))  # fmt: skip

    def provenance(self) -> dict[str, Any]:
        return super().provenance() | {"file_sha256": self.file_sha256}


def _prompts(path: str, which: str) -> dict[str, str]:
    """Type -> prompt, from a JSON file; place <<instruction>> or, officially, <edit_prompt>.

    Of uge the one type "uge". Without a file impasto's own. Raises ValueError for another shape.
    """
    if not path:
        own = {kind: OWN + "\n".join(f"{name}:" for name in names)
               for kind, names in CRITERIA.items()}  # fmt: skip
        return own if which == "basic" else {"uge": OWN_UGE}
    texts = json.loads(Path(path).read_text(encoding="utf-8"))
    there = set(texts) if isinstance(texts, dict) else set()
    if lacking := sorted(set(_kinds(which)) - there):
        raise ValueError(f"{path} must be an object of prompts by type; it lacks "
                         f"{', '.join(lacking)}")  # fmt: skip
    prompts = {kind: str(texts[kind]).replace("<edit_prompt>", "<<instruction>>")
               for kind in _kinds(which)}  # fmt: skip
    for text in prompts.values():
        fill(text, instruction="")
    return prompts


@SCORERS.register("imgedit")
def imgedit_scorer(
    *, path: str = "", images: str = "", set: str = "basic", vlm: str = "", url: str = "",
    model: str = "", cache: str = "", prompts: str = "", device: str = "cpu",
) -> ImgEditScorer:  # fmt: skip
    """ImgEdit-Bench's marks by a vision-language model: vlm=FOLDER or url=, model=

    path, images, set: as the bench's. prompts: JSON file of a prompt for each type of edit, for
    set=uge of the one type "uge", such as the official ones; else impasto's own. Raises ValueError
    for another file or no judge.
    """
    items = {item.key: item for item in read_imgedit(path, images, set)}
    texts = _prompts(prompts, set)
    from impasto.score.judges.make import make_judge

    judge = make_judge(vlm=vlm, url=url, model=model, cache=cache, device=device)
    return ImgEditScorer(judge, items, which=set, file_sha256=sha256_file(path), prompts=texts,
                         official=bool(prompts))  # fmt: skip
