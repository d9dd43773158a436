"""How many scenes a second: laying out (processor) and rendering (any device).

    python benchmarks/render.py --device cuda
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

from impasto.world import Renderer, Sprites, compose, pack, sample_spec

SCENES, SEED = 512, 7


def seconds(device: str, draw: Renderer, packed: object, repeats: int) -> list[float]:
    """Wall seconds of each repeat, after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        draw(packed)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    sprites = Sprites.load()
    start = time.perf_counter()
    scenes = []
    for i in range(SCENES):
        rng = np.random.default_rng([SEED, i])
        scenes.append(compose(sample_spec(rng, sprites.classes), rng, sprites))
    laid_out = time.perf_counter() - start
    packed = pack(scenes[: options.batch])
    times = seconds(options.device, Renderer(sprites, options.device), packed, options.repeats)
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    print(json.dumps({
        "device": name, "threads": torch.get_num_threads(), "batch": options.batch,
        "laid_out_per_s": round(SCENES / laid_out), "rendered_per_s":
        {"min": round(options.batch / max(times)), "max": round(options.batch / min(times))},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
