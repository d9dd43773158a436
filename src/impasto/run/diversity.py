"""How different the candidates of one prompt are, and how much of it a choice among them keeps.

    d       mean Euclidean distance between features of two of a set's pictures
    random  the expectation of d over all subsets of k of n: the mean over all pairs, whatever k
    kinds   how many different outcomes a set holds, an outcome being the number of objects found
            of each class;  over random subsets   sum_o 1 - C(n - m_o, k) / C(n, k),
            m_o candidates with outcome o

A search over candidates that are alike gains nothing, whatever it does: that is looked at first.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from impasto.bench import read_results
from impasto.files import sha256_file
from impasto.images import read_image
from impasto.run.parts import in_parts
from impasto.run.pool import Pool
from impasto.sample.protocol import Generator, Sampling
from impasto.score.base import Scorer
from impasto.score.statistics import Interval, Outcome, bootstrap, paired_difference
from impasto.search.base import Draw
from impasto.search.cluster import project, representatives
from impasto.spec import Spec

if TYPE_CHECKING:
    from impasto.score.features import Extractor, Patches

__all__ = ["Chooser", "candidates_kept", "clusters", "kept", "outcome", "pool_diversity", "spread"]

Chooser = Callable[[Tensor, int], Sequence[int]]
"""(previews of one prompt's candidates (n, 3, H, W), k) -> k different rows."""
Progress = Callable[[int, int], None]


def clusters(patches: Patches, projection: str) -> Chooser:
    """What `impasto.search.cluster.Cluster` keeps, as a chooser."""
    return lambda images, k: representatives(project(patches(images), projection), k)


def outcome(objects: Mapping[str, Sequence[Any]]) -> str:
    """What was found in a picture: the number of objects of each class."""
    return json.dumps({name: len(found) for name, found in sorted(objects.items()) if found})


def spread(distances: Tensor, rows: Sequence[int] | None = None) -> float:
    """Mean of distances (n, n) over the pairs of `rows`, all by default; 0 of fewer than two."""
    rows = range(len(distances)) if rows is None else rows
    if len(rows) < 2:
        return 0.0
    at = torch.tensor(list(rows))
    pairs = torch.combinations(at)
    return float(distances[pairs[:, 0], pairs[:, 1]].double().mean())


def kinds_of_random(outcomes: Sequence[Any], k: int) -> float:
    """Expected number of different outcomes among k of them drawn without replacement."""
    n = len(outcomes)
    return sum(1 - comb(n - m, k) / comb(n, k) for m in Counter(outcomes).values())


def _features(extractors: Sequence[Extractor], images: Tensor) -> Tensor:
    """All features of pictures (B, 3, H, W) as one row each."""
    return torch.cat([value.double() for one in extractors for value in one(images).values()], 1)


@torch.inference_mode()
def _prompt(
    generator: Generator, draw: Draw, *, n: int, step: int, sampling: Sampling,
    choosers: Mapping[str, Chooser], k: int, extractor: Extractor, scorer: Scorer,
) -> dict[str, Tensor]:  # fmt: skip
    """One prompt's candidates, each tensor with a leading axis of one."""
    state = generator.start([draw.request] * n, [draw.row_seed(i) for i in range(n)], sampling)
    if not 0 <= step < state.steps:
        raise ValueError(f"step must be 0 to {state.steps - 1}, of {state.steps} steps, given "
                         f"{step}")  # fmt: skip
    while state.step <= step:
        state = generator.advance(state)
    seen = generator.preview(state)
    while not state.done:
        state = generator.advance(state)
    finished = generator.finish(state)
    found = [outcome(score.details) for score in scorer.score(finished, [draw.spec] * n)]
    names = list(dict.fromkeys(found))
    rows = {f"chosen.{name}": torch.tensor(_checked(name, choose(seen, k), n, k))
            for name, choose in choosers.items()}  # fmt: skip
    values = {"seen": torch.cdist(*2 * (_features([extractor], seen),)),
              "finished": torch.cdist(*2 * (_features([extractor], finished),)),
              "outcome": torch.tensor([names.index(one) for one in found])} | rows  # fmt: skip
    return {key: value[None] for key, value in values.items()}


def _checked(name: str, rows: Sequence[int], n: int, k: int) -> list[int]:
    if len(rows) != k or len(set(rows)) != k or not set(rows) <= set(range(n)):
        raise ValueError(f"{name} chose rows {list(rows)} of {n}; it must choose {k} different")
    return sorted(rows)


def candidates_kept(
    folder: Path, generator: Generator, specs: Sequence[Spec], *, n: int, k: int, step: int,
    seed: int, sampling: Sampling, choosers: Mapping[str, Chooser], extractor: Extractor,
    scorer: Scorer, progress: Progress,
) -> dict[str, Tensor]:  # fmt: skip
    """Draw n candidates of every spec, choose k by each chooser after `step`, and finish them all.

    Returns "seen" and "finished", distances (P, n, n) after `step` and at the end, "outcome"
    (P, n), a number for each different one, and "chosen.NAME" (P, k). Parts are kept in `folder`.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must be 1 to n = {n}, given {k}")
    if not generator.has_preview:
        raise ValueError("this model draws in one go: there is nothing to choose by before the "
                         "end")  # fmt: skip

    def work(at: range) -> dict[str, Tensor]:
        found = [_prompt(generator, Draw(specs[i], seed, 0), n=n, step=step, sampling=sampling,
                         choosers=choosers, k=k, extractor=extractor, scorer=scorer)
                 for i in at]  # fmt: skip
        return {key: torch.cat([one[key] for one in found]) for key in found[0]}

    return in_parts(folder, "prompts", len(specs), work, batch_size=1, progress=progress)


def kept(found: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Any]:
    """JSON-ready: of each chooser and of random subsets, means with intervals over prompts, and
    their paired differences. tasks: of each prompt; overall is the plain mean over tasks."""
    names = [key.removeprefix("chosen.") for key in found if key.startswith("chosen.")]
    n = found["outcome"].shape[1]
    k = found[f"chosen.{names[0]}"].shape[1]
    table: dict[str, Any] = {"prompts": len(tasks), "candidates": n, "k": k, "measures": {}}
    for measure in ("seen", "finished", "kinds"):
        random = [_random(found, measure, p, k) for p in range(len(tasks))]
        rows = {"random": random} | {
            name: [_chosen(found, measure, p, found[f"chosen.{name}"][p].tolist())
                   for p in range(len(tasks))] for name in names}  # fmt: skip
        values = {name: _outcomes(of, tasks) for name, of in rows.items()}
        table["measures"][measure] = {
            name: {"value": list(bootstrap(of).overall)} | (
                {} if name == "random" else
                {"difference": list(_difference(values["random"], of))})
            for name, of in values.items()
        }  # fmt: skip
    return table


def _difference(a: Sequence[Outcome], b: Sequence[Outcome]) -> Interval:
    return paired_difference(a, b).overall


def _outcomes(values: Sequence[float], tasks: Sequence[str]) -> list[Outcome]:
    return [Outcome(task, str(p), 0, value)
            for p, (task, value) in enumerate(zip(tasks, values, strict=True))]  # fmt: skip


def _random(found: Mapping[str, Tensor], measure: str, p: int, k: int) -> float:
    if measure == "kinds":
        return kinds_of_random(found["outcome"][p].tolist(), k)
    return spread(found[measure][p]) if k > 1 else 0.0


def _chosen(found: Mapping[str, Tensor], measure: str, p: int, rows: Sequence[int]) -> float:
    if measure == "kinds":
        return float(len(set(found["outcome"][p][rows].tolist())))
    return spread(found[measure][p], rows)


def pool_diversity(
    pool: Pool, folder: Path, extractor: Extractor, *, batch_size: int, progress: Progress
) -> dict[str, Any]:  # fmt: skip
    """JSON-ready: how much the finished candidates of a prompt differ, from a pool's pictures.

    "within": d among a prompt's n candidates; "between": among pictures of n different prompts,
    None where there are fewer; "kinds": different outcomes among n; "identical": pairs of one
    prompt's pictures that are the same, bit for bit; "mixed": share of prompts where some
    candidates are right and some are not; "mean", "any": the score of one candidate and of a
    perfect chooser among n.
    """
    records = read_results(pool.run.results)
    paths = [pool.run.path / record.filename for record in records]

    def work(at: range) -> dict[str, Tensor]:
        images = torch.stack([read_image(paths[i]) for i in at])
        return {"features": _features([extractor], images)}

    found = in_parts(folder, "features", len(paths), work, batch_size=batch_size,
                     progress=progress)["features"]  # fmt: skip
    n, groups, each = pool.n, len(paths) // pool.n, pool.samples // pool.n
    by_place = found.unflatten(0, (groups, n))
    values = [[float(r.number or 0) for r in records[g * n : (g + 1) * n]] for g in range(groups)]
    kinds = [len({outcome(r.objects) for r in records[g * n : (g + 1) * n]})
             for g in range(groups)]  # fmt: skip
    within = torch.cdist(by_place, by_place)
    tags = [records[g * n].tag for g in range(groups)]
    prompts = [records[g * n].metadata for g in range(groups)]

    def mean(of: Sequence[float]) -> list[float]:
        return list(bootstrap([Outcome(t, p, g, v) for g, (t, p, v)
                               in enumerate(zip(tags, prompts, of, strict=True))]).overall
                    )  # fmt: skip

    return {
        "prompts": len(set(prompts)), "candidates": n,
        "within": mean([spread(one) for one in within]),
        "between": mean(_between(by_place, pool)) if groups >= n * each else None,
        "kinds": mean([float(count) for count in kinds]),
        "identical": sum(_equal_pairs(paths[g * n : (g + 1) * n]) for g in range(groups)),
        "mixed": mean([float(0 < sum(of) < n) for of in values]),
        "mean": mean([sum(of) / n for of in values]),
        "any": mean([max(of) for of in values]),
    }  # fmt: skip


def _between(by_place: Tensor, pool: Pool) -> list[float]:
    """d of n pictures of n different prompts: candidate i of the i-th prompt further on."""
    each = pool.samples // pool.n
    shifted = torch.stack([by_place.roll(-i * each, 0)[:, i] for i in range(pool.n)], dim=1)
    return [spread(one) for one in torch.cdist(shifted, shifted)]


def _equal_pairs(paths: Sequence[Path]) -> int:
    """Pairs of files with the same bytes."""
    return sum(comb(count, 2) for count in Counter(map(sha256_file, paths)).values())
