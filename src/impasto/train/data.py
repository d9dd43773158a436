"""Training data: scenes drawn from seeds in worker processes, pictures cached on the device.

Scene i depends on (seed, i) alone, so the set is the same for any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from impasto.bench.geneval_prompts import geneval_specs
from impasto.spec import Spec
from impasto.train import processes
from impasto.world import Packed, Renderer, Scene, Split, Sprites, compose, pack, sample_spec
from impasto.world.alter import broken_spec
from impasto.world.twins import twin
from impasto.world.words import caption, dense_caption

__all__ = ["TASK_WEIGHTS", "Chunk", "PictureCache", "cache_pictures", "cache_scenes", "chunks",
           "laid_out", "of_one_class", "split_of", "training_split", "world_scenes"]  # fmt: skip

T = TypeVar("T")
CHUNK = 1000
TASK_WEIGHTS: dict[str, float] = {
    "region": 2.0, "two_object": 2.5, "counting": 2.5, "colors": 2.0,
    "position": 3.5, "color_attr": 3.5, "counting_many": 0.7, "three_colors": 0.7,
    "color_count_attr": 0.7, "color_spatial_attr": 0.7,
}  # fmt: skip
"""Relations and colour binding are learnt last, so they come most often. Single natural objects
are all in GenEval's evaluation set, so "region" shows them instead, with a place."""


def training_split() -> Split:
    """All combinations but the held-out ones and but the meanings of GenEval's 553 prompts."""
    return Split.without(geneval_specs())


def split_of(name: str) -> Split | None:
    """The split that a recipe or command names; None for "all". Raises ValueError."""
    if name == "all":
        return None
    if name not in ("train", "seen", "held-out"):
        raise ValueError(f"unknown split {name!r}; allowed: train, seen, held-out, all")
    return training_split() if name == "train" else Split(name)


def _scene(i: int, seed: int, weights: Mapping[str, float], split: Split | None, sprites: Sprites
           ) -> tuple[Scene, np.random.Generator]:  # fmt: skip
    """Scene i and its random state afterwards."""
    rng = np.random.default_rng([seed, i])
    spec = sample_spec(rng, sprites.classes, split, weights)
    return compose(spec, rng, sprites), rng


def world_scenes(count: int, seed: int, split: Split | None, sprites: Sprites) -> Iterator[Scene]:
    """`count` scenes as training sees them, each with a paraphrase of its prompt as caption."""
    for i in range(count):
        scene, rng = _scene(i, seed, TASK_WEIGHTS, split, sprites)
        yield scene.captioned(caption(scene.spec, rng, "paraphrase"))


@dataclass(frozen=True)
class Chunk:
    """CHUNK scenes in order. captions: per scene GenEval's wording, a paraphrase and a dense one.
    wrong: per scene a caption with one fact altered, in the wording of the paraphrase; of twins
    the other's paraphrase, "" where the scene shows that as well."""

    packed: Packed
    captions: list[tuple[str, str, str]]
    wrong: list[str]


def _wordings(scene: Scene, state: int, rng: np.random.Generator | None = None
              ) -> tuple[str, str, str]:  # fmt: skip
    """The captions of one scene. rng: goes on after the dense one."""
    spec, rng = scene.spec, rng or np.random.default_rng(state)
    return (spec.prompt, caption(spec, np.random.default_rng(state), "paraphrase"),
            dense_caption(scene, rng))  # fmt: skip


def _texts(scene: Scene, spec: Spec, state: int, classes: tuple[str, ...]
           ) -> tuple[tuple[str, str, str], str]:  # fmt: skip
    """The captions of one scene, and the altered one: the same wording of another spec."""
    rng = np.random.default_rng(state)
    words = _wordings(scene, state, rng)
    other = broken_spec(spec, rng, classes)
    return words, caption(other, np.random.default_rng(state), "paraphrase")


def _chunk(index: int, *, seed: int, weights: Mapping[str, float], split: Split | None,
           style: str) -> Chunk:  # fmt: skip
    sprites = Sprites.load(style)
    scenes, captions, wrong = [], [], []
    for i in range(index * CHUNK, (index + 1) * CHUNK):
        scene, rng = _scene(i, seed, weights, split, sprites)
        words, other = _texts(scene, scene.spec, int(rng.integers(2**31)), sprites.classes)
        scenes.append(scene)
        captions.append(words)
        wrong.append(other)
    return Chunk(pack(scenes), captions, wrong)


def _twin_chunk(index: int, *, seed: int, weights: Mapping[str, float], split: Split | None,
                style: str) -> Chunk:  # fmt: skip
    sprites = Sprites.load(style)
    scenes, captions, wrong = [], [], []
    for i in range(index * CHUNK // 2, (index + 1) * CHUNK // 2):
        scene, rng = _scene(i, seed, weights, split, sprites)
        other, state = twin(scene, rng, sprites), int(rng.integers(2**31))
        words = [_wordings(one, state) for one in (scene, other.scene)]
        scenes += [scene, other.scene]
        captions += words
        wrong += ["" if other.first_shows else words[1][1],
                  "" if other.second_shows else words[0][1]]  # fmt: skip
    return Chunk(pack(scenes), captions, wrong)


def laid_out(make: Callable[[int], T], parts: Iterable[int], workers: int | None) -> Iterator[T]:
    """make(part) of each, in order. workers: processes, default `processes.cores()`; 0 and 1 do it
    in this one."""
    workers = workers if workers is not None else processes.cores()
    if workers <= 1:
        yield from map(make, parts)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(make, parts)


def chunks(count: int, seed: int, weights: Mapping[str, float] | None = None, *,
           split: Split | None = None, style: str = "openmoji", workers: int | None = None,
           start: int = 0, twins: bool = False) -> Iterator[Chunk]:  # fmt: skip
    """Scenes `start` to `start + count` (multiples of 1,000) in chunks, in order.

    workers: of `laid_out`. twins: scenes 2k and 2k + 1 are a fact apart (`world.twins`) and have
    the same wordings.
    """
    if count <= 0 or count % CHUNK:
        raise ValueError(f"count must be a positive multiple of {CHUNK}, not {count}")
    if start < 0 or start % CHUNK:
        raise ValueError(f"start must be a multiple of {CHUNK}, not {start}")
    if twins and split is not None:
        raise ValueError(f"a twin can be any scene, so with twins no split leaves anything out; "
                         f"given {split.name!r}, use split all")  # fmt: skip
    Sprites.load(style)
    make = partial(_twin_chunk if twins else _chunk, seed=seed, weights=weights or TASK_WEIGHTS,
                   split=split, style=style)  # fmt: skip
    yield from laid_out(make, range(start // CHUNK, (start + count) // CHUNK), workers)


@dataclass(frozen=True)
class PictureCache:
    """N pictures with their truth, on one device, in bytes.

    images: (N, 3, S, S) uint8. owner: (N, S, S) uint8, 1 + slot of the visible object, 0 = none.
    classes, colors: (N, K) int64, class -1 where there is no object.
    """

    images: Tensor
    owner: Tensor
    classes: Tensor
    colors: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def masks(self, rows: Tensor) -> Tensor:
        """(B, K, S, S) bool visible masks of some rows."""
        slots = torch.arange(1, self.classes.shape[1] + 1, device=rows.device, dtype=torch.uint8)
        return self.owner[rows][:, None] == slots[:, None, None]


def of_one_class(cache: PictureCache) -> tuple[Tensor, Tensor]:
    """(rows, labels): the pictures whose objects are all of one class, and that class.

    Raises ValueError where there are none.
    """
    first = cache.classes[:, :1]
    same = ((cache.classes == first) | (cache.classes < 0)).all(1) & (first[:, 0] >= 0)
    rows = same.nonzero()[:, 0]
    if not len(rows):
        raise ValueError("no picture shows objects of one class only; give weights to tasks of "
                         "one class, such as {region: 2.0}, and 0 to the others")  # fmt: skip
    return rows, first[rows, 0]


SLOTS = 8


def cache_pictures(
    source: Iterator[Chunk], count: int, device: str | torch.device, renderer: Renderer,
    batch: int = 250,
) -> tuple[PictureCache, list[tuple[str, str, str]], list[str]]:  # fmt: skip
    """Render `count` scenes onto the device; also their captions and altered captions."""
    cache = _empty(count, device)
    captions: list[tuple[str, str, str]] = []
    wrong: list[str] = []
    for chunk in source:
        for start in range(0, CHUNK, batch):
            _fill(cache, len(captions) + start, _slice(chunk.packed, start, batch), renderer)
        captions += chunk.captions
        wrong += chunk.wrong
    return cache, captions, wrong


def cache_scenes(
    scenes: Sequence[Scene], device: str | torch.device, renderer: Renderer
) -> PictureCache:
    """Render a few scenes, at once, onto the device."""
    cache = _empty(len(scenes), device)
    _fill(cache, 0, pack(scenes), renderer)
    return cache


def _empty(count: int, device: str | torch.device, size: int = 128) -> PictureCache:
    return PictureCache(
        torch.empty(count, 3, size, size, dtype=torch.uint8, device=device),
        torch.zeros(count, size, size, dtype=torch.uint8, device=device),
        torch.full((count, SLOTS), -1, device=device),
        torch.zeros(count, SLOTS, dtype=torch.int64, device=device),
    )


def _slice(packed: Packed, start: int, count: int) -> Packed:
    """Scenes start … start + count of a packed batch."""
    keep = (packed.wholes[:, 0] >= start) & (packed.wholes[:, 0] < start + count)
    wholes = packed.wholes[keep].copy()
    wholes[:, 0] -= start
    backgrounds = packed.backgrounds[start : start + count]
    return Packed(packed.reals[keep], wholes, backgrounds, packed.size)


def _fill(cache: PictureCache, at: int, packed: Packed, renderer: Renderer) -> None:
    out = renderer(packed)
    rows = slice(at, at + len(out.images))
    slots = out.classes.shape[1]
    numbers = torch.arange(1, slots + 1, device=out.masks.device, dtype=torch.uint8)
    cache.images[rows] = (out.images * 255).round().byte()
    cache.owner[rows] = (out.masks * numbers[:, None, None]).sum(1, dtype=torch.uint8)
    cache.classes[rows, :slots] = out.classes
    cache.colors[rows, :slots] = out.colors
