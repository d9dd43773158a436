"""Does a model understand pictures? The summary rules of MME, POPE, GQA and MMBench.

    MME       sub-task = 100 (acc + acc+); acc over questions, acc+ over pictures with both right;
              perception = sum of 10 (at most 2000), cognition = sum of 4 (at most 800)
    POPE      accuracy; precision, recall, F1 of "yes"; share of "yes" among the answers
    GQA       exact match, case and punctuation ignored
    MMBench   plain: share of right letters; circular: questions right under every rotation
    world     `same_answer` with what a scene's data give (`impasto.bench.sticker_questions`)

Sources: Fu et al. 2023 (MME, arXiv 2306.13394), Li et al. 2023 (POPE, 2305.10355), Hudson and
Manning 2019 (GQA, 1902.09506), Liu et al. 2023 (MMBench, 2307.06281). Answers are read by
`judges.parse`; one that cannot be read is wrong in MME and POPE's sense only where their own
readings say so, else None: counted, and refused unless asked for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from impasto.spec import NUMBER_WORDS

__all__ = ["COGNITION", "PERCEPTION", "Reply", "gqa_match", "mmbench", "mme_summary",
           "pope_summary", "same_answer"]  # fmt: skip

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene",
              "landmark", "artwork", "OCR")  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation",
             "code_reasoning")  # fmt: skip


class Reply(NamedTuple):
    """One yes/no question. group: MME's sub-task. picture: its name. said: None for unreadable."""

    group: str
    picture: str
    said: str | None
    truth: str


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def mme_summary(replies: Sequence[Reply]) -> dict[str, Any]:
    """subtasks, perception, cognition (None unless all of theirs are there), unreadable.

    As in MME's own script an unreadable answer is not right; how many there are is said. Raises
    ValueError for another sub-task or a picture without exactly two questions.
    """
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for one in replies:
        if one.group not in PERCEPTION + COGNITION:
            raise ValueError(f"unknown sub-task {one.group!r}; allowed: "
                             f"{', '.join(PERCEPTION + COGNITION)}")  # fmt: skip
        right[one.group][one.picture].append(one.said == one.truth)
    scores = {}
    for group, pictures in right.items():
        if any(len(pair) != 2 for pair in pictures.values()):
            raise ValueError(f"MME asks two questions of each picture; {group} has others")
        acc = _share([one for pair in pictures.values() for one in pair])
        scores[group] = 100 * (acc + _share([all(pair) for pair in pictures.values()]))
    sums = {name: sum(scores[g] for g in parts) if set(parts) <= set(scores) else None
            for name, parts in (("perception", PERCEPTION), ("cognition", COGNITION))}
    return {"subtasks": scores, **sums, "unreadable": sum(one.said is None for one in replies)}


def _ratio(a: int, b: int) -> float:
    return a / b if b else 0.0


def pope_summary(replies: Sequence[Reply]) -> dict[str, float]:
    """accuracy, precision, recall, f1, yes_ratio (of the answers), in [0, 1]; unreadable.

    Unreadable answers are left out and counted. Raises ValueError where nothing is left.
    """
    known = [one for one in replies if one.said is not None]
    if not known:
        raise ValueError("no answer could be read: there is nothing to sum up")
    said, truth = (sum(getattr(one, key) == "yes" for one in known) for key in ("said", "truth"))
    hits = sum(one.said == one.truth == "yes" for one in known)
    precision, recall = _ratio(hits, said), _ratio(hits, truth)
    return {"accuracy": _share([one.said == one.truth for one in known]), "precision": precision,
            "recall": recall, "f1": _ratio(2 * hits, said + truth),
            "yes_ratio": said / len(known), "unreadable": len(replies) - len(known)}  # fmt: skip


def _bare(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def gqa_match(said: str, truth: str) -> bool:
    """Whether two answers are the same but for case, punctuation and spaces."""
    return _bare(said) == _bare(truth)


def mmbench(said: Mapping[str, Sequence[str]], truth: Mapping[str, Sequence[str]]
            ) -> dict[str, float]:  # fmt: skip
    """plain: of the first rotation; circular: all rotations right; shares of questions.

    said, truth: question -> a letter per rotation. Raises ValueError unless they fit.
    """
    if {k: len(v) for k, v in said.items()} != {k: len(v) for k, v in truth.items()} or not truth:
        raise ValueError("answers and truth must be of the same questions and rotations")
    return {"plain": _share([said[k][0] == truth[k][0] for k in truth]),
            "circular": _share([list(said[k]) == list(truth[k]) for k in truth])}  # fmt: skip


def same_answer(said: str, truth: str) -> bool:
    """`gqa_match`, where a number may be a digit and articles do not matter."""
    def plain(text: str) -> list[str]:
        words = [w for w in _bare(text).split() if w not in ("a", "an", "the")]
        return [NUMBER_WORDS[int(w)] if w.isdigit() and int(w) < len(NUMBER_WORDS) else w
                for w in words]  # fmt: skip

    return plain(said) == plain(truth)
