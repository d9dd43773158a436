"""What the two benchmarks of Infinity share: random networks, the roofline.

Networks are made on the meta device and filled where they run, in their final type. Random weights
change no cost. They are scaled so that guided log-odds spread over some units: bits are then the
network's doing as well as the noise's, and comparing them means something.
"""

from __future__ import annotations

import argparse
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from measuring import Timed, say, timed
from roofline import CARDS
from torch import nn
from transformers import T5Config, T5EncoderModel

from impasto.models.infinity import Defaults, InfinityGenerator
from impasto.models.infinity.config import PRESETS, TOKENIZERS, TRANSFORMERS, InfinityConfig
from impasto.models.infinity.costs import decoder_flops, scale_flops
from impasto.models.infinity.model import InfinityTransformer
from impasto.models.infinity.schedules import schedule
from impasto.models.infinity.tokenizer import InfinityTokenizer
from impasto.models.mmdit import train_tokenizer

PROMPT = ("a photo of two red dogs to the left of a small blue bench, under a tall green tree "
          "that stands beside an old brick house, painted in soft morning light with long "
          "shadows and a few white birds above the roof")  # fmt: skip
FLOPS, _, _, BANDWIDTH = CARDS["NVIDIA H100 80GB HBM3"]
"""Of an H100 (SXM): dense bfloat16 products, and bytes of its memory, a second."""

FLAN_T5_XL = {"d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32,
              "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0}  # fmt: skip
SIZES: dict[str, Callable[[], InfinityConfig]] = {
    "2B": lambda: InfinityConfig(tokenizer=TOKENIZERS["d32reg"], transformer=TRANSFORMERS["2B"],
                                 text=FLAN_T5_XL, scales=13, max_tokens=512),
    "sticker": PRESETS["sticker"],
    "tiny": lambda: replace(PRESETS["tiny"](), scales=7, max_tokens=16),
}  # fmt: skip


def add_common(parser: argparse.ArgumentParser) -> None:
    """What both scripts can be told."""
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=sorted(SIZES), default="2B")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each way")
    parser.add_argument("--uncompiled", action="store_true", help="leave ours compiled out")
    parser.add_argument("--profile", action="store_true", help="kernels that take longest (GPU)")


# -------------------------------------------------------------------------------- networks


@torch.no_grad()
def build(size: str, device: str, dtype: torch.dtype) -> InfinityGenerator:
    """A generator of a published size with random weights of seed 0."""
    config = SIZES[size]()
    words = [" ".join(PROMPT.split()[: n + 1]) for n in range(len(PROMPT.split()))]
    tokenizer = train_tokenizer(words * 3, vocab_size=300 if size == "tiny" else 600,
                                max_tokens=config.max_tokens)  # fmt: skip
    text = T5Config(vocab_size=max(len(tokenizer), 32128 if size == "2B" else 0),
                    pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
                    **config.text)  # fmt: skip
    torch.manual_seed(0)
    with torch.device("meta"):
        made: dict[str, Any] = {
            "transformer": InfinityTransformer(**asdict(config.transformer)),
            "vae": InfinityTokenizer(**asdict(config.tokenizer)),
            "text_encoder": T5EncoderModel(text),
        }
    for network in made.values():
        nn.Module.to_empty(nn.Module.to(network, dtype), device=device)
        fill(network.eval().requires_grad_(False))
    return InfinityGenerator(**made, tokenizer=tokenizer, defaults=Defaults(scales=config.scales))


def fill(network: nn.Module) -> None:
    """Weights of variance 1 / inputs, norms 1, biases 0; gates of residual branches 0.3."""
    for name, own in [*network.named_parameters(), *network.named_buffers()]:
        if "scale_mul" in name:
            own.fill_(math.log(4))
        elif own.ndim == 1:
            own.fill_(float("norm" in name and name.endswith("weight")))
        else:
            own.normal_(std=0.3 if "ada_gss" in name else own[0].numel() ** -0.5)
    if isinstance(network, InfinityTransformer):
        network.head.weight.mul_(0.2)
        for part in (network.shared_ada_lin[1], network.head_nm.ada_lin[1]):
            part.weight.mul_(0.3)


# -------------------------------------------------------------------------------- the roofline


class Floor(NamedTuple):
    """tflop: products of the transformer and the decoder. seconds: of the roofline, scale by
    scale the longer of its products and its bytes (weights once, keys and values once)."""

    tflop: float
    seconds: float


def floor(generator: InfinityGenerator, rows: Sequence[int], decodes: int, length: int) -> Floor:
    """Of one drawing with `rows[k]` rows at scale k and a text of `length` tokens.

    Text encoder and the last scale's own keys are left out: under one per cent.
    """
    net = generator.transformer
    plan = schedule(1.0, len(rows))
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    width = net.pos_start.shape[-1]
    pair = 4 * len(net.blocks) * width * net.word_embed.weight.element_size()  # K, V; two halves
    flops = seconds = 0.0
    seen = 0
    for k, (h, w) in enumerate(plan.sizes):
        own = 2 * rows[k] * scale_flops(net, plan.sizes, k, length)
        moved = weights + rows[k] * pair * (seen + 2 * h * w)
        seen += h * w
        flops += own
        seconds += max(own / FLOPS, moved / BANDWIDTH)
    decoded = decodes * decoder_flops(generator.vae, plan.sizes)
    return Floor((flops + decoded) / 1e12, seconds + decoded / FLOPS)


def report(way: str, run: Callable[[], Any], chosen: argparse.Namespace, least: Floor, *,
           base: float | None = None, repeats: int | None = None) -> Timed | None:  # fmt: skip
    """Time one way and say so; a way that fails says why, and the next goes on."""
    try:
        done = timed(run, chosen.device, repeats or chosen.repeats)
    except Exception:
        say(way=way, error=traceback.format_exc()[-1500:])
        return None
    say(way=way, seconds=round(done.seconds, 4), all=[round(s, 4) for s in done.warm],
        cold=round(done.cold, 3), second=round(done.second, 3),
        GiB=None if done.gib is None else round(done.gib, 2),
        times_faster=None if base is None else round(base / done.seconds, 2),
        share_of_roofline=round(least.seconds / done.seconds, 3),
        TFLOPs=round(least.tflop / done.seconds, 1))  # fmt: skip
    if chosen.profile and chosen.device.startswith("cuda") and repeats is None:
        say(kernels_of=way, **kernels(run))
    return done


def kernels(run: Callable[[], Any], most: int = 14) -> dict[str, Any]:
    """Milliseconds that the GPU is busy in one call, and the kernels that take longest."""
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            run()
            torch.cuda.synchronize()
    except RuntimeError as error:  # no tracing on this machine: the times stand without it
        return {"error": str(error)[:300]}
    found = sorted(profile.key_averages(), key=lambda one: -one.self_device_time_total)
    return {"busy_ms": round(sum(one.self_device_time_total for one in found) / 1e3, 1),
            "launches": sum(one.count for one in found),
            "longest": [(one.key[:70], one.count, round(one.self_device_time_total / 1e3, 2))
                        for one in found[:most]]}  # fmt: skip


def header(generator: InfinityGenerator, size: str, device: str, least: Floor, **more: Any
           ) -> None:  # fmt: skip
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
    say(device=name, torch=torch.__version__, networks=size, dtype=str(generator.dtype),
        prompt_tokens=generator.encode_text(PROMPT).shape[1], tflop=round(least.tflop, 2),
        roofline_seconds=round(least.seconds, 4), **more)  # fmt: skip
