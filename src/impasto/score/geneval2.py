"""GenEval 2's questions, from its own file, for a vision-language model to answer.

Each of the 800 lines is {prompt, atom_count, vqa_list: [[question, answer], …], skills: […]}.
Answers are "yes" or number words. Source: Kamath et al. 2025, arXiv 2512.16853; the file is CC
BY-NC 4.0 and comes from facebookresearch/GenEval2, by path.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto.score.tifa import Ask, TifaScorer, VlmAnswerer
from impasto.spec import NUMBER_WORDS, Spec
from impasto.zoo.registry import SCORERS

__all__ = ["SHA256", "Item2", "geneval2_scorer", "parse_items", "read_items"]

SHA256 = "09233adbc9f877fba205f1a20efa4a8640e7e62a91dfd55893562bed8a928e43"
"""Of `geneval2_data.jsonl`, 800 lines."""
SOURCE = "https://github.com/facebookresearch/GenEval2"


@dataclass(frozen=True)
class Item2:
    """A prompt, its number of atoms and its questions."""

    prompt: str
    atoms: int
    asks: tuple[Ask, ...]


def _ask(pair: Any, skill: str) -> Ask:
    question, answer = pair
    if (word := str(answer).strip().lower()) not in ("yes", "no", *NUMBER_WORDS):
        raise ValueError(f"the answer to {question!r} is {answer!r}, not yes, no or a number word")
    return Ask(question, word, skill)


def _item(line: str, where: str) -> Item2:
    try:
        row = json.loads(line)
        pairs = zip(row["vqa_list"], row["skills"], strict=True)
        return Item2(row["prompt"], int(row["atom_count"]), tuple(_ask(*pair) for pair in pairs))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} is no line of GenEval 2's data ({error})") from error


def parse_items(text: str, where: str = "the text") -> tuple[Item2, ...]:
    """The items of JSON Lines. Raises ValueError, naming the line, for another shape."""
    lines = text.removesuffix("\n").split("\n")
    return tuple(_item(line, f"{where}:{i}") for i, line in enumerate(lines, 1))


def read_items(path: str | Path) -> tuple[Item2, ...]:
    """The official file's. Raises ValueError for no path or any other content."""
    if not str(path):
        raise ValueError(f"GenEval 2 needs its official file: path=FILE, from {SOURCE}; without "
                         f"one, take sticker-tifa")  # fmt: skip
    data = Path(path).read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != SHA256:
        raise ValueError(f"{path} has sha256 {digest}, GenEval 2's file has {SHA256}; get it from "
                         f"{SOURCE}")  # fmt: skip
    return parse_items(data.decode(), str(path))


@SCORERS.register("geneval2")
def geneval2_scorer(
    *, path: str = "", vlm: str = "", url: str = "", model: str = "", cache: str = "",
    official: bool = False, device: str = "cpu",
) -> TifaScorer:  # fmt: skip
    """Soft-TIFA on GenEval 2's questions by a vision-language model: vlm=FOLDER or url=, model=

    path: the official file. official: count tokens as the released script does. Raises ValueError
    for another file or no judge.
    """
    asks = {item.prompt: item.asks for item in read_items(path)}
    from impasto.score.judges.make import make_judge

    judge = make_judge(vlm=vlm, url=url, model=model, cache=cache, device=device)

    def asks_of(spec: Spec) -> tuple[Ask, ...]:
        if spec.prompt not in asks:
            raise ValueError(f"{spec.prompt!r} is no prompt of GenEval 2")
        return asks[spec.prompt]

    return TifaScorer(VlmAnswerer(judge, official), asks_of, name="geneval2")
