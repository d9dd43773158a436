"""MME (Fu et al. 2023, arXiv 2306.13394): two yes/no questions on each picture, in 14 sub-tasks.

    FOLDER/color/0001.txt         a line a question: question, tab, Yes or No
    FOLDER/color/0001.png         beside it; or in images/ beside questions_answers_YN/
    FILE.parquet, OWNER/NAME      columns question_id, image, question, answer, category

Answers are read as MME's own script does; what holds neither yes nor no is wrong, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from impasto.bench.asked import SUFFIX, Asked, Asking, answer_summary, question_bench
from impasto.bench.base import Bench
from impasto.bench.layout import PICTURE_SUFFIXES
from impasto.bench.results import Record
from impasto.bench.understanding import COGNITION, PERCEPTION, Reply, mme_summary
from impasto.images import read_image
from impasto.score.judges.parse import mme as read_mme
from impasto.score.rows import read_rows
from impasto.zoo.registry import BENCHES

__all__ = ["mme", "mme_bench", "read_mme_items"]

SOURCE = "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models"
TASKS = PERCEPTION + COGNITION
YES_NO = "questions_answers_YN"
"""Where half of the sub-tasks keep their questions; some copies have translations beside it."""


def _picture(text: Path) -> Path:
    """The picture that belongs to a file of questions. Raises ValueError for none."""
    folders = [text.parent, text.parent.parent / "images"]
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())
             if path.stem == text.stem and path.suffix.lower() in PICTURE_SUFFIXES]  # fmt: skip
    if not found:
        raise ValueError(f"{text} has no picture of the same name beside it")
    return found[0]


def _of_folder(folder: Path) -> Iterator[Asked]:
    for task in TASKS:
        texts = [*(folder / task).glob("*.txt"), *(folder / task).glob(f"{YES_NO}/*.txt")]
        for text in sorted(texts):
            path = _picture(text)
            name = f"{task}/{text.stem}"
            lines = text.read_text(encoding="utf-8-sig").strip().splitlines()
            for number, line in enumerate(lines, 1):
                question, _, truth = line.rpartition("\t")
                yield Asked(f"{name}/{number}", task, question.strip(), truth.strip().lower(),
                            name, partial(read_image, path))  # fmt: skip


def _of_table(path: str) -> Iterator[Asked]:
    columns = ("question_id", "question", "answer", "category")
    table, seen = read_rows(path, columns, "image", "MME"), Counter[str]()
    for i, row in enumerate(table.rows):
        task, picture = str(row["category"]), str(row["question_id"])
        if not picture.startswith(f"{task}/"):
            picture = f"{task}/{picture}"
        seen[picture] += 1
        yield Asked(f"{picture}/{seen[picture]}", task, str(row["question"]),
                    str(row["answer"]).strip().lower(), picture, partial(table.image, i)
                    )  # fmt: skip


def read_mme_items(path: str) -> tuple[Asked, ...]:
    """MME's questions. Raises ValueError, by name, for no path, another sub-task, an answer that
    is neither yes nor no and a picture without exactly two questions."""
    if not path:
        raise ValueError(f"mme needs its data: path=FOLDER, from {SOURCE}; without it, take "
                         f"sticker-questions")  # fmt: skip
    folder = Path(path)
    plain = folder.is_dir() and any((folder / task).is_dir() for task in TASKS)
    items = tuple(_of_folder(folder) if plain else _of_table(path))
    if not items:
        raise ValueError(f"{path} holds no questions of MME")
    for item in items:
        if item.task not in TASKS:
            raise ValueError(f"unknown sub-task {item.task!r}; allowed: {', '.join(TASKS)}")
        if item.truth not in ("yes", "no"):
            raise ValueError(f"{item.key}: the answer is {item.truth!r}, not yes or no")
    pairs = Counter(item.picture for item in items)
    if odd := [picture for picture, n in pairs.items() if n != 2]:
        raise ValueError(f"MME asks two questions of each picture; {odd[0]} has {pairs[odd[0]]}")
    return items


def _rule(records: Sequence[Record], of: dict[str, Asked]) -> dict[str, Any]:
    """Sub-tasks are scored over the pictures that have both answers."""
    readable = [r for r in records if r.correct is not None]
    replies = [Reply(i.task, i.picture, read_mme(r.answer or ""), i.truth)
               for r in readable for i in [of[r.spec.key]]]  # fmt: skip
    pairs = Counter(reply.picture for reply in replies)
    whole = [reply for reply in replies if pairs[reply.picture] == 2]
    found = answer_summary(records, TASKS)
    if not whole:
        return found
    sums = mme_summary(whole)
    lines = [f"MME {name} {sums[name]:.1f} of {most}" for name, most
             in (("perception", 2000), ("cognition", 800)) if sums[name] is not None]  # fmt: skip
    if not lines:
        lines = ["MME " + ", ".join(f"{k} {v:.1f} of 200" for k, v in sums["subtasks"].items())]
    unread = [f"{sums['unreadable']} answers hold neither yes nor no: wrong"]
    return found | {"mme": sums, "also": lines + (unread if sums["unreadable"] else [])}


def mme_bench(items: Sequence[Asked], suffix: bool = False, name: str = "mme") -> Bench:
    """The bench of these questions. suffix: with "…using a single word or phrase." after each."""
    def asking(item: Asked) -> Asking:
        text = f"{item.text} {SUFFIX}" if suffix else item.text
        return Asking(text, item.truth, read_mme, strict=True)

    return question_bench(name, items, asking, _rule)


@BENCHES.register("mme")
def mme(path: str = "", suffix: bool = False) -> Bench:
    """MME's yes/no questions (--answers or --judge): path=FOLDER, parquet or hub id.

    suffix: ask for a single word or phrase, as some do. Raises ValueError without a path or for
    data of another shape.
    """
    return mme_bench(read_mme_items(str(path)), suffix, f"mme:suffix={str(suffix).lower()}")
