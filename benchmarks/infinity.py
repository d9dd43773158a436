"""One 1024 x 1024 picture of Infinity-2B: the official loop and ours, side by side.

    python benchmarks/infinity.py --device cuda --tts-var 2        # about four minutes, with both
    python benchmarks/infinity.py --size tiny --uncompiled         # a smoke run

Ways: the loop of `official_infinity.py` (its residual stream in float32, as ours; in bfloat16;
with the release's collections of garbage), ours as it comes, with graphs, compiled, and compiled
with graphs. All encode the prompt, draw and decode; all have the same random weights and the same
uniform numbers. A line of JSON each: seconds (median), the first and second call, peak memory,
share of the roofline. Then how many bits differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from infinity_bits import check_float32, differing, uniforms
from infinity_parts import PROMPT, Timed, add_common, build, floor, header, report, say
from official_infinity import OfficialLoop
from tts_var import TtsVar

from impasto.models.infinity import InfinityGenerator
from impasto.sample.protocol import Request, generate


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1, help="pictures at once, of one prompt")
    parser.add_argument("--check-scales", type=int, default=9,
                        help="scales of the comparison in float32; 0 leaves it out")  # fmt: skip
    parser.add_argument("--released", action="store_true",
                        help="also time the loop with the release's collections of garbage")
    parser.add_argument("--tts-var", type=int, metavar="N",
                        help="then benchmarks/tts_var.py for this N, on the same networks")
    add_common(parser)
    return parser.parse_args()


class OnePicture:
    """Ways to a picture: `plain` ones, and ours after `compile()`, which changes the networks."""

    def __init__(self, generator: InfinityGenerator, chosen: argparse.Namespace) -> None:
        self.generator, self.chosen, self.device = generator, chosen, chosen.device
        self.seeds = list(range(1, chosen.batch + 1))
        self.length = generator.encode_text(PROMPT).shape[1]
        rows = [chosen.batch] * generator.defaults.scales
        self.least = floor(generator, rows, chosen.batch, self.length)
        self.loop = OfficialLoop(generator, uniforms(self.device))
        self.base: float | None = None

    def report(self, way: str, run: Callable[[], Any], repeats: int | None = None) -> Timed | None:
        return report(way, run, self.chosen, self.least, base=self.base, repeats=repeats)

    def ours(self, way: str) -> None:
        requests = [Request.of(PROMPT)] * len(self.seeds)
        if self.report(way, lambda: generate(self.generator, requests, self.seeds)[0]):
            say(bits_of=way, **differing(self.generator, PROMPT, self.seeds, self.kept))

    def plain(self) -> None:
        header(self.generator, self.chosen.size, self.device, self.least, batch=len(self.seeds))
        if self.chosen.check_scales:
            scales = min(self.chosen.check_scales, self.generator.defaults.scales)
            check_float32(self.generator, PROMPT, scales, self.device)
        official = self.report("official-style loop", lambda: self.loop.draw(PROMPT, self.seeds))
        self.base = official.seconds if official else None
        if self.device.startswith("cuda"):
            half = OfficialLoop(self.generator, self.loop.uniforms, stream=torch.bfloat16)
            self.report("official-style loop, bfloat16 stream",
                        lambda: half.draw(PROMPT, self.seeds))  # fmt: skip
        if self.chosen.released:
            slow = OfficialLoop(self.generator, self.loop.uniforms, released=True)
            self.report("official-style loop, as released",
                        lambda: slow.draw(PROMPT, self.seeds), 1)  # fmt: skip
        self.kept = self.loop.draw(PROMPT, self.seeds, keep=True)
        self.ours("ours")
        if self.device.startswith("cuda"):
            self.generator.use_graphs()
            self.ours("ours, with graphs")
            self.generator.use_graphs(False)

    def compiled(self) -> None:
        self.generator.compile().use_graphs(False)
        self.ours("ours, compiled")
        if self.device.startswith("cuda"):
            self.generator.use_graphs()
            self.ours("ours, compiled with graphs")


@torch.inference_mode()
def main() -> None:
    chosen = options()
    dtype = torch.bfloat16 if chosen.device.startswith("cuda") else torch.float32
    generator = build(chosen.size, chosen.device, dtype)
    stages: list[Any] = [OnePicture(generator, chosen)]
    if chosen.tts_var:
        stages.append(TtsVar(generator, chosen, chosen.tts_var))
    for stage in stages:
        stage.plain()
    for stage in [] if chosen.uncompiled else stages:
        stage.compiled()


if __name__ == "__main__":
    main()
