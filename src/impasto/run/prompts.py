"""Prompts from files: one a line, or JSON Lines with a key "prompt"."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["check_prompts", "read_prompts"]


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a text file (one a line) or a `.jsonl` file (key "prompt"), UTF-8.

    A byte order mark and Windows line ends are taken off. Raises ValueError, naming the line,
    for an empty prompt, broken JSON or bytes that are not UTF-8.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte "
                         f"{error.start})") from error  # fmt: skip
    # Not splitlines(): a prompt may hold U+2028 and its like.
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    parse = _from_json if path.suffix == ".jsonl" else _from_text
    prompts = list(parse(lines, path))
    check_prompts(prompts, str(path))
    return prompts


def _from_text(lines: Sequence[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise ValueError(f"{path}, line {number} is empty; take it out or write a prompt")
        yield line.strip()


def _from_json(lines: Sequence[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            prompt = json.loads(line)["prompt"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path}, line {number} is not a JSON object with a key '
                             f'"prompt"') from error  # fmt: skip
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"{path}, line {number}: the prompt is empty or not a text")
        yield prompt.strip()


def check_prompts(prompts: Sequence[str], where: str) -> None:
    """Raises ValueError for none at all or an empty one; warns of duplicates.

    A prompt given twice is drawn twice with the same seeds: the same pictures.
    """
    if not prompts:
        raise ValueError(f"no prompt in {where}")
    if any(not prompt.strip() for prompt in prompts):
        raise ValueError(f"an empty prompt in {where}; write what to draw")
    twice = [prompt for prompt, n in Counter(prompts).items() if n > 1]
    if twice:
        shown = ", ".join(repr(prompt[:60]) for prompt in twice[:3])
        warnings.warn(f"{len(twice)} prompt(s) given more than once in {where}, their pictures "
                      f"will be the same: {shown}", stacklevel=2)  # fmt: skip
