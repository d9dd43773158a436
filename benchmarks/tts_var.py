"""TTS-VAR's way through Infinity-2B at 1024 x 1024: the official loop and ours, side by side.

    python benchmarks/tts_var.py --device cuda --n 2               # about two minutes
    python benchmarks/tts_var.py --size tiny --n 1 --uncompiled    # a smoke run

Rows forwarded at the 13 scales are N times 8 8 8 6 6 6 4 2 2 2 1 1 1: after scales 2 and 5
candidates are thinned by their features, after 6 and 9 drawn anew by their rewards. Which rows go
on is given here, the same for all ways, so networks of features and rewards are left out on both
sides: what is timed is text, transformer, caches and decoding. The loop decodes all rows after all
scales (56 N pictures), ours those that a selection would look at and the last (21 N).
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Mapping
from dataclasses import replace

import torch
from infinity_bits import begin, recorded, uniforms
from infinity_parts import PROMPT, add_common, build, floor, header, report, say
from official_infinity import OfficialLoop, Selection

from impasto.models.infinity import InfinityGenerator

ROWS = {13: (8, 8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1), 7: (8, 8, 6, 6, 4, 2, 1)}
"""Scales -> rows forwarded at each, for N = 1."""
DISTINCT = {13: (2, 5), 7: (1, 3)}
"""Selections by clusters, without repetition; the others may repeat a row."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=2)
    add_common(parser)
    return parser.parse_args()


def selections(rows: list[int], distinct: tuple[int, ...]) -> dict[int, Selection]:
    """After which scale which rows go on, and by which seeds: given, from a fixed seed."""
    rng, seeds, chosen = random.Random(0), list(range(rows[0])), {}
    for k, (before, after) in enumerate(itertools.pairwise(rows)):
        if after < before:
            at = (rng.sample(range(before), after) if k in distinct
                  else rng.choices(range(before), k=after))  # fmt: skip
            # The first of a row's twins keeps its seed.
            seeds = [seeds[i] if i not in at[:j] else 1000 * (k + 1) + j
                     for j, i in enumerate(at)]  # fmt: skip
            chosen[k] = Selection(tuple(at), tuple(seeds))
    return chosen


@torch.inference_mode()
def ours(
    generator: InfinityGenerator, seeds: list[int], chosen: Mapping[int, Selection]
) -> torch.Tensor:
    """The protocol, with pictures where a selection needs them."""
    state = begin(generator, PROMPT, seeds)
    while not state.done:
        state = generator.advance(state)
        if state.step - 1 in chosen:
            generator.preview(state)
            at = chosen[state.step - 1]
            state = replace(generator.select(state, at.rows), seeds=at.seeds)
    return generator.finish(state)


class TtsVar:
    """As `infinity.OnePicture`, for N pictures out of 8 N candidates."""

    def __init__(self, generator: InfinityGenerator, chosen: argparse.Namespace, n: int) -> None:
        self.generator, self.chosen, self.device, self.n = generator, chosen, chosen.device, n
        scales = generator.defaults.scales
        self.rows = [n * count for count in ROWS[scales]]
        self.plan = selections(self.rows, DISTINCT[scales])
        self.seeds = list(range(self.rows[0]))
        self.decodes = sum(self.rows[k] for k in self.plan) + self.rows[-1]
        length = generator.encode_text(PROMPT).shape[1]
        self.least = floor(generator, self.rows, self.decodes, length)
        self.loop = OfficialLoop(generator, uniforms(self.device))
        self.base: float | None = None

    def official(self) -> None:
        self.loop.draw(PROMPT, self.seeds, selections=self.plan, every_scale=True)

    def ours(self, way: str, repeats: int | None = None) -> None:
        def run() -> torch.Tensor:
            return ours(self.generator, self.seeds, self.plan)

        if report(way, run, self.chosen, self.least, base=self.base, repeats=repeats):
            with recorded(self.generator) as bits:
                run()
            counts = [int((a != b).sum()) for a, b in zip(bits, self.kept.bits, strict=True)]
            say(bits_of=way, bits=sum(b.numel() for b in bits), alone=sum(counts),
                by_scale=counts)  # fmt: skip

    def plain(self) -> None:
        header(self.generator, self.chosen.size, self.device, self.least, n=self.n, rows=self.rows,
               decodes=self.decodes, official_decodes=sum(self.rows) + self.rows[-1])  # fmt: skip
        self.kept = self.loop.draw(PROMPT, self.seeds, selections=self.plan, keep=True)
        done = report("tts-var: official-style loop", self.official, self.chosen, self.least,
                      repeats=1)  # fmt: skip
        self.base = done.seconds if done else None
        self.ours("tts-var: ours", repeats=1)

    def compiled(self) -> None:
        self.generator.compile()
        if self.device.startswith("cuda"):
            self.generator.use_graphs()
        self.ours("tts-var: ours, compiled")


@torch.inference_mode()
def main() -> None:
    chosen = options()
    dtype = torch.bfloat16 if chosen.device.startswith("cuda") else torch.float32
    bench = TtsVar(build(chosen.size, chosen.device, dtype), chosen, chosen.n)
    bench.plain()
    if not chosen.uncompiled:
        bench.compiled()


if __name__ == "__main__":
    main()
