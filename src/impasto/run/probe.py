"""What a tokenizer's codes tell of what is where, by a linear probe.

Scenes of the world are encoded; at every place whose middle an object covers, the decoders' input
is to tell the object's class and its colour. The probe learns from some scenes and is asked about
others; a picture's value is its share of right places, and the interval is over pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto.bench.probe import Ridge
from impasto.models.discrete import DiscreteTokenizer
from impasto.score.statistics import Outcome, bootstrap
from impasto.spec import CLASSES, COLORS
from impasto.train.data import CHUNK, PictureCache, cache_pictures, chunks
from impasto.world import Renderer, Sprites

__all__ = ["PARTS", "parts_of", "probe"]

PARTS = ("all", "semantic", "pixel")
"""Channels that can be asked: of a tokenizer with two codebooks, one half."""
LEARN_SEED, ASK_SEED = 5050, 6060


def _cache(count: int, seed: int, device: torch.device) -> PictureCache:
    renderer = Renderer(Sprites.load(), device)
    return cache_pictures(chunks(count, seed, workers=1), count, device, renderer)[0]


def parts_of(tokenizer: Any) -> tuple[str, ...]:
    """The `PARTS` that its codes have: halves, where there are two codebooks."""
    border = getattr(tokenizer, "semantic_channels", tokenizer.channels)
    return PARTS if border < tokenizer.channels else PARTS[:1]


def _channels(tokenizer: Any, part: str) -> slice:
    """Raises ValueError for a half that the tokenizer has not."""
    if part not in (own := parts_of(tokenizer)):
        raise ValueError(f"this tokenizer's codes have no part {part!r}; allowed: "
                         f"{', '.join(own)}")  # fmt: skip
    if part == "all":
        return slice(None)
    border = tokenizer.semantic_channels
    return slice(0, border) if part == "semantic" else slice(border, None)


def _places(
    tokenizer: DiscreteTokenizer, cache: PictureCache, channels: slice, batch: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """(features (n, D), class (n,), colour (n,), picture (n,)) of the places with an object."""
    for start in range(0, len(cache), batch):
        rows = torch.arange(start, min(start + batch, len(cache)), device=cache.images.device)
        images = cache.images[rows].float() / 255
        sizes = tokenizer.sizes_of(images.shape[2], images.shape[3])
        z = tokenizer.features_of(tokenizer.encode(images), sizes)[:, channels]
        side = images.shape[-1] // z.shape[-1]
        owner = cache.owner[rows][:, side // 2 :: side, side // 2 :: side].long()
        picture, y, x = (owner > 0).nonzero(as_tuple=True)
        slot = owner[picture, y, x] - 1
        yield (z.movedim(1, -1)[picture, y, x], cache.classes[rows[picture], slot],
               cache.colors[rows[picture], slot], rows[picture])  # fmt: skip


@torch.no_grad()
def probe(
    tokenizer: DiscreteTokenizer, *, part: str = "all", learn: int = 2 * CHUNK, ask: int = CHUNK,
    batch: int = 50,
) -> dict[str, Any]:  # fmt: skip
    """Shares of places whose object's class and colour a linear map tells, with intervals.

    part: of `PARTS`. learn, ask: scenes, multiples of 1,000. Raises ValueError.
    """
    channels = _channels(tokenizer, part)
    device = next(tokenizer.parameters()).device
    probes = {"class": Ridge(len(CLASSES)), "color": Ridge(len(COLORS) + 1)}
    for f, classes, colors, _ in _places(tokenizer, _cache(learn, LEARN_SEED, device), channels,
                                         batch):  # fmt: skip
        probes["class"].add(f, classes)
        probes["color"].add(f, colors)
    right: dict[str, list[Tensor]] = {name: [] for name in probes}
    pictures, weights = [], {name: one.weights() for name, one in probes.items()}
    for f, classes, colors, picture in _places(tokenizer, _cache(ask, ASK_SEED, device), channels,
                                               batch):  # fmt: skip
        extended = F.pad(f.double(), (0, 1), value=1.0)
        for name, wanted in (("class", classes), ("color", colors)):
            right[name].append((extended @ weights[name]).argmax(1) == wanted)
        pictures.append(picture)
    picture = torch.cat(pictures)
    shares = {name: _interval(torch.cat(parts), picture) for name, parts in right.items()}
    return {"part": part, "channels": f.shape[1], "places": len(picture), "learnt_from": learn,
            "asked": ask} | shares  # fmt: skip


def _interval(right: Tensor, picture: Tensor) -> dict[str, float]:
    """Mean over pictures of their shares of right places (n,), with its interval."""
    _, own = picture.unique(return_inverse=True)
    counts = torch.bincount(own)
    shares = torch.bincount(own, right.double()) / counts
    outcomes = [Outcome("all", str(i), 0, share) for i, share in enumerate(shares.tolist())]
    return bootstrap(outcomes, bounds=(0.0, 1.0)).overall._asdict()
