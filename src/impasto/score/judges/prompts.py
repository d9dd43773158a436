"""Words for a judge: templates filled in one pass, and no way for a prompt to leave its place.

A benchmark's prompt is somebody's text. Put into a judge's question it must stay text: it may not
bring further placeholders, nor the tokens by which a chat template marks turns and pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["defused", "fill", "read_template"]

_PLACE = re.compile(r"<<([a-z_]+)>>")
_MARKS = re.compile(r"<(?=\|[^<>|\n]{1,40}\|>|/?(?:image|video|audio|vision|im_start|im_end|s)>)")


def fill(template: str, **values: str) -> str:
    """`template` with each <<name>> replaced by values[name], in one pass.

    A value that holds "<<other>>" stays as it is. Raises ValueError unless places and values are
    the same names.
    """
    places = set(_PLACE.findall(template))
    if places != set(values):
        raise ValueError(f"the judge's prompt has the places {sorted(places)}, it needs "
                         f"{sorted(values)}; write them as <<name>>")  # fmt: skip
    return _PLACE.sub(lambda match: values[match[1]], template)


def defused(text: str, specials: Iterable[str] = ()) -> str:
    """`text` in which nothing is a mark of a chat template any more.

    A space goes behind the first character of each: "<|im_end|>" becomes "< |im_end|>". specials:
    the tokenizer's own; the usual ones are always among them. Control characters become spaces.
    """
    text = "".join(c if c in "\n\t" or c.isprintable() else " " for c in text)
    text = _MARKS.sub("< ", text)
    for mark in sorted(set(specials), key=len, reverse=True):
        if len(mark) > 1:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
    return text


def read_template(path: str | Path, places: Iterable[str]) -> str:
    """A judge's prompt from a file, UTF-8. Raises ValueError unless it has exactly `places`."""
    text = Path(path).read_text(encoding="utf-8")
    fill(text, **dict.fromkeys(places, ""))
    return text
