"""Which blocks do little, seen from the image tokens h_0 ... h_B between them; h_i enters block i.

    KOALA   (arXiv 2312.04005)   the mean over tokens of cos(h_i, h_i+1), a block
    PPCL    (arXiv 2511.16156)   intervals of blocks that one can stand in for. A linear probe is
            fitted from h_s to h_e; how well it does is
                CKA(s, e) = |Y'Z|^2 / (|Y'Y| |Z'Z|)
            of its predictions Z and the tokens Y = h_e that it was not fitted to, both centred.
            Blocks s ... e - 1 are redundant as long as no further block costs much:
                CKA(s, t - 1) - CKA(s, t) <= tau    for every t from s + 1 to e, with CKA(s, s) = 1

Of an interval the first block stays, to be trained on what enters and leaves the interval in the
whole model (`regression.py`), and the others go. PPCL's own probes are trained by gradient and its
tau is not known: here they are ridge regressions in closed form, and tau is as small as the budget
allows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from impasto.models.edited.hosts import Host
from impasto.surgery.choose import Plan
from impasto.surgery.contribution import read_contributions

__all__ = ["Interval", "intervals", "probe_cka", "probes_of", "similarities", "tokens"]

Run = Callable[[], Any]
"""Runs the host on as many pictures, times and texts as are to be looked at."""


@contextlib.contextmanager
def _watching(host: Host, see: Callable[[int, Tensor, Tensor], None]) -> Iterator[None]:
    """`see` gets (block, image tokens before, after), each (B, N, D), at every call of a block."""
    def hook(i: int) -> Callable[..., None]:
        def leave(_: Any, args: Any, kwargs: Any, output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output if isinstance(output, Tensor) else output[1]
            if not bool(torch.isfinite(after).all()):
                raise ValueError(f"block {i} gives NaN or infinity; nothing can be chosen by that")
            see(i, before, after)

        return leave

    handles = [block.register_forward_hook(hook(i), with_kwargs=True)
               for i, block in enumerate(host.blocks)]  # fmt: skip
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def similarities(host: Host, run: Run) -> list[float]:
    """Mean cosine of every block's input and output tokens. Raises ValueError for activations that
    are not finite, or a run that does not call the model."""
    sums, counts = [0.0] * host.depth, [0] * host.depth

    def see(i: int, before: Tensor, after: Tensor) -> None:
        cosine = torch.cosine_similarity(before.float(), after.float(), dim=-1)
        sums[i] += cosine.sum().item()
        counts[i] += cosine.numel()

    with _watching(host, see):
        run()
    if not all(counts):
        raise ValueError(f"block {counts.index(0)} was not called; let run call the model")
    return [total / count for total, count in zip(sums, counts, strict=True)]


@torch.no_grad()
def tokens(host: Host, run: Run, per_call: int = 256, seed: int = 0) -> list[Tensor]:
    """h_0 ... h_B, each (n, D) float32 on the CPU: the same `per_call` tokens of every call of the
    model between all blocks. Raises ValueError as `similarities`."""
    rng = torch.Generator().manual_seed(seed)
    kept: list[list[Tensor]] = [[] for _ in range(host.depth + 1)]
    at = torch.empty(0, dtype=torch.long)

    def see(i: int, before: Tensor, after: Tensor) -> None:
        nonlocal at
        if i == 0:
            at = torch.randperm(before.shape[0] * before.shape[1], generator=rng)[:per_call]
            kept[0].append(before.flatten(0, 1)[at.to(before.device)].float().cpu())
        kept[i + 1].append(after.flatten(0, 1)[at.to(after.device)].float().cpu())

    with _watching(host, see):
        run()
    if not kept[-1]:
        raise ValueError("the blocks were not called; let run call the model")
    return [torch.cat(parts) for parts in kept]


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(0)


def probe_cka(h: list[Tensor], ridge: float = 1e-3) -> Tensor:
    """CKA(s, e) for s <= e, (B + 1, B + 1) float64, NaN below the diagonal; the odd tokens are
    predicted by probes fitted to the even ones.

    h: of `tokens`. ridge: added to the inputs' covariance, a share of its mean diagonal. Raises
    ValueError for fewer than 4 tokens.
    """
    if len(h[0]) < 4:
        raise ValueError(f"a probe needs at least 4 tokens, given {len(h[0])}")
    found = torch.full((len(h), len(h)), torch.nan, dtype=torch.float64)
    for s, source in enumerate(h):
        found[s, s] = 1
        x, z = source[0::2].double(), source[1::2].double()
        mean, x = x.mean(0), _centred(x)
        covariance = x.T @ x
        scale = ridge * covariance.diagonal().mean().clamp(min=1e-12)
        factor = torch.linalg.cholesky(covariance + scale * torch.eye(x.shape[1]).double())
        for e in range(s + 1, len(h)):
            y = h[e][0::2].double()
            weight = torch.cholesky_solve(x.T @ _centred(y), factor)
            found[s, e] = _cka((z - mean) @ weight, h[e][1::2].double())
    return found


def _cka(a: Tensor, b: Tensor) -> Tensor:
    """Linear CKA (Kornblith et al. 2019, arXiv 1905.00414, eq. 3) of (n, D) and (n, E)."""
    a, b = _centred(a), _centred(b)
    norms = torch.linalg.norm(a.T @ a) * torch.linalg.norm(b.T @ b)
    return torch.linalg.norm(a.T @ b) ** 2 / norms.clamp(min=1e-300)


def probes_of(path: str, depth: int) -> Tensor:
    """The CKA of `probe_cka` that a file of scores holds. Raises ValueError for a file without, or
    of another number of blocks."""
    cka = read_contributions(path).measured.get("cka")
    if cka is None:
        raise ValueError(f"{path} has no probes; measure them by a step contributions with "
                         f"by: probes")  # fmt: skip
    if len(cka) != depth + 1:
        raise ValueError(f"{path} has probes of {len(cka) - 1} blocks, and here are {depth}; they "
                         f"are another model's")  # fmt: skip
    return torch.tensor([[torch.nan if value is None else value for value in row] for row in cka],
                        dtype=torch.float64, device="cpu")  # fmt: skip


class Interval(NamedTuple):
    """Blocks first ... end - 1, of which `first` stays."""

    first: int
    end: int


def intervals(host: Host, cka: Tensor, budget: float) -> tuple[list[Interval], Plan]:
    """Disjoint intervals whose removal leaves less than `budget` of the parameters, with the
    smallest tau that does, longest first; and what is removed.

    Blocks of one interval are of one kind. Raises ValueError for a budget outside (0, 1), or one
    that even a single block of each kind does not meet.
    """
    if not 0 < budget < 1:
        raise ValueError(f"budget must be between 0 and 1, given {budget!r}")
    costs = {(s, e): float(cka[s, e - 1] - cka[s, e])
             for s in range(host.depth) for e in range(s + 1, host.depth + 1)}  # fmt: skip
    chosen, plan = list[Interval](), Plan.of(host, {})
    for tau in sorted(set(costs.values())):
        chosen, plan = _at(host, cka, costs, tau, budget)
        if plan.share < budget:
            return sorted(chosen), plan
    raise ValueError(f"with one block of each kind in a row {plan.share:.2%} of the parameters "
                     f"are left, and the budget is less than {budget:.2%}")  # fmt: skip


def _at(
    host: Host, cka: Tensor, costs: dict[tuple[int, int], float], tau: float, budget: float
) -> tuple[list[Interval], Plan]:
    """The longest intervals at one tau (of equals that of the highest CKA) until the budget is
    met; the last is no longer than it must be."""
    reach: dict[int, int] = {}
    for s in range(host.depth):
        e = s
        while e < host.depth and host.kind(e) == host.kind(s) and costs[s, e + 1] <= tau:
            e += 1
        reach[s] = e
    chosen, removed = list[Interval](), dict[int, tuple[str, ...]]()
    while (plan := Plan.of(host, removed)).share >= budget:
        taken = {i for first, end in chosen for i in range(first, end)}
        free = [Interval(s, next((i for i in range(s, e) if i in taken), e))
                for s, e in reach.items() if s not in taken]  # fmt: skip
        best = max(free, key=lambda it: (it.end - it.first, float(cka[it.first, it.end])),
                   default=Interval(0, 0))  # fmt: skip
        if best.end - best.first < 2:
            break
        for i in range(best.first + 1, best.end):
            removed[i] = ("all",)
            if Plan.of(host, removed).share < budget:
                break
        chosen.append(Interval(best.first, i + 1))
    return chosen, plan
