"""Train tokenizers of codebooks on the sticker world: "vq", and "tokenflow" with its teacher.

    vq           L_vq + L_commit                     of one map
    tokenflow    L_vq + L_commit + L_sem             of the scales, one of which may be left out

The picture's losses and the loop: `train.tokenizers`. The teacher looks at the same pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from impasto.models import tokenflow, vq
from impasto.models.tokenflow.semantic import SemanticEncoder, Teacher
from impasto.models.tokenflow.train import drop_scale, quantised, semantic_loss
from impasto.score.clip import load_clip_model
from impasto.train.data import PictureCache
from impasto.train.loop import Loop
from impasto.train.tokenizers import Attempt, cached, last_weight, train_tokenizer

__all__ = ["clip_teacher", "start_from_teacher", "train_tokenflow", "train_vq"]


def _train(
    vae: Any, cache: PictureCache, attempt: Callable[[Loop, Tensor], Attempt],
    sizes: Sequence[tuple[int, ...]], **numbers: Any,
) -> Loop:  # fmt: skip
    return train_tokenizer(vae, _in_turn(cache, sizes), attempt, token_parts=vae.token_parts,
                           count=len(cache), device=cache.images.device,
                           vocabulary=vae.vocabulary, last_layer=last_weight(vae.decoder),
                           **numbers)  # fmt: skip


def _in_turn(
    cache: PictureCache, sizes: Sequence[tuple[int, ...]]
) -> Callable[[Tensor], Tensor]:
    """Rows as pictures of one of the sizes, drawn anew each time where there are several."""
    ways = [cached(cache, size) for size in sizes]
    if len(ways) == 1:
        return ways[0]

    def pictures(rows: Tensor) -> Tensor:
        return ways[int(torch.randint(len(ways), ()))](rows)

    return pictures


def train_vq(
    vae: vq.VQTokenizer, cache: PictureCache, *, sides: Sequence[int] = (),
    compiled: bool = False, **numbers: Any,
) -> Loop:  # fmt: skip
    """Train `vae`; numbers: of `train.tokenizers.train_tokenizer`. sides: pixels that pictures are
    shrunk to, one of them a step; none for the pictures as they are."""
    # Each size is a graph of its own.
    features, picture = (torch.compile(part, dynamic=False) if compiled else part
                         for part in (vae.features, vae.picture))  # fmt: skip
    sizes = [(side, side) for side in sides or cache.images.shape[-1:]]

    def attempt(_: Loop, x: Tensor) -> Attempt:
        out = vae.quantize.learnt(features(x))
        return Attempt(picture(out.z_q), out.vq + out.commit, {"vq": out.vq.detach()}, out.ids)

    return _train(vae, cache, attempt, sizes, name="vq", compiled=compiled, **numbers)


def clip_teacher(folder: str, vae: tokenflow.TokenFlowTokenizer) -> Teacher:
    """A CLIP's tower and projection. Raises ValueError for one that is not of the tokenizer's
    tower, or whose texts' space has another width than the tokenizer's target."""
    model, _ = load_clip_model(folder)
    own, vision = vae.config, model.config.vision_config
    for key, value in own["vision"].items():
        if getattr(vision, key) != value:
            raise ValueError(f"the teacher {folder} has a tower with {key} "
                             f"{getattr(vision, key)!r}; this tokenizer's tower has {value!r}"
                             )  # fmt: skip
    if model.config.projection_dim != own["target"]:
        raise ValueError(f"the teacher {folder} speaks in {model.config.projection_dim} channels; "
                         f"this tokenizer's target is {own['target']}")  # fmt: skip
    tower = SemanticEncoder("clip", own["vision"], (0.5,) * 3, (0.5,) * 3)
    tower.vision.load_state_dict(model.vision_model.state_dict())
    return Teacher(tower, model.visual_projection.weight.detach().t().contiguous())


def start_from_teacher(vae: tokenflow.TokenFlowTokenizer, teacher: Teacher) -> None:
    """Give the semantic encoder the teacher's weights, to go on from."""
    vae.encoder_vqkd.load_state_dict(teacher.tower.state_dict())


def train_tokenflow(
    vae: tokenflow.TokenFlowTokenizer, teacher: Teacher | None, cache: PictureCache, *,
    compiled: bool = False, seed: int = 0, **numbers: Any,
) -> Loop:  # fmt: skip
    """Train `vae`; numbers: of `train.tokenizers.train_tokenizer`.

    teacher: None leaves the meaning untaught, for a decoder that is trained alone.
    """
    taught: Any = None if teacher is None else teacher.to(cache.images.device)
    taught = torch.compile(taught) if compiled and taught is not None else taught
    features, picture, meaning = (torch.compile(part) if compiled else part
                                  for part in (vae.features, vae.picture, vae.meaning))
    plan = torch.Generator().manual_seed(seed)
    # Each list of scales is a graph of its own: only that of most steps is worth compiling.
    whole = torch.compile(quantised) if compiled else quantised

    def attempt(_: Loop, x: Tensor) -> Attempt:
        scales = drop_scale(vae.scales, plan=plan)
        out = (whole if scales == vae.scales else quantised)(vae, features(x), scales)
        added, shown = out.vq + out.commit, {"vq": out.vq.detach()}
        if taught is not None:
            sem = semantic_loss(meaning(out.f), taught(x))
            added, shown["sem"] = added + sem, sem.detach()
        return Attempt(picture(out.f), added, shown, torch.cat([own.flatten() for own in out.ids]))

    return _train(vae, cache, attempt, [(vae.image, vae.image)], seed=seed, name="tokenflow",
                  compiled=compiled, carried={"scales": plan}, **numbers)  # fmt: skip
