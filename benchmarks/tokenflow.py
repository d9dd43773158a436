"""TokenFlow beside its published code: encoding, decoding, drawing; in one run.

    python benchmarks/tokenflow.py --device cuda                    # TokenFlow-XL, the 7B model
    python benchmarks/tokenflow.py --tokenizer tiny --model tiny    # a smoke run

Random weights, which change no cost. A line of JSON each: seconds (median), pictures a second,
peak memory, how many times faster than the published way (`official_tokenflow.py`), share of the
roofline where products are counted; then whether both gave the same ids.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from infinity_parts import FLOPS, say, timed
from official_tokenflow import official_draw, official_encode
from torch import nn

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
from impasto.models.tokenflow.costs import decoder_flops, positions
from impasto.sample.flops import count_flops
from impasto.sample.protocol import Request, Sampling, generate

PROMPT = "a photo of two red dogs left of a small blue bench, under a tall green tree"
OF_MODEL = {"7b": "b-256", "sticker": "sticker", "tiny": "tiny"}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokenizer", choices=sorted(TOKENIZERS), default="xl")
    parser.add_argument("--model", choices=sorted(OF_MODEL), default="7b")
    parser.add_argument("--batch", type=int, default=8, help="pictures at once of the tokenizer")
    parser.add_argument("--draw", type=int, default=1, help="pictures at once of the model")
    parser.add_argument("--passes", type=int, choices=sorted(STRATEGIES), default=3)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def dtype_of(device: str) -> torch.dtype:
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


@torch.no_grad()
def filled(network: Any, device: str) -> Any:
    """Weights of variance 1 / inputs, norms 1, biases 0."""
    nn.Module.to_empty(nn.Module.to(network, dtype_of(device)), device=device)
    for name, own in [*network.named_parameters(), *network.named_buffers()]:
        if "position_ids" in name:
            own.copy_(torch.arange(own.shape[-1], device=device))
        elif own.ndim == 1:
            own.fill_(float("norm" in name and name.endswith("weight")))
        elif own.is_floating_point():
            own.normal_(std=own[0].numel() ** -0.5)
    return network.eval().requires_grad_(False)


def tokenizer(name: str, device: str) -> TokenFlowTokenizer:
    torch.manual_seed(0)
    with torch.device("meta"):
        made = TokenFlowTokenizer(**asdict(TOKENIZERS[name]()))
    return filled(made, device)


def report(
    way: str, run: Callable[[], Any], chosen: argparse.Namespace, pictures: int, *,
    base: float | None = None, flops: float | None = None,
) -> tuple[Any, float]:  # fmt: skip
    """Time a way and say so. flops: of one picture. Gives its result and seconds."""
    done = timed(run, chosen.device, chosen.repeats)
    share = None
    if flops is not None and chosen.device.startswith("cuda"):
        share = round(flops * pictures / FLOPS / done.seconds, 3)
    say(way=way, seconds=round(done.seconds, 4), all=[round(s, 4) for s in done.warm],
        pictures_per_second=round(pictures / done.seconds, 2), cold=round(done.cold, 2),
        GiB=None if done.gib is None else round(done.gib, 2),
        times_faster=None if base is None else round(base / done.seconds, 2),
        share_of_roofline=share)  # fmt: skip
    return done.result, done.seconds


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> dict[str, int]:
    differ = sum(int((x != y).sum()) for x, y in zip(a, b, strict=True))
    return {"ids_that_differ": differ, "of": sum(x.numel() for x in a)}


@torch.inference_mode()
def tokenizers(chosen: argparse.Namespace) -> None:
    vae = tokenizer(chosen.tokenizer, chosen.device)
    x = torch.rand(chosen.batch, 3, vae.image, vae.image, device=chosen.device)
    one = torch.empty(1, 3, vae.image, vae.image, device="meta")
    with torch.device("meta"):
        meta = TokenFlowTokenizer(**asdict(TOKENIZERS[chosen.tokenizer]()))
    side, book = vae.scales[-1][0] * vae.factor, vae.quantize
    pixel = torch.empty(1, 3, side, side, device="meta")
    search = 2 * sum(h * w for h, w in vae.scales) * book.vocabulary * book.channels
    encoding = count_flops(meta.encoder_vqkd, one) + count_flops(meta.encoder, pixel) + search
    say(tokenizer=chosen.tokenizer, batch=chosen.batch, ids=sum(h * w for h, w in vae.scales),
        dtype=str(vae.dtype), device=torch.cuda.get_device_name()
        if chosen.device.startswith("cuda") else "cpu")  # fmt: skip
    theirs, base = report("encode, published quantiser", lambda: official_encode(vae, x), chosen,
                          chosen.batch, flops=encoding)  # fmt: skip
    ours, _ = report("encode, ours", lambda: vae.encode(x), chosen, chosen.batch, base=base,
                     flops=encoding)  # fmt: skip
    say(**same(theirs, ours))
    report("decode", lambda: vae.decode(vae.features_of(ours, vae.scales)), chosen, chosen.batch,
           flops=decoder_flops(vae))  # fmt: skip


def model(chosen: argparse.Namespace) -> TokenFlowGenerator:
    vae = tokenizer(OF_MODEL[chosen.model], chosen.device)
    config = TRANSFORMERS[chosen.model]()
    with torch.device("meta"):
        transformer = TokenFlowTransformer(**asdict(config))
    words = train_words([PROMPT] * 3, 320)
    top_k, top_p = STRATEGIES[chosen.passes]
    return TokenFlowGenerator(transformer=filled(transformer, chosen.device), vae=vae,
                              tokenizer=words,
                              defaults=Defaults(top_k=top_k, top_p=top_p))  # fmt: skip


@torch.inference_mode()
def drawing(chosen: argparse.Namespace) -> None:
    pipe, seeds = model(chosen), list(range(1, chosen.draw + 1))
    prompts, sizes = [PROMPT] * chosen.draw, pipe.transformer.sizes
    prefix = pipe._scale.prefix + 1
    counts = {way: positions(sizes, prefix, chosen.passes, cached=way == "cached")
              for way in ("uncached", "cached")}  # fmt: skip
    say(model=chosen.model, pictures=chosen.draw, passes=chosen.passes, places=counts)
    theirs, base = report("draw, everything anew",
                          lambda: official_draw(pipe, prompts, seeds).ids, chosen, chosen.draw)
    requests, sums = [Request.of(text) for text in prompts], []

    def ours() -> torch.Tensor:
        state = pipe.start(requests, seeds, Sampling())
        while not state.done:
            state = pipe.advance(state)
        sums[:] = [state.f_hat]
        return sums[0]

    report("draw, cached", ours, chosen, chosen.draw, base=base)
    wanted = pipe.vae.features_of(theirs, sizes)
    say(largest_difference_of_sums=float((sums[0] - wanted).abs().max()))
    if chosen.device.startswith("cuda"):
        pipe.use_graphs()
        report("draw, cached, with graphs", ours, chosen, chosen.draw, base=base)
        say(largest_difference_of_sums=float((sums[0] - wanted).abs().max()))
        pipe.compile()
        pipe.use_graphs()
        report("draw, cached, compiled with graphs", ours, chosen, chosen.draw, base=base)
    report("with the picture", lambda: generate(pipe, requests, seeds)[0], chosen, chosen.draw)


if __name__ == "__main__":
    asked = options()
    tokenizers(asked)
    drawing(asked)
