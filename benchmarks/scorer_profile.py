"""Where the full-size scorer's time goes on a GPU: by stage, by kernel, and what the card can do.

    python benchmarks/scorer_profile.py --device cuda
    python benchmarks/scorer_profile.py --tiny --batch 2      # a smoke run on a processor

Stages are timed one after another with a synchronisation between them, so they sum to more than
the scorer takes: they say where to look, `benchmarks/scorer.py` says how fast it is. `ceilings`
are single products and convolutions of the network's own shapes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scorer import RULE, build_colors, build_detector, demand, pictures
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from transformers.models.mask2former import modeling_mask2former

from impasto.score.detector import Mask2FormerDetector
from impasto.score.geneval import wanted
from impasto.score.lean import lean, lean_clip
from impasto.score.official import (
    OfficialScorer,
    Precision,
    exact_float32,
    fast_bfloat16,
    split_float32,
)
from impasto.score.verdict import kept_objects, needs_color

KERNELS = 15


class Clock:
    """Milliseconds by name; every start and stop waits for the GPU."""

    def __init__(self, device: str) -> None:
        self.cuda, self.told = device.startswith("cuda"), dict[str, float]()
        self.started: dict[str, float] = {}

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return 1e3 * time.perf_counter()

    def start(self, name: str) -> None:
        self.started[name] = self.now()

    def stop(self, name: str) -> None:
        self.told[name] = self.told.get(name, 0.0) + self.now() - self.started[name]

    def watch(self, name: str, module: nn.Module) -> list[Any]:
        """Times `module`'s calls; gives the hooks to take off again."""
        return [module.register_forward_pre_hook(lambda *_: self.start(name)),
                module.register_forward_hook(lambda *_: self.stop(name))]  # fmt: skip

    def call(self, name: str, run: Callable[[], Any]) -> Any:
        self.start(name)
        result = run()
        self.stop(name)
        return result


def watched(detector: Mask2FormerDetector, clock: Clock) -> list[Any]:
    """Hooks on the network's stages, and on the parts of a layer that are suspected."""
    network = detector.model.model
    pixels = network.pixel_level_module
    decoder = network.transformer_module.decoder
    hooks = [*clock.watch("backbone", pixels.encoder),
             *clock.watch("pixel decoder", pixels.decoder),
             *clock.watch("transformer decoder", network.transformer_module)]  # fmt: skip
    parts = {"pixel decoder, deformable attention": [x.self_attn
                                                     for x in pixels.decoder.encoder.layers],
             "transformer decoder, cross attention": [x.cross_attn for x in decoder.layers],
             "transformer decoder, mask predictor": [decoder.mask_predictor],
             "pixel decoder, 3x3 convolutions": pixels.decoder.output_convolutions}  # fmt: skip
    for one in pixels.encoder.modules():
        if type(one).__name__ in ("SwinAttention", "SwinMLP"):
            parts.setdefault(f"backbone, {type(one).__name__}", []).append(one)
    return hooks + [h for name, those in parts.items() for one in those
                    for h in clock.watch(name, one)]  # fmt: skip


def stages(scorer: OfficialScorer, images: torch.Tensor, specs: Sequence[Any], device: str
           ) -> dict[str, float]:  # fmt: skip
    """Milliseconds a picture of each stage, the whole batch at once."""
    clock = Clock(device)
    detector, size = scorer.detector, (images.shape[-2], images.shape[-1])
    hooks = watched(detector, clock)
    with torch.inference_mode(), scorer.precision():
        there = clock.call("to the device", lambda: images.to(device))
        ready = clock.call("preprocess", lambda: detector.preprocess(there))
        out = clock.call("network", lambda: detector.model(pixel_values=ready))
        hints = [wanted(spec, scorer.thresholds, scorer.details) for spec in specs]
        found = clock.call("mask post-processing", lambda: detector._together(
            out.class_queries_logits.float(), out.masks_queries_logits.float(), size, hints))
        kept = [kept_objects(f, s, scorer.thresholds) for f, s in zip(found, specs, strict=True)]
        asked = [(image, one) for image, spec, objects in zip(there, specs, kept, strict=True)
                 for one in needs_color(spec, objects)]  # fmt: skip
        clock.call("colours", lambda: scorer.colors.shares(asked))
    for hook in hooks:
        hook.remove()
    clock.call("whole, as scored", lambda: scorer.score(images, specs))
    return {name: round(ms / len(images), 3) for name, ms in clock.told.items()} | {
        "crops a picture": round(len(asked) / len(images), 2)}  # fmt: skip


def kernels(scorer: OfficialScorer, images: torch.Tensor, specs: Sequence[Any], device: str
            ) -> list[dict[str, Any]]:  # fmt: skip
    """The longest kernels of one scoring: milliseconds a picture and calls a batch."""
    cuda = device.startswith("cuda")
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds) as seen:
        scorer.score(images, specs)
        if cuda:
            torch.cuda.synchronize()

    def spent(row: Any) -> float:
        return row.self_device_time_total if cuda else row.self_cpu_time_total

    rows = [row for row in seen.key_averages()
            if not cuda or row.device_type == torch.autograd.DeviceType.CUDA]  # fmt: skip
    return [{"kernel": row.key[:110], "ms": round(spent(row) / 1e3 / len(images), 3),
             "calls": row.count}
            for row in sorted(rows, key=spent, reverse=True)[:KERNELS]]  # fmt: skip


def milliseconds(run: Callable[[], Any], device: str, times: int = 5) -> float:
    run()
    clock = Clock(device)
    clock.call("", lambda: [run() for _ in range(times)])
    return round(clock.told[""] / times, 3)


def ceilings(device: str, batch: int) -> dict[str, dict[str, float]]:
    """Single operations in float32 and bfloat16, milliseconds a batch (TFLOP/s of products)."""
    products = {"swin 1": (200 * 200, 96, 384), "swin 3": (2500, 384, 1536),
                "encoder": (13125, 256, 1024)}  # fmt: skip
    told: dict[str, dict[str, float]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        own = told.setdefault(str(dtype).removeprefix("torch."), {})
        for name, (rows, one, other) in products.items():
            x = torch.randn(batch * rows, one, device=device, dtype=dtype)
            w = torch.randn(other, one, device=device, dtype=dtype)
            ms = milliseconds(lambda x=x, w=w: F.linear(x, w), device)
            own[f"linear {name}"] = ms
            own[f"linear {name}, TFLOP/s"] = round(2e-9 * batch * rows * one * other / ms, 1)
        x = torch.randn(batch, 256, 200, 200, device=device, dtype=dtype)
        w = torch.randn(256, 256, 3, 3, device=device, dtype=dtype)
        own["3x3 convolution"] = milliseconds(lambda x=x, w=w: F.conv2d(x, w, padding=1), device)
        y, v = (t.to(memory_format=torch.channels_last) for t in (x, w))
        own["3x3 convolution, channels last"] = milliseconds(
            lambda y=y, v=v: F.conv2d(y, v, padding=1), device)  # fmt: skip
        own["copy of 1/4 features"] = milliseconds(lambda x=x: x.clone(), device)
        del x, w, y, v
    return told


def own_kernels(device: str, batch: int) -> dict[str, Any]:
    """Our kernels beside what they stand for: milliseconds a batch, and how far they differ."""
    from impasto.score import kernels, products

    shapes = [(25, 25), (50, 50), (100, 100)]
    value = torch.randn(batch, 13125, 8, 32, device=device)
    reference = torch.rand(batch, 13125, 3, 2, device=device)
    offsets = 2 * torch.randn(batch, 13125, 8, 3, 4, 2, device=device)
    logits = torch.randn(batch, 13125, 8, 3, 4, device=device)
    sizes = torch.tensor([[w, h] for h, w in shapes], device=device)

    def plain() -> torch.Tensor:
        at = reference[:, :, None, :, None] + offsets / sizes[:, None]
        return modeling_mask2former.multi_scale_deformable_attention(
            value, shapes, at, logits.flatten(-2).softmax(-1).view_as(logits))  # fmt: skip

    def ours(dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return kernels.deformable_attention(value.to(dtype), shapes, reference, offsets, logits)

    def fused_linear(rows: int, inner: int, columns: int) -> dict[str, float]:
        x = torch.randn(batch * rows, inner, device=device)
        w, b = torch.randn(columns, inner, device=device), torch.randn(columns, device=device)
        exact = F.gelu(F.linear(x[:4096].double(), w.double(), b.double()))
        off = lambda y: float((y[:4096] - exact).abs().mean())  # noqa: E731
        both = {"torch": lambda: F.gelu(F.linear(x, w, b)),
                "three TF32": lambda: products.linear(x, w, b, "gelu")}  # fmt: skip
        return {key: value for name, run in both.items() for key, value in (
            (name, milliseconds(run, device)), (f"{name}, mean error", off(run())))}  # fmt: skip

    tries: dict[str, Callable[[], Any]] = {
        "deformable attention, transformers": lambda: milliseconds(plain, device, 2),
        "deformable attention": lambda: milliseconds(ours, device),
        "deformable attention, bfloat16 and a copy": lambda: milliseconds(
            lambda: ours(torch.bfloat16), device),
        "deformable attention, largest difference": lambda: float((ours() - plain()).abs().max()),
        **{f"window attention {name}": lambda c=c, heads=heads, side=side, dtype=dtype:
           milliseconds(lambda: kernels.window_attention(
               torch.ones(batch, side * side, 3 * c, device=device, dtype=dtype),
               torch.ones(3 * c, device=device), torch.ones(heads, 49, 49, device=device),
               (side, side), 7, 3, 0.18), device)
           for name, c, heads, side, dtype in (("1", 96, 3, 200, torch.float32),
                                               ("3", 384, 12, 50, torch.float32),
                                               ("1, bfloat16", 96, 3, 200, torch.bfloat16))},
        "linear and GELU, swin 3": lambda: fused_linear(2500, 384, 1536),
        "linear and GELU, encoder": lambda: fused_linear(13125, 256, 1024),
    }  # fmt: skip
    told = {}
    for name, run in tries.items():
        try:
            told[name] = run()
        except Exception as error:  # one kernel that does not compile hides no other's figures
            told[name] = f"{type(error).__name__}: {error}"[:500]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tiny", action="store_true", help="tiny networks: a smoke run")
    chosen = parser.parse_args()
    device = chosen.device
    torch.manual_seed(0)
    detector = build_detector("tiny" if chosen.tiny else "official", device, chosen.batch)
    colors = build_colors(chosen.tiny, device)
    images, rng = pictures(chosen.batch, 512), np.random.default_rng(0)
    with exact_float32():
        specs = [demand(i, there, rng) for i, there in enumerate(detector.detect(images))]
    colors.columns(item.cls for spec in specs for item in spec.include if item.color)
    lean(detector.model)
    lean_clip(colors.model)
    precisions: dict[str, Precision] = {"float32": exact_float32, "split float32": split_float32,
                                        "bfloat16": fast_bfloat16(device)}  # fmt: skip
    told: dict[str, Any] = {}
    for name, precision in precisions.items():
        scorer = OfficialScorer(detector, colors, thresholds=RULE, precision=precision)
        scorer.score(images, specs)  # warms up kernels and the allocator
        told[name] = {"ms a picture": stages(scorer, images, specs, device),
                      "kernels": kernels(scorer, images, specs, device)}  # fmt: skip
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
    with exact_float32():
        limits = {} if chosen.tiny else ceilings(device, chosen.batch)
        own = {} if chosen.tiny else own_kernels(device, chosen.batch)
    print(json.dumps({"device": name, "torch": torch.__version__, "batch": chosen.batch,
                      "modes": told, "ceilings": limits, "own kernels": own}, indent=2))


if __name__ == "__main__":
    main()
