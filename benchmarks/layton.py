"""Layton's tokenizer at 1024 px beside its published code: encoding, decoding; in one run.

    python benchmarks/layton.py --device cuda                   # SDXL's sizes, 4.1 billion weights
    python benchmarks/layton.py --preset tiny --repeats 1       # a smoke run

Random weights, which change no cost. First small networks: that both ways give the same. Then
float32 as it is published, and bfloat16; a line of JSON a row as it is measured, and a table of
all. The published way is `official_layton.py`; "times faster" is against it in float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import Sheet, Timed, filled
from official_layton import STEPS, official_decode, official_encode
from roofline import Stage
from torch import Tensor

from impasto.models.layton import TOKENIZERS, LaytonTokenizer
from impasto.models.layton.sampler import Decoding, own_noise

AGREE = 1e-3
"""Largest difference of pictures in [-1, 1] at which the small networks count as the same."""
COMPILED = ("BasicTransformerBlock", "ResnetBlock2D")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", choices=sorted(TOKENIZERS), default="published")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, nargs="+", choices=sorted(STEPS), default=[1, 2, 3])
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of a way, at most")
    parser.add_argument("--compile", action="store_true", help="add ours compiled: minutes more")
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args()


def tokenizer(preset: str, device: str) -> LaytonTokenizer:
    """In float32."""
    with torch.device("meta"):
        made = LaytonTokenizer(**asdict(TOKENIZERS[preset]()))
    return filled(made, device, torch.float32)


def random_ids(model: LaytonTokenizer, rows: int) -> Tensor:
    (h, w), *_ = model.sizes_of_side(model.tokens_side)
    return torch.randint(model.vocabulary, (rows, h * w), device=model.device)


def latent_shape(model: LaytonTokenizer) -> tuple[int, ...]:
    size = model.latent_size(model.image, model.image)
    return (model.decoder.unet.config["in_channels"], *size)


def ours(model: LaytonTokenizer, ids: Tensor, steps: int, seeds: list[int]) -> Tensor:
    sizes = model.sizes_of_side(model.tokens_side)
    return model.decode_tokens([ids], sizes, seeds=seeds, decoding=Decoding(steps=steps))


# -------------------------------------------------------------------------------- the same


@contextmanager
def exact_convolutions() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def differences(model: LaytonTokenizer, rows: int, steps: Sequence[int]) -> dict[str, Any]:
    """Ids that differ, and the largest difference of pictures in [-1, 1] by number of steps."""
    x = torch.rand(rows, 3, model.image, model.image, device=model.device)
    ids, seeds = random_ids(model, rows), list(range(rows))
    noise = own_noise(seeds, latent_shape(model), model.device)
    found = {}
    for n in steps:
        model.use_lean(True)
        y = 2 * ours(model, ids, n, seeds) - 1
        model.use_lean(False)
        found[n] = float((y - official_decode(model, ids, n, noise)).abs().max())
    return {"ids_that_differ": int((model.encode(x)[0] != official_encode(model, x)).sum()),
            "of": ids.numel(), "largest_difference_by_steps": found}  # fmt: skip


def check(sheet: Sheet) -> None:
    """Both ways on small networks in float32. Raises RuntimeError where they differ."""
    with exact_convolutions():
        told = differences(tokenizer("tiny", sheet.device), 2, sorted(STEPS))
    sheet.note(check="tiny, float32", **told)
    worst = max(told["largest_difference_by_steps"].values())
    if told["ids_that_differ"] or not worst < AGREE:
        raise RuntimeError(f"the published way and ours differ: {told}")


# -------------------------------------------------------------------------------- the work


def encoding(model: LaytonTokenizer) -> list[Stage]:
    side, front = model.tokens_side, model.vq
    small = torch.empty(1, 3, side, side, device="meta", dtype=model.dtype)
    (h, w), *_ = model.sizes_of_side(side)
    search = 2 * h * w * model.vocabulary * model.channels
    return [Stage.of(front.encoder, small), Stage(exact=search)]


def decoding(model: LaytonTokenizer, steps: Sequence[int]) -> dict[int, list[Stage]]:
    """By number of steps. The least: lean, and the accelerator within the UNet's matrices."""
    decoder = model.decoder
    z = torch.empty(1, *latent_shape(model), device="meta", dtype=model.dtype)
    C = z.new_empty(1, model.channels, *z.shape[2:])
    decoder.use_lean(True)
    with decoder.accelerated(decoder.merged):
        one = Stage.of(decoder, z, 0, decoder.once_flops(C)[1])
    one = replace(one, weights=one.weights - sum(p.numel() for p in decoder.adapters))
    stem = Stage.of(decoder.controlnet.controlnet_cond_embedding, C)
    pixels = Stage.of(model.vae.decoder, z)
    return {n: [stem, replace(one, times=n), pixels] for n in steps}


# -------------------------------------------------------------------------------- the ways


class Ways:
    """Times of one model. `bases`: the published way's, by what is done."""

    def __init__(self, model: LaytonTokenizer, sheet: Sheet, chosen: argparse.Namespace) -> None:
        self.model, self.sheet, self.chosen = model, sheet, chosen
        self.bases: dict[tuple[Any, ...], Timed | None] = {}
        self.encoding = encoding(model)
        self.decoding = decoding(model, chosen.steps)

    def encode(self, way: str) -> None:
        model = self.model
        run = partial(official_encode, model) if way == "published" else model.encode
        for rows in self.chosen.batches:
            x = torch.rand(rows, 3, model.image, model.image, device=model.device)
            self._time(way, "encode", rows, self.encoding, partial(run, x))

    def decode(self, way: str) -> None:
        for rows in self.chosen.batches:
            ids = random_ids(self.model, rows)
            for n in self.chosen.steps:
                run = self._published if way == "published" else self._ours
                self._time(way, f"decode, {n} step{'s' * (n > 1)}", rows, self.decoding[n],
                           partial(run, ids, n))  # fmt: skip

    def _published(self, ids: Tensor, steps: int) -> Tensor:
        shape = (len(ids), *latent_shape(self.model))
        return official_decode(self.model, ids, steps,
                               lambda _: torch.randn(shape, device=ids.device))  # fmt: skip

    def _ours(self, ids: Tensor, steps: int) -> Tensor:
        return ours(self.model, ids, steps, list(range(len(ids))))

    def _time(self, way: str, what: str, rows: int, stages: list[Stage], run: Any) -> None:
        key = (what, rows)
        done = self.sheet.time({"what": what, "way": way}, run, stages, dtype=self.model.dtype,
                               pictures=rows, base=self.bases.get(key))  # fmt: skip
        self.bases.setdefault(key, done and done._replace(result=None))


@torch.inference_mode()
def main() -> int:
    chosen, begun = options(), time.perf_counter()
    sheet = Sheet(chosen.device, chosen.repeats)
    sheet.header([torch.float32, torch.bfloat16])
    check(sheet)
    model = tokenizer(chosen.preset, chosen.device)
    sheet.note(preset=chosen.preset, ids=random_ids(model, 1).numel(), pixels=model.image,
               weights={name: sum(p.numel() for p in part.parameters()) for name, part in
                        [("front", model.vq), ("unet with accelerator", model.decoder.unet),
                         ("copy", model.decoder.controlnet), ("autoencoder", model.vae)]},
               seconds=round(time.perf_counter() - begun, 1))  # fmt: skip
    ways = Ways(model, sheet, chosen)
    sheet.note(check=f"{chosen.preset}, float32 as timed",
               **differences(model, 1, chosen.steps))  # fmt: skip
    for dtype in (torch.float32, torch.bfloat16):
        torch.nn.Module.to(model, dtype)
        model.use_lean(False)
        ways.encode("published")
        ways.decode("published")
        if dtype == torch.bfloat16:
            ways.decode("ours, not lean")
        model.use_lean(True)
        ways.encode("ours")
        ways.decode("ours")
    model.decoder.merge()
    ways.decode("ours, merged")
    if chosen.compile:
        torch._dynamo.config.recompile_limit = 64  # widths, and both numbers of pictures
        for part in model.decoder.modules():
            if type(part).__name__ in COMPILED:
                part.compile()
        ways.decode("ours, merged and compiled")
    sheet.note(seconds_in_all=round(time.perf_counter() - begun, 1))
    return sheet.close(chosen.json, **vars(chosen))


if __name__ == "__main__":
    raise SystemExit(main())
