"""POPE (Li et al. 2023, arXiv 2305.10355): is there such a thing in the picture? Yes or no.

    coco_pope_random.json, …      JSON Lines: question_id, image (a file's name), text, label

path is one such file or the folder of the three; images the folder of COCO val2014. Answers are
read as LLaVA does: "no" where the first sentence holds No, not or no, else "yes".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from impasto.bench.asked import SUFFIX, Asked, Asking, answer_summary, question_bench
from impasto.bench.base import Bench
from impasto.bench.results import Record
from impasto.bench.understanding import Reply, pope_summary
from impasto.images import read_image
from impasto.score.judges.parse import pope as read_pope
from impasto.score.rows import below
from impasto.zoo.registry import BENCHES

__all__ = ["pope", "pope_bench", "read_pope_items"]

SOURCE = "https://github.com/AoiDragon/POPE"
CATEGORIES = ("random", "popular", "adversarial")


def _items(path: Path, images: Path) -> Iterator[Asked]:
    task = path.stem.rpartition("_")[2]
    if task not in CATEGORIES:
        raise ValueError(f"{path} is not named …_{', …_'.join(CATEGORIES)}.json, so its part of "
                         f"POPE is not known")  # fmt: skip
    lines = path.read_text(encoding="utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
            key, name, text, label = (str(row[k]) for k in ("question_id", "image", "text",
                                                            "label"))  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where} is no line of POPE ({error!r}): it needs question_id, "
                             f"image, text, label") from error  # fmt: skip
        if label not in ("yes", "no"):
            raise ValueError(f"{where}: the label is {label!r}, not yes or no")
        yield Asked(f"{task}/{key}", task, text, label, name,
                    partial(read_image, below(images, name, where)))  # fmt: skip


def read_pope_items(path: str, images: str) -> tuple[Asked, ...]:
    """POPE's questions. Raises ValueError for no path or images, or another shape."""
    if not path or not images:
        raise ValueError(f"pope needs its files and COCO's pictures: path=FILE or FOLDER, from "
                         f"{SOURCE}, and images=FOLDER; without them, take sticker-questions"
                         )  # fmt: skip
    root = Path(path)
    files = sorted(root.glob("*.json")) if root.is_dir() else [root]
    items = tuple(item for file in files for item in _items(file, Path(images)))
    if not items:
        raise ValueError(f"{path} holds no *.json with questions of POPE")
    return items


def _rule(records: Sequence[Record], of: dict[str, Asked]) -> dict[str, Any]:
    def replies(task: str = "") -> list[Reply]:
        return [Reply(r.tag, of[r.spec.key].picture,
                      None if r.answer is None else read_pope(r.answer), of[r.spec.key].truth)
                for r in records if task in ("", r.tag)]  # fmt: skip

    tasks = list(dict.fromkeys(r.tag for r in records if r.correct is not None))
    f1 = {task: pope_summary(replies(task)) for task in tasks}
    found = answer_summary(records, CATEGORIES)
    lines = ["POPE F1 " + ", ".join(f"{task} {one['f1']:.4f}" for task, one in f1.items())]
    return found | {"pope": {"all": pope_summary(replies()), **f1}, "also": lines}


def pope_bench(items: Sequence[Asked], suffix: bool = False, name: str = "pope") -> Bench:
    """The bench of these questions. suffix: with "…using a single word or phrase." after each."""
    def asking(item: Asked) -> Asking:
        text = f"{item.text}\n{SUFFIX}" if suffix else item.text
        return Asking(text, item.truth, read_pope, max_tokens=64)

    return question_bench(name, items, asking, _rule)


@BENCHES.register("pope")
def pope(path: str = "", images: str = "", suffix: bool = False) -> Bench:
    """POPE's yes/no questions (--answers or --judge): path=FILE or FOLDER, images=FOLDER.

    suffix: ask for a single word or phrase, as some do. Raises ValueError without the two or for
    a file of another shape.
    """
    items = read_pope_items(str(path), str(images))
    return pope_bench(items, suffix, f"pope:suffix={str(suffix).lower()}")
