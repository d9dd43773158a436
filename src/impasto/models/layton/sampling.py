"""Drawing a picture's ids one after another: the equations, and the state of a batch of drawings.

    l     = l_none + s (l_text - l_none)                             guidance s
    p     = softmax(l / tau), truncated by top-k and top-p as in `var.sampler`
    id_i  = the first whose cumulative p exceeds u_i sum p,          u uniform from the row's seed

A step is a row of the map: `side` ids, whose numbers come from the row's seed and the step. l_none
is of the learned text behind as many empty slots as the prompt leaves. Source: Xie et al. 2025
(arXiv 2503.08377) and the released code's conventions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from impasto.models.next_scale.cache import Cache
from impasto.models.next_scale.state import scale_seed
from impasto.models.storage import checked_fields
from impasto.models.var.sampler import drawn_by
from impasto.sample.protocol import State
from impasto.sample.seeds import row_uniforms, upload

__all__ = ["Branches", "Defaults", "IdState", "branches", "guided", "numbers", "picked",
           "select_rows"]  # fmt: skip

Branches = tuple[bool, ...]
"""Of each run of the transformer for a row: whether the prompt is there."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a model folder says about drawing with it; by default the published demonstration's,
    whose low temperature leaves little to chance.

    guidance: s. temperature: tau. top_k: 0 for all. top_p: 0 or 1 for all. clean: whether prompts
    go through `text.cleaned`. tokens: digest of the tokenizer that the model was trained with.
    """

    guidance: float = 2.0
    temperature: float = 0.1
    top_k: int = 1000
    top_p: float = 1.0
    clean: bool = True
    tokens: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Defaults:
        """The inverse of `to_dict`. Raises ValueError naming unknown or missing keys."""
        return cls(**checked_fields(cls, values, "a layton model"))

    def check(self) -> None:
        """Raises ValueError for a value out of range."""
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise ValueError(f"guidance must be a finite number >= 0, given {self.guidance!r}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be a finite number > 0, given "
                             f"{self.temperature!r}; top_k 1 takes the likeliest")  # fmt: skip
        if self.top_k < 0 or not 0 <= self.top_p <= 1:
            raise ValueError(f"top_k must be >= 0 and top_p 0 to 1, given {self.top_k!r} and "
                             f"{self.top_p!r}")  # fmt: skip


def branches(guidance: float) -> Branches:
    """Both, and only one where the other has no say."""
    if guidance in (0.0, 1.0):
        return (guidance == 1.0,)
    return True, False


@dataclass(frozen=True, kw_only=True)
class IdState(State):
    """Unfinished drawings. B rows, P distinct prompts, R = `branches` of each; a step is a row of
    the map.

    ids: (B, side step), int64, drawn so far. cache: keys and values of R rows for each of B, of
    all places but the one that predicts the next id; None once nothing follows. last: (P R, C) the
    last token of each text, which predicts the first id. seen: bool (P, text). prompt_of: for each
    row its prompt.
    """

    ids: Tensor
    cache: Cache | None
    last: Tensor
    seen: Tensor
    prompt_of: tuple[int, ...]
    guidance: float

    @property
    def runs(self) -> int:
        """R."""
        return len(branches(self.guidance))


def select_rows(state: IdState, rows: Sequence[int]) -> IdState:
    """The state whose row i is row `rows[i]`: ids and all branches of the cache."""
    runs, device, cache = state.runs, state.ids.device, state.cache
    held = upload(torch.tensor([runs * i + j for i in rows for j in range(runs)]), device)
    return replace(
        state,
        ids=state.ids[upload(torch.tensor(rows), device)],
        cache=None if cache is None else cache.selected(held),
        prompt_of=tuple(state.prompt_of[i] for i in rows),
        seeds=tuple(state.seeds[i] for i in rows),
        costs=tuple(state.costs[i] for i in rows),
    )


def guided(logits: Tensor, guidance: float) -> Tensor:
    """l (B, K) of the branches' logits (B R, K), those of a row next to each other."""
    if len(branches(guidance)) == 1:
        return logits
    with_text, without = logits[0::2], logits[1::2]
    return without + guidance * (with_text - without)


def numbers(
    seeds: Sequence[int], step: int, count: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Uniform numbers (B, count), float64, of the ids of one step."""
    return row_uniforms([scale_seed(seed, step) for seed in seeds], count, device)


def picked(logits: Tensor, u: Tensor, defaults: Defaults) -> Tensor:
    """Ids (B,), int64, of guided logits (B, K) by numbers u (B,)."""
    return drawn_by(u, logits / defaults.temperature, top_k=defaults.top_k, top_p=defaults.top_p)
