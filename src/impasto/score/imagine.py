"""Imagine-Bench's judgement of a picture (Ye et al. 2025, Echo-4o, arXiv 2508.09987).

    picture   0.8 * min(fantasy, identity) + 0.2 * aesthetic      marks 0 to 10, 3 decimals

The items come from the benchmark's own file, by path, its sha256 checked. The official judge is
gpt-4.1-2025-04-14 at temperature 0, shown JPEG of quality 75.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from impasto.score.base import Score
from impasto.score.judges.base import Question
from impasto.score.judges.parse import asked, labelled
from impasto.score.judges.prompts import fill, read_template
from impasto.score.vlm import MarkScorer, unread
from impasto.zoo.registry import SCORERS

__all__ = ["METRICS", "OWN_PROMPT", "PARTS", "ImagineItem", "ImagineScorer", "imagine_scorer",
           "picture_score", "read_items"]  # fmt: skip

SHA256 = "e22e33dd5e2722b9fedfb7ecddeb56841ec6ea93b3f0246a04d8dd374ab5a19e"
SOURCE = "https://github.com/yejy53/Echo-4o"
METRICS = ("Fantasy Fulfillment", "Identity Preservation", "Aesthetic Quality")
PARTS = ("fantasy", "identity", "aesthetic")
OWN_PROMPT = """You grade a picture that was drawn for this request: <<instruction>>
What the request changes, and what must stay recognisable: <<note>>
Give three whole numbers from 0 (not at all) to 10 (perfect), each on a line of its own:
Fantasy Fulfillment: is the unusual change there, as it was asked for?
Identity Preservation: can the thing still be recognised, drawn as in a photo?
Aesthetic Quality: is the picture well made?"""
"""Impasto's own wording: scores by it are not comparable with published ones."""


@dataclass(frozen=True)
class ImagineItem:
    """instruction: the prompt. note: what changes and what must stay. kind: the file's type."""

    id: int
    instruction: str
    note: str
    kind: str


def read_items(path: str | Path) -> tuple[ImagineItem, ...]:
    """The official file's 270 items. Raises ValueError without a path or for other content."""
    path = str(path)  # an option such as 2024 arrives as a number
    if not path:
        raise ValueError(f"Imagine-Bench needs its official file: path=FILE, from {SOURCE}; "
                         f"without one, take sticker-imagine")  # fmt: skip
    data = Path(path).read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != SHA256:
        raise ValueError(f"{path} has sha256 {digest}, Imagine-Bench's file has {SHA256}; get it "
                         f"from {SOURCE}")  # fmt: skip
    rows = [json.loads(line) for line in data.decode().splitlines()]
    return tuple(ImagineItem(r["id"], r["instruction"], r["note"], r["type"]) for r in rows)


def picture_score(fantasy: float, identity: float, aesthetic: float) -> float:
    """0.8 min(fantasy, identity) + 0.2 aesthetic, to 3 decimals."""
    return round(0.8 * min(fantasy, identity) + 0.2 * aesthetic, 3)


class ImagineScorer(MarkScorer[ImagineItem]):
    """Value: `picture_score` of the three marks, which are its parts."""

    def _one(self, image: Tensor, item: ImagineItem) -> Score:
        text = fill(self.prompts["all"], instruction=item.instruction, note=item.note)
        marks = asked(self.judge, Question((image,), text), partial(labelled, names=METRICS),
                      max_tokens=1024)  # fmt: skip
        if marks is None:
            return unread("marks")
        return Score(value=picture_score(*marks),
                     scores={k: float(v) for k, v in zip(PARTS, marks, strict=True)})  # fmt: skip


@SCORERS.register("imagine")
def imagine_scorer(
    *, path: str = "", vlm: str = "", url: str = "", model: str = "", cache: str = "",
    prompt: str = "", device: str = "cpu",
) -> ImagineScorer:  # fmt: skip
    """Imagine-Bench's three marks by a vision-language model: vlm=FOLDER or url=, model=

    path: the official file. prompt: file with the places <<instruction>> and <<note>>, such as the
    official text; else `OWN_PROMPT`. Raises ValueError for another file or no judge.
    """
    items = {str(item.id): item for item in read_items(path)}
    text = read_template(prompt, ("instruction", "note")) if prompt else OWN_PROMPT
    from impasto.score.judges.make import make_judge

    judge = make_judge(vlm=vlm, url=url, model=model, cache=cache, form="jpeg", device=device)
    return ImagineScorer(judge, items, name="imagine", prompts={"all": text},
                         official=bool(prompt))  # fmt: skip
