"""Does a judge see at all? Asked before any score, so that a blind one gives none."""

from __future__ import annotations

import torch

from impasto.score.base import ScorerBroken
from impasto.score.judges.base import Judge, Question
from impasto.score.judges.parse import asked, yes_no

__all__ = ["check_sight"]

PLAIN = {"red": (1.0, 0.0, 0.0), "blue": (0.0, 0.0, 1.0)}
SIDE = 224
SUFFIX = "Answer yes or no."


def check_sight(judge: Judge) -> None:
    """Two plain pictures, red and blue, must be told apart. Raises ScorerBroken."""
    for shown, rgb in PLAIN.items():
        picture = torch.tensor(rgb)[:, None, None].expand(3, SIDE, SIDE)
        for color in PLAIN:
            question = Question((picture,), f"Is the picture {color}? {SUFFIX}")
            answer = asked(judge, question, yes_no, max_tokens=8)
            if answer != ("yes" if color == shown else "no"):
                raise ScorerBroken(f"asked whether a {shown} picture is {color}, the judge says "
                                   f"{answer or 'neither yes nor no'}; it cannot judge"
                                   )  # fmt: skip
