"""TokenFlow beside its published code: encoding, decoding, drawing; in one run.

    python benchmarks/tokenflow.py --device cuda                     # B at 256, L, XL; 7 billion
    python benchmarks/tokenflow.py --tokenizers tiny --model tiny    # a smoke run

Random weights, which change no cost. A line of JSON a row as it is measured, whether both ways
gave the same, and a table of all. The published ways are `official_tokenflow.py`; decoding has but
one. L needs timm (extra `vitamin`) and is left out, by name, where that is missing.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import Sheet, filled
from official_tokenflow import official_draw, official_encode
from roofline import Stage
from torch import Tensor

from impasto.models.next_scale.maps import tokens
from impasto.models.tokenflow import (
    STRATEGIES,
    TOKENIZERS,
    TRANSFORMERS,
    Defaults,
    TokenFlowGenerator,
    TokenFlowTokenizer,
    TokenFlowTransformer,
    train_words,
)
from impasto.models.tokenflow.costs import positions, scale_flops
from impasto.sample.protocol import Request, Sampling, generate

PROMPT = "a photo of two red dogs left of a small blue bench, under a tall green tree"
OF_MODEL = {"7b": "b-256", "sticker": "sticker", "tiny": "tiny"}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokenizers", nargs="*", choices=sorted(TOKENIZERS),
                        default=["b-256", "l", "xl"])  # fmt: skip
    parser.add_argument("--model", choices=[*sorted(OF_MODEL), "none"], default="7b")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32],
                        help="pictures at once of the tokenizers")  # fmt: skip
    parser.add_argument("--draw", type=int, default=1, help="pictures at once of the model")
    parser.add_argument("--passes", type=int, nargs="+", choices=sorted(STRATEGIES),
                        default=[1, 3])  # fmt: skip
    parser.add_argument("--dtypes", nargs="+", choices=sorted(DTYPES),
                        help="of tokenizers; by default bfloat16 on a GPU, else float32")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of a way, at most")
    parser.add_argument("--compile", action="store_true",
                        help="add drawing compiled, by the last of --passes: a minute more"
                        )  # fmt: skip
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args()


# -------------------------------------------------------------------------------- tokenizers


def unfilled(name: str) -> TokenFlowTokenizer:
    """On the meta device. Raises ValueError where timm is missing."""
    with torch.device("meta"):
        return TokenFlowTokenizer(**asdict(TOKENIZERS[name]()))


def encoding(vae: TokenFlowTokenizer) -> list[Stage]:
    """Both encoders, and all codes' products with all places."""
    side, book = vae.scales[-1][0] * vae.factor, vae.quantize
    one, pixel = (torch.empty(1, 3, own, own, device="meta", dtype=vae.dtype)
                  for own in (vae.image, side))  # fmt: skip
    search = 2 * tokens(vae.scales) * book.vocabulary * book.channels
    return [Stage.of(vae.encoder_vqkd, one), Stage.of(vae.encoder, pixel), Stage(exact=search)]


def decoding(vae: TokenFlowTokenizer) -> list[Stage]:
    wide = torch.empty(1, vae.post_quant_conv.out_channels, *vae.scales[-1], device="meta",
                       dtype=vae.dtype)  # fmt: skip
    return [Stage.of(vae.decoder, wide)]


def same(a: list[Tensor], b: list[Tensor]) -> dict[str, int]:
    differ = sum(int((x != y).sum()) for x, y in zip(a, b, strict=True))
    return {"ids_that_differ": differ, "of": sum(x.numel() for x in a)}


def tokenizer_rows(sheet: Sheet, name: str, dtype: torch.dtype, batches: list[int]) -> None:
    """Encoding and decoding of one tokenizer, by number of pictures at once."""
    try:
        made = unfilled(name)
    except (ValueError, RuntimeError) as error:  # no timm, or one that takes no meta device
        if TOKENIZERS[name]().tower != "vitamin":
            raise
        sheet.note(tokenizer=name, left_out=str(error))
        return
    vae = filled(made, sheet.device, dtype)
    sheet.note(tokenizer=name, pixels=vae.image, ids=tokens(vae.scales),
               weights=sum(p.numel() for p in vae.parameters()))  # fmt: skip
    there, back = encoding(vae), decoding(vae)
    for pictures in batches:
        x = torch.rand(pictures, 3, vae.image, vae.image, device=sheet.device)
        row = partial(sheet.time, dtype=dtype, pictures=pictures)
        named = {"model": name, "what": "encode"}
        theirs = row(named | {"way": "published quantiser"}, partial(official_encode, vae, x),
                     there)  # fmt: skip
        own = row(named | {"way": "ours"}, partial(vae.encode, x), there, base=theirs)
        if own is None:
            continue
        if theirs is not None:
            sheet.note(tokenizer=name, pictures=pictures, **same(theirs.result, own.result))
        ids, theirs, own = own.result, None, None  # what the ids were made with is free again
        row(named | {"what": "decode", "way": "ours"},
            partial(vae.decode_tokens, ids, vae.scales), back)  # fmt: skip


# -------------------------------------------------------------------------------- drawing


def model(name: str, device: str, dtype: torch.dtype) -> TokenFlowGenerator:
    with torch.device("meta"):
        transformer = TokenFlowTransformer(**asdict(TRANSFORMERS[name]()))
    return TokenFlowGenerator(transformer=filled(transformer, device, dtype),
                              vae=filled(unfilled(OF_MODEL[name]), device, dtype),
                              tokenizer=train_words([PROMPT] * 3, 320),
                              defaults=Defaults())  # fmt: skip


def drawing(pipe: TokenFlowGenerator) -> list[Stage]:
    """The least: prompt and negative text read at once; then every pass of every scale, of two
    branches, by a cache. Weights of the words' head and embedding are not read."""
    net = pipe.transformer
    blocks = sum(p.numel() for p in net.model.layers.parameters())
    read = sum(len(pipe._text_ids(text)) + len(pipe._scale.opening) - 1
               for text in (PROMPT, pipe.defaults.negative))  # fmt: skip
    stages = [Stage(products=2 * read * blocks, weights=blocks)]
    weights = blocks + net.config["vocabulary"] * net.config["width"]
    for k in range(len(net.sizes)):
        flops = 2 * scale_flops(net, k, pipe._scale.prefix)
        stages.append(Stage(products=flops, weights=weights,
                            times=pipe.defaults.passes if k else 1))  # fmt: skip
    return stages


class Drawing:
    """Ways to draw `pictures` with one number of passes."""

    def __init__(self, sheet: Sheet, pipe: TokenFlowGenerator, name: str, pictures: int) -> None:
        self.sheet, self.pipe, self.stages = sheet, pipe, drawing(pipe)
        self.prompts, self.seeds = [PROMPT] * pictures, list(range(1, pictures + 1))
        self.requests = [Request.of(text) for text in self.prompts]
        passes, sizes, prefix = pipe.defaults.passes, pipe.transformer.sizes, pipe._scale.prefix
        self.named = {"model": name, "what": f"draw, {passes} pass{'es' * (passes > 1)}"}
        sheet.note(**self.named, places={
            way: positions(sizes, prefix + 1, passes, cached=way == "cached")
            for way in ("uncached", "cached")})  # fmt: skip
        self.theirs = self._row("published: all anew", lambda: official_draw(
            pipe, self.prompts, self.seeds).ids, self.stages, warming=False)  # fmt: skip

    def _row(self, way: str, run: Any, stages: list[Stage], **more: Any) -> Any:
        return self.sheet.time(self.named | {"way": way}, run, stages, dtype=self.pipe.vae.dtype,
                               pictures=len(self.seeds), **more)  # fmt: skip

    def _drawn(self) -> Tensor:
        state = self.pipe.start(self.requests, self.seeds, Sampling())
        while not state.done:
            state = self.pipe.advance(state)
        return state.f_hat

    def ours(self, way: str) -> None:
        """And how far it is from the published way's sums of codes."""
        done = self._row(way, self._drawn, self.stages, warming=True, base=self.theirs)
        if done is not None and self.theirs is not None:
            wanted = self.pipe.vae.features_of(self.theirs.result, self.pipe.transformer.sizes)
            self.sheet.note(**self.named, way=way, largest_difference_of_sums=float(
                (done.result - wanted).abs().max()))  # fmt: skip

    def with_picture(self) -> None:
        self._row("the same, with the picture",
                  lambda: generate(self.pipe, self.requests, self.seeds)[0],
                  [*self.stages, *decoding(self.pipe.vae)], warming=True)  # fmt: skip


def drawing_rows(sheet: Sheet, chosen: argparse.Namespace, dtype: torch.dtype) -> None:
    pipe, graphs = model(chosen.model, sheet.device, dtype), sheet.device.startswith("cuda")
    every: list[Drawing] = []
    for passes in chosen.passes:
        top_k, top_p = STRATEGIES[passes]
        pipe.defaults = replace(pipe.defaults, top_k=top_k, top_p=top_p)
        ways = Drawing(sheet, pipe, chosen.model, chosen.draw)
        ways.ours("ours, cached")
        if graphs:
            pipe.use_graphs()
            ways.ours("ours, cached, with graphs")
        ways.with_picture()
        pipe.use_graphs(False)
        every.append(ways)
    if chosen.compile:
        pipe.compile()
        pipe.use_graphs(graphs)
        every[-1].ours("ours, cached, compiled" + " with graphs" * graphs)


@torch.inference_mode()
def main() -> int:
    chosen, begun = options(), time.perf_counter()
    usual = "bfloat16" if chosen.device.startswith("cuda") else "float32"
    dtypes = [DTYPES[name] for name in chosen.dtypes or [usual]]
    sheet = Sheet(chosen.device, chosen.repeats)
    sheet.header(dtypes)
    for name in chosen.tokenizers:
        for dtype in dtypes:
            tokenizer_rows(sheet, name, dtype, chosen.batches)
    if chosen.model != "none":
        drawing_rows(sheet, chosen, DTYPES[usual])
    sheet.note(seconds_in_all=round(time.perf_counter() - begun, 1))
    return sheet.close(chosen.json, **vars(chosen))


if __name__ == "__main__":
    raise SystemExit(main())
