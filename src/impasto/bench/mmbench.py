"""MMBench (Liu et al. 2023, arXiv 2307.06281): which of up to five options? A letter.

    FILE.tsv      index, image (base64, or the index of the row that has it), hint, question,
                  A, B, C, D, [E], answer, category

    plain         share of questions whose letter is right
    circular      options in every rotation, one question each: right under all of them

A question is shown as its hint, itself, a line "A. option" for each, and what to answer with.
"""

from __future__ import annotations

import base64
import binascii
import csv
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from impasto.bench.asked import Asked, Asking, answer_summary, question_bench
from impasto.bench.base import Bench
from impasto.bench.results import Record
from impasto.bench.understanding import mmbench as shares
from impasto.images import decode_image
from impasto.score.judges.parse import letter
from impasto.zoo.registry import BENCHES

__all__ = ["mmbench", "mmbench_bench", "read_mmbench_items"]

SOURCE = "https://github.com/open-compass/MMBench"
LETTERS = "ABCDE"
NEEDED = ("index", "image", "question", "answer", "category", "A", "B")
INDEX = 64
"""No picture's base64 is as short: such a cell is the index of another row."""


def _decoded(text: str, where: str) -> Tensor:
    try:
        return decode_image(base64.b64decode(text, validate=True), where)
    except binascii.Error as error:
        raise ValueError(f"{where}: the picture is not base64 ({error})") from error


def _options(row: Mapping[str, str]) -> list[str]:
    """The options' texts, without the empty ones at the end ("nan" in some copies)."""
    texts = [(row.get(name) or "").strip() for name in LETTERS]
    return [text for text in texts if text and text != "nan"]


def _text(row: Mapping[str, str], options: Sequence[str]) -> str:
    hint = (row.get("hint") or "").strip()
    lines = [hint] if hint and hint != "nan" else []
    lines += [row["question"].strip(), *(f"{a}. {o}" for a, o in zip(LETTERS, options,
                                                                     strict=False))]
    return "\n".join([*lines, "Answer with the option's letter from the given choices directly."])


def _rows(path: str) -> dict[str, dict[str, str]]:
    csv.field_size_limit(sys.maxsize)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    if lacking := [key for key in NEEDED if not rows or key not in rows[0]]:
        raise ValueError(f"{path} lacks the columns {', '.join(lacking)} of MMBench's .tsv, from "
                         f"{SOURCE}")  # fmt: skip
    found = {row["index"]: row for row in rows}
    if len(found) < len(rows):
        raise ValueError(f"{path} has an index more than once")
    return found


def read_mmbench_items(path: str, circular: bool = False) -> tuple[Asked, ...]:
    """MMBench's questions; keys are INDEX/ROTATION. circular: in every rotation.

    Raises ValueError for no path, missing columns, and an answer that is none of the options.
    """
    if not path:
        raise ValueError(f"mmbench needs its file: path=FILE.tsv, from {SOURCE}; without it, take "
                         f"sticker-questions")  # fmt: skip
    rows, items = _rows(path), []
    for key, row in rows.items():
        where, options = f"{path}, index {key}", _options(row)
        truth = LETTERS.find(row["answer"].strip() or "?")
        if not 0 <= truth < len(options):
            raise ValueError(f"{where}: the answer {row['answer']!r} is none of its "
                             f"{len(options)} options")  # fmt: skip
        held = row["image"] if len(row["image"]) >= INDEX else (
            rows.get(row["image"], {}).get("image", ""))  # fmt: skip
        image = partial(_decoded, held, where)
        for k in range(len(options) if circular else 1):
            turned = options[k:] + options[:k]
            items.append(Asked(f"{key}/{k}", row["category"], _text(row, turned),
                               LETTERS[(truth - k) % len(options)], key, image,
                               dict(zip(LETTERS, turned, strict=False))))  # fmt: skip
    return tuple(items)


def _rule(records: Sequence[Record], of: dict[str, Asked]) -> dict[str, Any]:
    """Questions count where every rotation that the bench asks has a readable answer."""
    found = answer_summary(records, sorted({item.task for item in of.values()}),
                           "accuracy over all questions")  # fmt: skip
    wanted: dict[str, int] = defaultdict(int)
    for key in of:
        wanted[key.rpartition("/")[0]] += 1
    said, truth = defaultdict(dict), defaultdict(dict)  # type: ignore[var-annotated]
    for r in records:
        question, _, k = r.spec.key.rpartition("/")
        if r.correct is not None:
            truth[question][int(k)] = of[r.spec.key].truth
            said[question][int(k)] = truth[question][int(k)] if r.correct else "?"
    whole = [q for q, rows in said.items() if len(rows) == wanted[q]]
    if not whole or max(wanted.values()) == 1:
        return found
    one = shares(*({q: [rows[q][k] for k in sorted(rows[q])] for q in whole}
                   for rows in (said, truth)))  # fmt: skip
    line = f"MMBench circular {one['circular']:.4f}, plain {one['plain']:.4f}"
    return found | {"mmbench": one | {"questions": len(whole)}, "also": [line]}


def mmbench_bench(items: Sequence[Asked], name: str = "mmbench") -> Bench:
    """The bench of these questions."""
    def asking(item: Asked) -> Asking:
        return Asking(item.text, item.truth, partial(letter, options=item.options))

    return question_bench(name, items, asking, _rule)


@BENCHES.register("mmbench")
def mmbench(path: str = "", circular: bool = False) -> Bench:
    """MMBench's multiple choices (--answers or --judge): path=FILE.tsv.

    circular: each question in every rotation of its options. Raises ValueError without a path or
    for a file of another shape.
    """
    name = f"mmbench:circular={str(circular).lower()}"
    return mmbench_bench(read_mmbench_items(str(path), circular), name)
