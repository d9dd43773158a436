"""GQA (Hudson and Manning 2019, arXiv 1902.09506): open questions with one short answer.

    testdev_balanced_questions.json     {id: {"question", "answer", "imageId", "types"}}

images: the folder with IMAGEID.jpg. Exact match, case and punctuation ignored; overall over all
questions, tasks are the questions' structural types.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from impasto.bench.asked import SUFFIX, Asked, Asking, answer_summary, question_bench
from impasto.bench.base import Bench
from impasto.bench.results import Record
from impasto.bench.understanding import gqa_match
from impasto.images import read_image
from impasto.score.rows import below
from impasto.zoo.registry import BENCHES

__all__ = ["gqa", "gqa_bench", "read_gqa_items"]

SOURCE = "https://cs.stanford.edu/people/dorarad/gqa/"


def read_gqa_items(path: str, images: str) -> tuple[Asked, ...]:
    """GQA's questions. Raises ValueError for no path or images, or another shape."""
    if not path or not images:
        raise ValueError(f"gqa needs its file and pictures: "
                         f"path=testdev_balanced_questions.json,images=FOLDER, from {SOURCE}; "
                         f"without them, take sticker-questions")  # fmt: skip
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        found = [(str(key), row["question"], row["answer"], row["imageId"],
                  row.get("types", {}).get("structural", "all")) for key, row in rows.items()]
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not GQA's file of questions ({error!r}): it needs "
                         f'{{id: {{"question", "answer", "imageId"}}}}') from error  # fmt: skip
    if not found:
        raise ValueError(f"{path} holds no questions")
    return tuple(Asked(key, task, question, answer, image, partial(
        read_image, below(Path(images), f"{image}.jpg", f"{path}, {key}")))
        for key, question, answer, image, task in found)  # fmt: skip


def _rule(records: Sequence[Record], of: dict[str, Asked]) -> dict[str, Any]:
    tasks = sorted({item.task for item in of.values()})
    return answer_summary(records, tasks, "accuracy over all questions")


def said(answer: str) -> str | None:
    """An answer as it is; None for an empty one."""
    return answer.strip() or None


def gqa_bench(items: Sequence[Asked], name: str = "gqa") -> Bench:
    """The bench of these questions."""
    def asking(item: Asked) -> Asking:
        return Asking(f"{item.text} {SUFFIX}", item.truth, said, gqa_match)

    return question_bench(name, items, asking, _rule)


@BENCHES.register("gqa")
def gqa(path: str = "", images: str = "") -> Bench:
    """GQA's open questions (--answers or --judge): path=FILE, images=FOLDER.

    Raises ValueError without the two or for a file of another shape.
    """
    return gqa_bench(read_gqa_items(str(path), str(images)))
