"""What a step of Layton's small trainings costs as it is and compiled; in one run.

    python benchmarks/training.py --device cuda --compile               # some 10 minutes
    python benchmarks/training.py --preset tiny --batches 2 --steps 2   # a smoke run

Random weights, pictures and ids, which change no cost. A line a training: the first step by
itself, in which it is compiled, then milliseconds a step over `--steps` of them, waited for at
both ends alone, as in a training.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from diffusers.models import UNet2DConditionModel

from impasto.models.layton import GENERATORS, TOKENIZERS, LaytonGenerator, LaytonTokenizer
from impasto.models.mmdit import PRESETS, train_tokenizer
from impasto.models.vq import PRESETS as FRONTS
from impasto.models.vq import VQTokenizer
from impasto.train import layton as trainings
from impasto.train.codebooks import train_vq
from impasto.train.data import PictureCache
from impasto.train.layton_gen import IdCache, train_ids
from impasto.train.loop import Loop
from impasto.train.tokenizers import Objective

WARM, PICTURES = 4, 1000
KINDS = ("front", "base", "accelerator", "alignment", "pixels", "two steps", "ids")
NEAR = "sticker-detector"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", choices=("sticker", "tiny"), default="sticker")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--steps", type=int, default=20, help="timed steps, behind the first few")
    parser.add_argument("--compile", action="store_true", help="compiled too: minutes more")
    return parser.parse_args()


class Enough(Exception):
    """So many steps are made."""


@contextmanager
def marked(steps: int, device: torch.device) -> Iterator[list[float]]:
    """When every step was issued; the first few, and the last, when they were done."""
    marks, update = [time.perf_counter()], Loop.update

    def marking(loop: Loop, *arguments: Any) -> None:
        update(loop, *arguments)
        if device.type == "cuda" and (len(marks) <= WARM or len(marks) == WARM + steps):
            torch.cuda.synchronize(device)
        marks.append(time.perf_counter())
        if len(marks) > WARM + steps:
            raise Enough

    Loop.update = marking  # type: ignore[method-assign]
    try:
        yield marks
    except Enough:
        pass
    finally:
        Loop.update = update  # type: ignore[method-assign]


def trained(preset: str, device: torch.device) -> Mapping[str, Callable[..., Any]]:
    """Each training, still to be told a batch."""
    config, vae = TOKENIZERS[preset](), PRESETS[preset]().build_vae()
    made: Any = LaytonTokenizer.assemble(
        config, vq=VQTokenizer(**asdict(FRONTS[preset]())), vae=vae,
        unet=UNet2DConditionModel(**config.unet)).to(device)  # fmt: skip
    base = UNet2DConditionModel(**config.unet).to(device)
    with torch.no_grad():
        for parameter in made.decoder.controlnet.parameters():
            if not parameter.any():  # zero convolutions would have no gradient behind them
                parameter.normal_(std=0.01)
    side, sides, shape = made.image, config.sides, made.latent_size(made.image, made.image)
    images = torch.randint(256, (PICTURES, 3, side, side), dtype=torch.uint8, device=device)
    none = torch.zeros(PICTURES, 1, dtype=torch.long, device=device)
    cache = PictureCache(images, images[:, 0], none, none)
    latents = torch.randn(PICTURES, vae.config["latent_channels"], *shape, device=device)
    ids = {own: torch.randint(made.vocabulary, (PICTURES, (own // made.vq.factor) ** 2),
                              device=device) for own in sides}  # fmt: skip
    words = train_tokenizer(["a photo of a red dog and two blue cups"] * 8,
                            max_tokens=GENERATORS[preset]().transformer.text)  # fmt: skip
    drawing = LaytonGenerator.from_config(GENERATORS[preset](), made, words).to(device)
    texts = torch.randint(1, len(words), (2, PICTURES, words.model_max_length), device=device)
    pixels = {name: trainings.PixelObjective(steps=steps, perceptual=NEAR, l1=1.0)
              for name, steps in (("pixels", 1), ("two steps", 2))}  # fmt: skip
    front = VQTokenizer(**asdict(FRONTS[preset]())).to(device)
    near = None if any(own % 16 for own in sides) else NEAR  # it reads multiples of 16
    return {
        "front": partial(train_vq, front, cache, sides=sides,
                         objective=Objective(perceptual=near)),
        "base": partial(trainings.train_base, base, latents, image=side),
        "accelerator": partial(trainings.train_accelerator, made, latents),
        "alignment": partial(trainings.train_alignment, made, latents, ids),
        **{name: partial(trainings.train_pixels, made, cache, ids, objective)
           for name, objective in pixels.items()},
        "ids": partial(train_ids, drawing, IdCache(ids[made.tokens_side], texts)),
    }  # fmt: skip


def main() -> None:
    chosen = options()
    device = torch.device(chosen.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a processor"
    print(f"{name}, torch {torch.__version__}, {chosen.preset}")
    print("training batch compiled first_s ms_a_step")
    for kind in chosen.kinds:
        # The accelerator's three states of one network are never compiled.
        ways = (False, True) if chosen.compile and kind != "accelerator" else (False,)
        for batch in chosen.batches:
            for compiled in ways:
                train = trained(chosen.preset, device)[kind]
                with marked(chosen.steps, device) as marks:
                    train(batch=batch, steps=10**6, lr=1e-4, compiled=compiled)
                each = (marks[-1] - marks[WARM]) / chosen.steps
                print(f"{kind!r} {batch} {compiled} {marks[1] - marks[0]:.1f} {1000 * each:.1f}",
                      flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
