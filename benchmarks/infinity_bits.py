"""Bits of ours beside the official loop's: by the same numbers, how many differ, and how far from
turning round they were."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from infinity_parts import say
from official_infinity import Drawn, OfficialLoop
from torch import Tensor, nn

from impasto.models.infinity import InfinityGenerator
from impasto.models.next_scale.state import ScaleState, scale_seed
from impasto.sample.protocol import Request, Sampling
from impasto.sample.seeds import row_uniforms


@functools.lru_cache(maxsize=256)
def _numbers(seeds: tuple[int, ...], scale: int, n: int, device: str) -> Tensor:
    return row_uniforms([scale_seed(seed, scale) for seed in seeds], n, device)


def uniforms(device: str) -> Callable[[Sequence[int], int, int], Tensor]:
    """The numbers that ours draws; kept, so that the loop's timed runs have them for nothing."""
    return lambda seeds, scale, n: _numbers(tuple(seeds), scale, n, device)


@contextlib.contextmanager
def recorded(generator: InfinityGenerator) -> Iterator[list[Tensor]]:
    """Bits of every scale that is drawn in the block."""
    bits: list[Tensor] = []
    plain = generator.vae.add_codes

    def add_codes(f_hat: Tensor, own: Tensor, size: Any) -> Tensor:
        bits.append(own)
        return plain(f_hat, own, size)

    generator.vae.add_codes = add_codes  # type: ignore[method-assign]
    try:
        yield bits
    finally:
        del generator.vae.add_codes


def begin(generator: InfinityGenerator, prompt: str, seeds: Sequence[int]) -> ScaleState:
    return generator.start([Request.of(prompt)] * len(seeds), seeds, Sampling())


@contextlib.contextmanager
def told_text(generator: InfinityGenerator, states: Tensor) -> Iterator[None]:
    """Any prompt's states are these (L, D) in the block."""
    generator.encode_text = lambda prompt: states[None]  # type: ignore[method-assign]
    try:
        yield
    finally:
        del generator.encode_text


def differing(generator: InfinityGenerator, prompt: str, seeds: Sequence[int], official: Drawn
              ) -> dict[str, Any]:  # fmt: skip
    """Bits that differ from the loop's: left alone; told the loop's states of the text; told, at
    each scale, the loop's sums before, so that one bit does not pull others after it.

    farthest: the largest of `Drawn.margins` where a bit differs.
    """
    assert official.text is not None
    told: dict[str, Any] = {"bits": sum(bits.numel() for bits in official.bits)}
    for name in ("alone", "same text", "same past"):
        with (told_text(generator, official.text) if name == "same text"
              else contextlib.nullcontext()):  # fmt: skip
            state = begin(generator, prompt, seeds)
        with recorded(generator) as bits:
            for k in range(state.steps):
                if name == "same past" and k:
                    state = replace(state, f_hat=official.sums[k - 1].clone())
                state = generator.advance(state)
        told[name] = _compared(bits, official)
    return told


def _compared(bits: Sequence[Tensor], official: Drawn) -> dict[str, Any]:
    other = [a != b for a, b in zip(bits, official.bits, strict=True)]
    counts = [int(x.sum()) for x in other]
    margins = torch.cat([m[x] for m, x in zip(official.margins, other, strict=True)])
    return {"differ": sum(counts), "share": round(sum(counts) / sum(x.numel() for x in other), 6),
            "farthest": float(margins.max()) if len(margins) else None,
            "by_scale": counts}  # fmt: skip


def check_float32(generator: InfinityGenerator, prompt: str, scales: int, device: str) -> None:
    """The loop and ours in float32, uncompiled, over the first scales. Says how many bits differ.
    The networks are float32 meanwhile."""
    before = generator.dtype
    for network in generator.networks.values():
        nn.Module.to(network, torch.float32)
    small = InfinityGenerator(**generator.components,
                              defaults=replace(generator.defaults, scales=scales))  # fmt: skip
    loop = OfficialLoop(small, uniforms(device))
    official = loop.draw(prompt, [1], keep=True)
    ones = [round(bits.float().mean().item(), 3) for bits in official.bits]
    say(check="float32", scales=scales, ones_by_scale=ones,
        **differing(small, prompt, [1], official))  # fmt: skip
    for network in generator.networks.values():
        nn.Module.to(network, before)
