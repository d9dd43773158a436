"""How local attention is: the share of its mass within a band (arXiv 2506.05340, section 4.2).

    L_k = (1 / N) sum_ij A_ij [ |i - j| <= k ]

for an attention map A (N, N) whose rows sum to 1, averaged over heads, pictures and times. Tokens
are those of the picture, row by row; where an attention sees text too, A is what it gives to
tokens of the picture, per row made to sum to 1. SANA's linear attention has the map
relu(q_i) relu(k_j) / sum_j relu(q_i) relu(k_j). The same attention everywhere has
`uniform_locality`: 0.23779 for N = 256, k = 32.

Queries and keys are those of the pass itself, caught where the softmax is computed, so norms and
rotations are in them. Edited attentions are not measured: operators have no map.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from impasto.models.edited.grafts import is_edited, tokens_of
from impasto.models.edited.hosts import Host, host_of
from impasto.surgery.noised import cache_noiseless, noised_latents
from impasto.train.data import cache_scenes, world_scenes
from impasto.world import Renderer, Sprites

__all__ = ["band_mass", "generator_locality", "locality", "uniform_locality"]

ROWS = 256
"""Queries of a map at once."""


def uniform_locality(tokens: int, band: int) -> float:
    """L_k of A_ij = 1 / N."""
    k = min(band, tokens - 1)
    return (tokens * (2 * k + 1) - k * (k + 1)) / tokens**2


def band_mass(
    q: Tensor, k: Tensor, band: int, *, scale: float | None = None, linear: bool = False
) -> float:
    """L_k of the map of queries and keys (B, H, N, d), averaged over B and H.

    scale: of the products, None for d^-1/2. linear: of SANA's kind, without softmax.
    """
    n, total = q.shape[2], q.new_zeros((), dtype=torch.float64)
    j = torch.arange(n, device=q.device)
    for at in range(0, n, ROWS):
        scores = q[:, :, at : at + ROWS].float() @ k.float().mT
        if linear:
            a = scores / scores.sum(-1, keepdim=True)
        else:
            a = (scores * (q.shape[-1] ** -0.5 if scale is None else scale)).softmax(-1)
        near = (j[at : at + ROWS, None] - j).abs() <= band
        total += (a * near).sum(dtype=torch.float64)
    return total.item() / (n * q.shape[0] * q.shape[1])


@dataclass
class _Watch(TorchFunctionMode):
    """Sees every softmax attention that happens within a block's self-attention."""

    host: Host
    band: int
    tokens: int = 0
    block: int | None = None
    found: dict[int, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.block is not None:
            if kwargs.get("attn_mask") is not None:
                raise ValueError("a masked self-attention has no map that can be compared; call "
                                 "the host without masks")  # fmt: skip
            q, k = args[:2] if args else (kwargs["query"], kwargs["key"])
            self._see(q, k, scale=kwargs.get("scale"))
        return func(*args, **kwargs)

    def _see(self, q: Tensor, k: Tensor, **how: Any) -> None:
        assert self.block is not None
        first = self.host.kind(self.block) in ("image", "joint")
        part = slice(0, self.tokens) if first else slice(-self.tokens, None)
        mass = band_mass(q[:, :, part], k[:, :, part], self.band, **how)
        self.found.setdefault(self.block, []).append(mass)

    def linear(self, attention: Any, x: Tensor) -> None:
        q, k = attention.to_q(x), attention.to_k(x)
        if attention.norm_q is not None:
            q, k = attention.norm_q(q), attention.norm_k(k)
        q, k = (F.relu(a.unflatten(-1, (attention.heads, -1)).transpose(1, 2)) for a in (q, k))
        self._see(q, k, linear=True)


def _attention(host: Host, i: int) -> Any:
    return getattr(host.block(i), host.operator(i, "attention").rpartition(".")[2], None)


def _without_map(host: Host) -> list[int]:
    """Blocks that have no attention of the host's."""
    return [i for i in range(host.depth) if _attention(host, i) is None
            or is_edited(host.block(i)) or is_edited(_attention(host, i))]  # fmt: skip


def _refuse(blocks: list[int]) -> None:
    if blocks:
        raise ValueError(f"blocks {blocks} had no attention to measure: give passes, and a host "
                         f"that was not grafted there")  # fmt: skip


@contextlib.contextmanager
def _watched(host: Host, band: int) -> Iterator[_Watch]:
    watch, handles = _Watch(host, band), []

    def in_block(_: nn.Module, args: Any, kwargs: Any) -> None:
        watch.tokens = (args[0] if args else kwargs["hidden_states"]).shape[1]

    def enter(i: int) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            watch.block = i
            if "Linear" in type(getattr(module, "processor", None)).__name__:
                watch.linear(module, args[0] if args else kwargs["hidden_states"])

        return hook

    def leave(*_: Any) -> None:
        watch.block = None

    edited = _without_map(host)
    for i, block in enumerate(host.blocks):
        if i in edited:
            continue
        attention = _attention(host, i)
        handles += [block.register_forward_pre_hook(in_block, with_kwargs=True),
                    attention.register_forward_pre_hook(enter(i), with_kwargs=True),
                    attention.register_forward_hook(leave)]  # fmt: skip
    try:
        with watch:
            yield watch
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def locality(
    model: nn.Module, passes: Iterable[Mapping[str, Any]], *, band: int = 32
) -> list[float]:
    """L_k of every block's self-attention, averaged over passes.

    model: any host. passes: arguments of its calls, on noised latents at
    several times; of equal size, as all count alike. band: k, in tokens. Raises ValueError where
    there is no pass or where a block has no attention.
    """
    host = host_of(model)
    with _watched(host, band) as watch:
        for arguments in passes:
            model(**arguments)
    _refuse([i for i in range(host.depth) if i not in watch.found])
    return [sum(masses) / len(masses) for _, masses in sorted(watch.found.items())]


@torch.no_grad()
def generator_locality(
    pipe: Any, *, pictures: int = 64, band: int | None = None, seed: int = 0, batch: int = 16,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple[list[float], int]:
    """L_k of every block of a generator's transformer, and k; on noised pictures of the world with
    their captions or classes, each at a time of its own.

    pipe: of the families mmdit and dit. band: k; None for an eighth of the tokens, as published
    (32 of 256). seed: of scenes, times and noise. Raises ValueError for another family, or numbers
    that are too small.
    """
    if not isinstance(getattr(pipe, "transformer", None), nn.Module):
        raise ValueError(f"a {type(pipe).__name__} has no transformer whose attention is local or "
                         f"not; give a generator of the family mmdit or dit")  # fmt: skip
    eighth = (tokens_of(host_of(pipe.transformer)) or 0) // 8
    k = max(1, eighth) if band is None else band
    if pictures < 1 or k < 1:
        raise ValueError(f"at least 1 picture and a band of 1 token are needed, given {pictures} "
                         f"and {k}")  # fmt: skip
    _refuse(_without_map(host_of(pipe.transformer)))
    where, sprites = next(pipe.transformer.parameters()).device, Sprites.load()
    scenes = list(world_scenes(pictures, seed, None, sprites))
    drawn = cache_scenes(scenes, where, Renderer(sprites, where))
    captions = [(scene.spec.prompt, scene.caption) for scene in scenes]
    cache, batch = cache_noiseless(pipe, drawn, captions), min(batch, pictures)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        draw = noised_latents(pipe, cache, batch, drop=0.0)
        passes = [draw().given for _ in range(-(-pictures // batch))]

    def told() -> Iterator[Mapping[str, Any]]:
        for done, arguments in enumerate(passes):
            progress("attention", done * batch, len(passes) * batch)
            yield arguments
        progress("attention", len(passes) * batch, len(passes) * batch)

    return locality(pipe.transformer, told(), band=k), k
