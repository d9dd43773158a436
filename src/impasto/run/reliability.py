"""How early a reward knows: rewards of unfinished pictures against what becomes of them.

    r_s    the reward of a candidate's preview after step s,   r its reward when finished
    rho_s  Spearman's rank correlation of r_s with r, and with the verdict

    phi_s  a potential of r_0 … r_s (`impasto.search.selectors`), of a candidate scored each step

    over all candidates, as published; and within a prompt, the mean over prompts with any spread:
    what a search can use, which only ever chooses among candidates of one prompt

Intervals are percentiles of a bootstrap over prompts, whole prompts with all their candidates.
What a search draws by, exp(lambda phi_s), is worth something where its rho is (arXiv 2507.18537,
its figure of reward consistency by scale).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from impasto.run.parts import in_parts
from impasto.sample.protocol import Generator, Request, Sampling
from impasto.score.base import Scorer
from impasto.search.base import Draw
from impasto.search.selectors import POTENTIALS
from impasto.spec import Spec

__all__ = ["looked_at", "reliability", "spearman"]

DRAWS = 1000
Floats = NDArray[np.float64]


def _values(scorer: Scorer, images: Tensor, specs: Sequence[Spec]) -> Tensor:
    """The scorer's value of each picture, looked at by itself whatever the batch."""
    return torch.tensor([scorer.score(image[None], [spec])[0].value
                         for image, spec in zip(images, specs, strict=True)],
                        dtype=torch.float64)  # fmt: skip


@torch.inference_mode()
def _rows(
    generator: Generator, draws: Sequence[tuple[Draw, int]], sampling: Sampling, reward: Scorer,
    scorer: Scorer,
) -> dict[str, Tensor]:  # fmt: skip
    """"rewards" (B, K + 1): after each of K steps and of the finished picture; "value" (B,)."""
    specs = [draw.spec for draw, _ in draws]
    requests: list[Request] = [draw.request for draw, _ in draws]
    state = generator.start(requests, [draw.row_seed(i) for draw, i in draws], sampling)
    found = []
    while not state.done:
        state = generator.advance(state)
        found.append(_values(reward, generator.preview(state), specs))
    finished = generator.finish(state)
    found.append(_values(reward, finished, specs))
    return {"rewards": torch.stack(found, dim=1), "value": _values(scorer, finished, specs)}


def looked_at(
    folder: Path, generator: Generator, specs: Sequence[Spec], *, n: int, seed: int,
    sampling: Sampling, reward: Scorer, scorer: Scorer, batch_size: int,
    progress: Callable[[int, int], None],
) -> dict[str, Tensor]:  # fmt: skip
    """Draw n candidates of every spec with a look after each step; parts are kept in `folder`.

    Returns "rewards" (P, n, K + 1) and "value" (P, n). Raises ValueError for a generator without
    previews.
    """
    if not generator.has_preview:
        raise ValueError("this model draws in one go: there is nothing to look at before the end")
    rows = [(Draw(spec, seed, 0), i) for spec in specs for i in range(n)]
    found = in_parts(
        folder, "rows", len(rows),
        lambda at: _rows(generator, [rows[i] for i in at], sampling, reward, scorer),
        batch_size=batch_size, progress=progress,
    )  # fmt: skip
    return {key: value.unflatten(0, (len(specs), n)) for key, value in found.items()}


def spearman(a: Floats, b: Floats) -> Floats:
    """Rank correlation along the last axis, ties at their mean rank; NaN where one is constant."""
    x, y = (rankdata(values, axis=-1) for values in (a, b))
    x, y = (ranks - ranks.mean(-1, keepdims=True) for ranks in (x, y))
    spread = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.where(spread > 0, (x * y).sum(-1) / spread, np.nan)
    return found


def _interval(value: float, draws: Floats) -> list[float] | None:
    """[value, low, high]; None where there is nothing to correlate."""
    if not np.isfinite(value):
        return None
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return [float(value), float(min(low, value)), float(max(high, value))]


def _correlations(a: Floats, b: Floats, at: NDArray[np.int64]) -> dict[str, Any]:
    """Over all candidates and within prompts, of (P, n) each. at: (draws, P) prompts drawn."""
    own = spearman(a, b)
    drawn = own[at]
    known = np.isfinite(drawn).sum(1)
    with np.errstate(invalid="ignore"):
        means = np.where(known > 0, np.nansum(drawn, 1) / np.maximum(known, 1), np.nan)
    flat = spearman(a[at].reshape(len(at), -1), b[at].reshape(len(at), -1))
    return {
        "all": _interval(float(spearman(a.ravel(), b.ravel())), flat),
        "within": _interval(float(np.nanmean(own)) if np.isfinite(own).any() else np.nan, means),
        "prompts": int(np.isfinite(own).sum()),
    }


def _potential(name: str, histories: Floats) -> Floats:
    """phi of histories (P, n, s + 1), (P, n)."""
    return np.apply_along_axis(lambda row: POTENTIALS[name](row.tolist()), 2, histories)


def reliability(
    rewards: Tensor, value: Tensor, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:  # fmt: skip
    """JSON-ready: for each step the correlations of its reward with the last, and with `value`;
    and of the potentials beside "value" (which is the reward) with the last reward.

    rewards: (P, n, K + 1). value: (P, n). "within" is over those "prompts" whose candidates
    differ in both.
    """
    r, v = rewards.double().numpy(), value.double().numpy()
    at = np.random.default_rng(seed).integers(len(v), size=(draws, len(v)))
    steps = r.shape[2] - 1

    def correlations(name: str) -> list[dict[str, Any]]:
        phi = np.stack([_potential(name, r[:, :, : s + 1]) for s in range(steps)], 2)
        return [_correlations(phi[:, :, s], r[:, :, -1], at) for s in range(steps)]

    return {
        "prompts": len(v), "candidates": v.shape[1], "steps": steps,
        "with_reward": [_correlations(r[:, :, s], r[:, :, -1], at) for s in range(steps)],
        "with_value": [_correlations(r[:, :, s], v, at) for s in range(steps + 1)],
        "potentials": {name: correlations(name) for name in POTENTIALS if name != "value"},
    }  # fmt: skip
