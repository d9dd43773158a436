"""HPSv2's benchmark (Wu et al. 2023, arXiv 2306.09341): 4 styles of 800 prompts, a picture each.

    score of a style     mean over its ten groups of 80 pictures, in order; +- their deviation
    overall              mean over all pictures

Values are HPS's cosines times 100. The published code leaves missing pictures out, which shifts
the groups; here a set with gaps has no score, or with `allow_incomplete` no groups.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from impasto.bench.judged import answered, interval
from impasto.bench.layout import IncompleteError
from impasto.images import read_image
from impasto.score.statistics import Outcome, bootstrap

__all__ = ["STYLES", "hps_summary", "rate_hps", "read_hps_prompts"]

STYLES = ("anime", "concept-art", "paintings", "photo")
PROMPTS, GROUP = 800, 80
BOUNDS = (-100.0, 100.0)
Prompts = Mapping[str, Sequence[str]]


class Rates(Protocol):
    """A preference scorer."""

    def values(self, images: Sequence[Tensor], prompts: Sequence[str]) -> list[float]:
        """The value of picture i by prompt i."""


def read_hps_prompts(folder: str | Path, prompts: int = PROMPTS) -> dict[str, tuple[str, ...]]:
    """Style -> its prompts, from anime.json, concept-art.json, paintings.json and photo.json.

    prompts: that each must have. Raises FileNotFoundError; ValueError for other contents.
    """
    found = {}
    for style in STYLES:
        path = Path(folder) / f"{style}.json"
        texts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(texts, list) or len(texts) != prompts or not all(
            isinstance(text, str) for text in texts
        ):
            raise ValueError(f"{path} is no list of {prompts} prompts; get benchmark/{style}.json "
                             f"of the data set zhwang/HPDv2")  # fmt: skip
        found[style] = tuple(texts)
    return found


def rate_hps(folder: str | Path, prompts: Prompts, scorer: Rates, *, batch_size: int = 32,
             allow_incomplete: bool = False) -> dict[tuple[str, int], float]:  # fmt: skip
    """(style, number) -> value of the pictures FOLDER/STYLE/00000.jpg, 00001.jpg, ...

    Raises IncompleteError, before any is rated, for missing pictures unless `allow_incomplete`;
    ImageError for unreadable ones.
    """
    files = {(style, i): Path(folder) / style / f"{i:05d}.jpg"
             for style, texts in prompts.items() for i in range(len(texts))}  # fmt: skip
    there = [key for key, path in files.items() if path.is_file()]
    if len(there) < len(files) and not allow_incomplete:
        missing = [str(path) for path in files.values() if not path.is_file()]
        raise IncompleteError(len(there), len(files), missing, what="pictures")
    rated: dict[tuple[str, int], float] = {}
    for start in range(0, len(there), batch_size):
        keys = there[start : start + batch_size]
        texts = [prompts[style][i] for style, i in keys]
        rated |= zip(keys, scorer.values([read_image(files[key]) for key in keys], texts),
                     strict=True)  # fmt: skip
    return rated


def hps_summary(
    rated: Mapping[tuple[str, int], float], prompts: Prompts, allow_incomplete: bool = False
) -> dict[str, Any]:
    """Scores times 100 with intervals over prompts: overall, and of each style with `groups`, the
    mean over groups of 80 and its deviation, as published; null where pictures are missing.

    Raises IncompleteError below full coverage unless `allow_incomplete`.
    """
    values, coverage = answered(dict(rated), sum(map(len, prompts.values())), allow_incomplete)
    rows = [Outcome(style, str(i), 0, 100 * value) for (style, i), value in sorted(values.items())]
    whole = bootstrap([row._replace(task="all", prompt=f"{row.task} {row.prompt}")
                       for row in rows], bounds=BOUNDS)  # fmt: skip
    styles = bootstrap(rows, bounds=BOUNDS).tasks
    return {"coverage": coverage, "overall": interval(whole.overall), "styles": {
        style: interval(one) | {"groups": _groups([row.value for row in rows if row.task == style],
                                                  len(prompts[style]))}
        for style, one in styles.items()
    }}  # fmt: skip


def _groups(values: Sequence[float], expected: int) -> dict[str, float] | None:
    if len(values) < expected:
        return None
    means = [float(np.mean(values[i : i + GROUP])) for i in range(0, len(values), GROUP)]
    return {"mean": float(np.mean(means)), "deviation": float(np.std(means))}
