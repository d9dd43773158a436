"""What a judge's words say, by each benchmark's own reading; None where they say nothing.

    yes_no      "Yes." -> "yes"                                       DPG, read tolerantly
    labelled    "Identity Preservation: 8.5" -> 8                     Imagine-Bench
    vie         {"score": [7, 9], "reasoning": …} -> (7, 9)           GEdit-Bench (VIEScore)
    lines       "Prompt Compliance: 4" on lines of their own -> (4,)  ImgEdit-Bench
    mme, pope   first characters; first sentence                      MME, POPE
    letter      "(B) a dog." -> "B", or the option's own words        MMBench

No reading guesses: GEdit's released code draws a random number where it cannot read, Imagine-Bench
counts 0; here both are failures, counted and reported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from impasto.score.judges.base import Judge, Question, Unanswered

__all__ = ["TRIES", "asked", "labelled", "letter", "lines", "mme", "pope", "vie", "yes_no"]

T = TypeVar("T")
TRIES = 3
"""Answers that are asked for before a question counts as failed."""


def asked(judge: Judge, question: Question, read: Callable[[str], T | None],
          tries: int = TRIES, max_tokens: int = 512) -> T | None:  # fmt: skip
    """What `read` makes of the first answer that it can read; None after `tries`."""
    for attempt in range(tries):
        try:
            value = read(judge.ask(question, max_tokens, attempt))
        except Unanswered:
            return None
        if value is not None:
            return value
    return None


def yes_no(text: str) -> str | None:
    """ "yes" or "no" where the answer is just that, whatever its case and full stop."""
    word = text.strip().rstrip(".!").lower()
    return word if word in ("yes", "no") else None


def labelled(text: str, names: Sequence[str], low: int = 0, high: int = 10
             ) -> tuple[int, ...] | None:  # fmt: skip
    """The number behind each name, decimals cut off, clamped; None unless all are there.

    Between name and number: an optional colon, ASCII or full-width, and white space; one or two
    digits count. Source: Echo-4o's Imagine-Bench scripts.
    """
    found = [re.search(rf"{re.escape(name)}\s*[:\uff1a]?\s*(\d{{1,2}})", text, re.IGNORECASE)
             for name in names]  # fmt: skip
    if not all(found):
        return None
    return tuple(min(max(int(match[1]), low), high) for match in found if match)


def vie(text: str) -> tuple[float, ...] | None:
    """The list "score" of the JSON object in the answer: numbers in [0, 10], at least one."""
    match = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        values = json.loads(match[0])["score"] if match else None
    except (ValueError, KeyError, TypeError):
        return None
    values = values if isinstance(values, list) else [values]
    good = all(type(v) in (int, float) and 0 <= v <= 10 for v in values)
    return tuple(map(float, values)) if values and good else None


def lines(text: str) -> tuple[int, ...] | None:
    """The integers of all lines "name: integer"; "4." and "4/5" are no such lines.

    Source: ImgEdit-Bench's parser.
    """
    found = re.findall(r"^[^:\n]+:[ \t]*(\d+)[ \t]*$", text.replace("\r\n", "\n"), re.MULTILINE)
    return tuple(map(int, found)) or None


def mme(text: str) -> str | None:
    """Lower case without "."; yes/no, y/n alone, or yes/no in the first four characters."""
    word = text.lower().strip().replace(".", "")
    if word in ("yes", "no"):
        return word
    if word in ("y", "n"):
        return {"y": "yes", "n": "no"}[word]
    return next((w for w in ("yes", "no") if w in word[:4]), None)


def pope(text: str) -> str:
    """LLaVA's reading: "no" where the first sentence holds No, not or no; else "yes"."""
    words = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of one of `options` (letter -> words): alone, before a mark, or by its words.

    "B", "(b)", "B.", "B) a dog", "Answer: B", "a dog"; "a dog" is words and no answer A.
    """
    plain = re.sub(r"^(the )?(correct )?(answer|option)( is)?:?\s*", "", text.strip(), flags=re.I)
    match = re.fullmatch(r"\(?([A-Za-z])\)?[.:]?|\(?([A-Z])\)?[.):]\s.*", plain, re.DOTALL)
    said = (match[1] or match[2]).upper() if match else None
    if said in options:
        return said
    words = [key for key, option in options.items()
             if option.strip().lower() == plain.rstrip(".").strip().lower()]  # fmt: skip
    return words[0] if len(words) == 1 else None
