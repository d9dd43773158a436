"""What an autoencoder leaves of the truth: verdicts on true scenes before and after it.

    python benchmarks/reconstruction.py MODEL_FOLDER --scenes 2000

Decides what a generator on these latents can reach: below 0.98, train the autoencoder first.
"""

from __future__ import annotations

import argparse
import json

import torch

from impasto.images import quantise
from impasto.models import load_generator
from impasto.score.check import task_scene, wilson
from impasto.world import Renderer, Sprites
from impasto.world.tasks import GENEVAL_TASKS
from impasto.zoo.registry import SCORERS

BATCH = 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    import impasto.score  # noqa: F401  (registers the scorers)

    pipe = load_generator(options.model, device=options.device)
    scorer = SCORERS.create("sticker", device=options.device)
    scorer.self_test()
    sprites = Sprites.load()
    draw = Renderer(sprites, options.device)
    kept: dict[str, list[tuple[bool, bool]]] = {task: [] for task in GENEVAL_TASKS}
    errors = []
    for start in range(0, options.scenes, BATCH):
        end = min(start + BATCH, options.scenes)
        scenes = [task_scene(i, options.seed, sprites)[0] for i in range(start, end)]
        images = draw(scenes).images
        with torch.inference_mode():
            again = quantise(pipe.decode(pipe.encode(images)))
        errors.append((again - images).square().mean((1, 2, 3)).cpu())
        specs = [scene.spec for scene in scenes]
        verdicts = zip(specs, scorer.score(images, specs), scorer.score(again, specs), strict=True)
        for spec, before, after in verdicts:
            kept[spec.tag].append((bool(before.correct), bool(after.correct)))
    rows = {task: [b for a, b in pairs if a] for task, pairs in kept.items()}
    everything = [b for row in rows.values() for b in row]
    psnr = float((-10 * torch.cat(errors).log10()).mean())
    print(json.dumps({
        "model": options.model, "scenes": options.scenes, "psnr": round(psnr, 2),
        "kept": {task: round(sum(row) / len(row), 4) for task, row in rows.items()},
        "overall": round(sum(everything) / len(everything), 4),
        "interval": [round(v, 4) for v in wilson(sum(everything), len(everything))],
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
