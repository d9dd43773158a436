"""Train what lives on TokenFlow's codes: the model that draws them, and one that reads them.

Drawing: `models.tokenflow.train.training_loss` on ids and words that are made once and stay on the
device; the tokenizer is frozen.

Reading: `models.tokenflow.train.answer_loss` of questions about scenes, whose features are made
once; first the projector alone, then with the language model. A scene's questions are drawn from
its own random state, so the set is the same for any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from impasto.bench.asked import SUFFIX
from impasto.models.tokenflow import TokenFlowGenerator
from impasto.models.tokenflow.reader import Reader
from impasto.models.tokenflow.text import slots
from impasto.models.tokenflow.train import TeacherForcing, answer_loss, training_loss
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.data import PictureCache, laid_out, world_scenes
from impasto.train.loop import Loop, mixed
from impasto.train.tokenizers import cached
from impasto.world import Renderer, Sprites
from impasto.world.questions import questions

__all__ = ["CodeCache", "QuestionCache", "cache_codes", "cache_questions", "train_drawing",
           "train_reading"]  # fmt: skip

UNDECAYED = ("embed", "pos_1LC", "norm")
"""Parts of names of matrices that decay leaves alone, beside biases."""


@dataclass(frozen=True)
class CodeCache:
    """ids: (N, L) int16 or int32, of all scales one after another. words: (V, N, n) int16, V
    wordings of each; there: the same, bool (`models.tokenflow.text.slots`)."""

    ids: Tensor
    words: Tensor
    there: Tensor

    def __len__(self) -> int:
        return len(self.ids)


@torch.no_grad()
def cache_codes(
    pipe: TokenFlowGenerator, cache: PictureCache, captions: Sequence[Sequence[str]],
    batch: int = 250,
) -> CodeCache:  # fmt: skip
    """Encode all pictures, at the size `pipe` draws, and captions."""
    vae, device = pipe.vae, cache.images.device
    pictures, kind = cached(cache, (vae.image, vae.image)), torch.int16
    if vae.vocabulary > 2**15:
        kind = torch.int32
    ids = [torch.cat(vae.encode(pictures(slice(i, i + batch))), dim=1).to(kind)
           for i in range(0, len(cache), batch)]  # fmt: skip
    config = pipe.transformer.config
    texts = [slots(pipe.tokenizer, own, config["text"], pipe.transformer.words)
             for own in zip(*captions, strict=True)]  # fmt: skip
    words, there = (torch.stack(part) for part in zip(*texts, strict=True))
    return CodeCache(torch.cat(ids), words.to(device, torch.int16), there.to(device))


def train_drawing(
    pipe: TokenFlowGenerator, cache: CodeCache, *, steps: int, batch: int, lr: float = 1e-3,
    minutes: float | None = None, compiled: bool = False, seed: int = 0,
    wordings: Sequence[float] = (0.6, 0.4), ema: float = 0.9995,
    on_save: Callable[[], str] | None = None, save_every: int = 0,
    checkpoint: Checkpoint | None = None,
) -> Loop:  # fmt: skip
    """Train `pipe`'s transformer; the tokenizer stays as it is.

    wordings: how often each wording of a caption is used. on_save: saves the averaged weights
    every `save_every` steps and says where.
    """
    torch.manual_seed(seed + processes.rank())
    device, model = cache.ids.device, pipe.transformer.train()
    loop = Loop(model, steps, lr, weight_decay=0.05, betas=(0.9, 0.95), minutes=minutes,
                ema_decay=ema, undecayed=UNDECAYED, name="tokenflow",
                checkpoint=checkpoint)  # fmt: skip
    forced = TeacherForcing(model, pipe.tokenizer).to(device)
    run: Any = torch.compile(forced) if compiled else forced
    counts, chances = [h * w for h, w in model.sizes], torch.tensor(wordings, device=device)
    while loop.running:
        rows = torch.randint(len(cache), (batch,), device=device)
        way = torch.multinomial(chances, batch, replacement=True)
        ids = cache.ids[rows].long().split(counts, dim=1)
        with mixed(device):
            loss, _, right = training_loss(run, pipe.vae, ids, cache.words[way, rows].long(),
                                           cache.there[way, rows])  # fmt: skip
        loop.update(loss, {f"right{k}": share for k, share in enumerate(right)})
        if on_save is not None:
            loop.save_if_due(on_save, save_every)
    loop.load_average()
    model.eval()
    return loop


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class QuestionCache:
    """features: (N, P, D) float16 of scenes. asked: of each scene (question, answer) pairs."""

    features: Tensor
    asked: list[list[tuple[str, str]]]

    def __len__(self) -> int:
        return len(self.features)


PART = 500


def _asked(index: int, *, seed: int, most: int) -> tuple[list[Any], list[list[tuple[str, str]]]]:
    """Scenes `PART` index … of a seed, and up to `most` questions of each, every other one with
    what benches add to theirs: a model that never saw it answers without regard to the question.
    """
    sprites = Sprites.load()
    scenes = list(world_scenes(PART, seed * 10_000 + index, None, sprites))
    asked = []
    for i, scene in enumerate(scenes):
        found = questions(scene, np.random.default_rng([seed, index, i]), sprites)[:most]
        asked.append([(one.text if k % 2 else f"{one.text} {SUFFIX}", one.answer)
                      for k, one in enumerate(found)])  # fmt: skip
    return scenes, asked


@torch.no_grad()
def cache_questions(
    features: Callable[[Tensor], Tensor], count: int, seed: int, device: torch.device, *,
    most: int = 8, workers: int | None = None, batch: int = 50,
) -> QuestionCache:  # fmt: skip
    """`count` scenes, a multiple of 500, seen by `features` and asked up to `most` questions each.

    workers: of `laid_out`. Raises ValueError for another number.
    """
    if count <= 0 or count % PART:
        raise ValueError(f"scenes of a reader must be a multiple of {PART}, given {count}")
    renderer = Renderer(Sprites.load(), device)
    make, indices = partial(_asked, seed=seed, most=most), range(count // PART)
    seen: list[Tensor] = []
    asked: list[list[tuple[str, str]]] = []
    for scenes, own in laid_out(make, indices, workers):
        seen += [features(renderer(scenes[i : i + batch]).images).half().to(device)
                 for i in range(0, PART, batch)]  # fmt: skip
        asked += own
    return QuestionCache(torch.cat(seen), asked)


def train_reading(
    reader: Reader, cache: QuestionCache, *, steps: int, batch: int, lr: float = 5e-4,
    minutes: float | None = None, compiled: bool = False, seed: int = 0, align: float = 0.1,
    checkpoint: Checkpoint | None = None,
) -> Loop:  # fmt: skip
    """Train `reader`'s network on one question of each of `batch` scenes a step.

    align: share of the training in which the projector learns alone, as LLaVA's first stage; the
    language model, which starts from nothing in the small world, learns from then on.
    """
    torch.manual_seed(seed + processes.rank())
    device, network = cache.features.device, reader.network.train()
    network.train_parts(projector=True, lm=True)
    loop = Loop(network, steps, lr, weight_decay=0.05, betas=(0.9, 0.95), minutes=minutes,
                name="reader", checkpoint=checkpoint)  # fmt: skip
    if compiled:
        network.lm.forward = torch.compile(network.lm.forward, dynamic=True)
    while loop.running:
        network.train_parts(projector=True, lm=loop.progress >= align)
        rows = torch.randint(len(cache), (batch,), device=device).tolist()
        drawn = torch.rand(batch).tolist()
        pairs = [cache.asked[i][int(u * len(cache.asked[i]))]
                 for i, u in zip(rows, drawn, strict=True)]  # fmt: skip
        with mixed(device):
            loss = answer_loss(reader, cache.features[rows].float(), [q for q, _ in pairs],
                               [a for _, a in pairs])  # fmt: skip
        loop.update(loss)
    loop.load_average()
    network.eval()
    return loop
