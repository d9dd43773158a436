"""GenEval's prompts drawn by the world itself, in GenEval's layout: what a perfect model gets.

    python benchmarks/truth.py --out truth                what the prompts say
    python benchmarks/truth.py --out altered --altered    the same with one fact altered in each
    impasto eval geneval --images truth --out runs/truth
    impasto eval geneval --images altered --out runs/altered
    impasto compare runs/altered runs/truth
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from impasto.bench import geneval
from impasto.bench.layout import picture_name, write_metadata
from impasto.images import write_png
from impasto.world import Renderer, Sprites, alter, compose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--altered", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bench, sprites = geneval(), Sprites.load()
    draw = Renderer(sprites)
    for i, spec in enumerate(bench.specs):
        scenes = []
        for sample in range(bench.samples_per_prompt):
            rng = np.random.default_rng([options.seed, i, sample])
            scene = compose(spec, rng, sprites)
            scenes.append(alter(scene, rng, sprites)[0] if options.altered else scene)
        write_metadata(options.out, i, spec)
        for sample, image in enumerate(draw(scenes).images):
            write_png(options.out / picture_name(i, sample), image)


if __name__ == "__main__":
    main()
