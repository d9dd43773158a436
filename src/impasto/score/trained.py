"""Are these weights trained, and the ones that were meant? Asked of networks from elsewhere.

The sticker world's golden pictures have known verdicts only for its own networks. Of networks for
photographs these things are asked, each with what it cannot see:

    keys      none missing, none left over                  not: right names with wrong values
    norms     their scales are not all 1 and shifts 0        not: random values written over them
    detector  on golden pictures some class has p >= 0.05    not: a detector of other classes, or
              (untrained weights spread it: 1 / 81 each)          weights trained for another input
    colours   5 of 10 plain discs are named rightly          not: a few points less of accuracy
              (by chance: 2 in 1,000)
    prompts   the same by a score of picture and prompt      not: which preferences it was taught
    ratings   of golden pictures lie on the head's scale,    not: another head for the same scale
              not near 0, and are not all the same

So damaged, unloaded and random weights are found out. Which of several trained detectors it is,
the record of its conversion says, by the sha256 of the file that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from impasto.score.base import Found, ScorerBroken
from impasto.score.self_test import golden
from impasto.spec import COLORS

__all__ = ["MINIMAL_CLASS", "check_colors", "check_detector", "check_keys", "check_norms",
           "check_prompts", "check_ratings"]  # fmt: skip

PICTURES = 4
MINIMAL_CLASS = 0.05
"""Of trained detectors the surest class on a picture with one drawn object is far above this."""
MINIMAL_COLORS = 5
DISC = "sports ball"
MINIMAL_RATING, MINIMAL_SPREAD = 1.0, 1e-3
PAINTS = {
    "red": (220, 30, 30), "orange": (255, 140, 0), "yellow": (250, 220, 30),
    "green": (30, 150, 50), "blue": (30, 70, 210), "purple": (125, 40, 165),
    "pink": (255, 130, 185), "brown": (110, 65, 25), "black": (15, 15, 15),
    "white": (250, 250, 250),
}  # fmt: skip


class Predicts(Protocol):
    """A detector that shows its logits."""

    def predict(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Class logits (Q, C + 1) and mask logits of each picture."""


class Classifies(Protocol):
    """A colour classifier, as `score.geneval` has it."""

    def classify(self, crops: list[tuple[Tensor, Found]]) -> list[str]:
        """The colour of each object."""


def check_keys(found: Mapping[str, Any], where: object, harmless: Callable[[str], bool]) -> None:
    """What transformers says of loading the file `where`.

    Raises ValueError for tensors that are missing, left over and not `harmless`, or of another
    shape.
    """
    wrong = [f"{key} ({kind})" for kind in ("missing", "unexpected")
             for key in sorted(found[f"{kind}_keys"]) if not harmless(key)]  # fmt: skip
    wrong += [f"{key[0]} (shape)" for key in found["mismatched_keys"]]
    if wrong:
        raise ValueError(f"{where} does not fit its config: {len(wrong)} tensors are missing or "
                         f"left over or of another shape, such as {', '.join(wrong[:4])}"
                         )  # fmt: skip


def check_norms(model: nn.Module, name: str) -> None:
    """Raises ScorerBroken when most normalisation layers are as they are made."""
    norms = [m for m in model.modules() if isinstance(m, (nn.LayerNorm, nn.GroupNorm))]
    fresh = [m for m in norms if bool((m.weight == 1).all() and (m.bias == 0).all())]
    if 2 * len(fresh) > len(norms):
        raise ScorerBroken(f"{name}: {len(fresh)} of {len(norms)} normalisation layers are as a "
                           f"new network has them; its weights were never trained, or not "
                           f"loaded")  # fmt: skip


@torch.inference_mode()
def check_detector(detector: Predicts) -> None:
    """Raises ScorerBroken when no class is likely on any of four golden pictures."""
    pictures = golden().images[:PICTURES]
    best = 0.0
    for logits, masks in detector.predict(pictures):
        if not bool(torch.isfinite(logits).all() and torch.isfinite(masks).all()):
            raise ScorerBroken("the detector gives NaN or infinite numbers; its weights are "
                               "damaged")  # fmt: skip
        best = max(best, float(logits.softmax(-1)[:, :-1].max()))
    if best < MINIMAL_CLASS:
        raise ScorerBroken(f"the detector's surest class on {PICTURES} golden pictures has "
                           f"p = {best:.3f}, below {MINIMAL_CLASS}; its weights are random or "
                           f"belong to another network")  # fmt: skip


def _disc(paint: tuple[int, int, int], side: int = 224) -> tuple[Tensor, Found]:
    """A picture of one disc on white, and the disc."""
    at = torch.arange(side) + 0.5 - side / 2
    mask = at[:, None] ** 2 + at**2 < (0.4 * side) ** 2
    color = torch.tensor(paint).div(255)[:, None, None]
    image = torch.where(mask, color, torch.ones(3, side, side))
    low, high = side * 0.1, side * 0.9
    return image, Found(DISC, (low, low, high, high), 1.0, mask)


def check_colors(colors: Classifies) -> None:
    """Raises ScorerBroken when fewer than 5 of ten discs in GenEval's colours are named right."""
    said = colors.classify([_disc(PAINTS[color]) for color in COLORS])
    _demand_colors(said, "the colour classifier")


def check_prompts(name: str, grid: Callable[[Sequence[Tensor], Sequence[str]], Tensor]) -> None:
    """Raises ScorerBroken when fewer than 5 of ten discs get the prompt of their colour.

    grid: values (10, 10) of each picture by each prompt. A prompt's mean over all pictures is
    taken off, so that a liking for some prompts does not count.
    """
    images = [_disc(PAINTS[color])[0] for color in COLORS]
    values = grid(images, [f"a photo of a {color} ball" for color in COLORS])
    if not bool(torch.isfinite(values).all()):
        raise ScorerBroken(f"{name} gives NaN or infinite values; its weights are damaged")
    best = (values - values.mean(0)).argmax(1).tolist()
    _demand_colors([COLORS[i] for i in best], name)


def _demand_colors(said: Sequence[str], name: str) -> None:
    right = sum(a == b for a, b in zip(said, COLORS, strict=True))
    if right < MINIMAL_COLORS:
        told = ", ".join(f"{color} as {one}" for color, one in zip(COLORS, said, strict=True))
        raise ScorerBroken(f"{name} names {right} of {len(COLORS)} plain discs "
                           f"rightly, at least {MINIMAL_COLORS} are needed; its weights are "
                           f"random or belong to another network: {told}")  # fmt: skip


def check_ratings(name: str, values: Sequence[float], low: float, high: float) -> None:
    """Raises ScorerBroken for ratings of golden pictures that no trained rater gives.

    low, high: between which all ratings lie. An untrained head gives numbers near 0, and one that
    pictures never reach the same number for all.
    """
    fit = all(low < value < high for value in values)
    if not fit or max(map(abs, values)) < MINIMAL_RATING:
        raise ScorerBroken(f"{name} rates golden pictures {min(values):.2f} to {max(values):.2f}; "
                           f"trained, it rates from {low:g} to {high:g} and not all near 0, so "
                           f"its weights are random or belong to another network")  # fmt: skip
    if max(values) - min(values) < MINIMAL_SPREAD:
        raise ScorerBroken(f"{name} rates all golden pictures {values[0]:.4f}; pictures do not "
                           f"reach it")  # fmt: skip
