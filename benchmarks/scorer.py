"""GenEval's scorer at full size: an official-style loop and ours, side by side in one process.

    python benchmarks/scorer.py --device cuda --images 64
    python benchmarks/scorer.py --tiny --images 6            # a minute of a processor

The loop does as the official script does: transformers' network as it is, one picture at a time,
all 100 masks at full size to the host, 80 classes with an argsort each, one pass of CLIP per
colour check. It is spared the script's data loader with 4 new processes per check, and cuts its
crops by our code. Ours runs `score.lean` networks of the same weights: in plain float32, in the
official mode's float32 (linear layers by `score.products`), and fast.

Weights are random, which changes no cost; queries and classes are held apart, so that some ten
objects a picture pass the threshold. Text columns and the networks are warm for both. `flips`
counts verdicts or reasons that differ from the loop's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Mask2FormerForUniversalSegmentation,
)

from impasto.images import quantise
from impasto.models.mmdit import train_tokenizer
from impasto.score.base import Found, Score
from impasto.score.clip import OPENAI, clip_config
from impasto.score.color import TEMPLATES, ClipColorClassifier
from impasto.score.detector import Mask2FormerDetector, detector_config, tight_boxes
from impasto.score.lean import lean, lean_clip
from impasto.score.mmdetection import inputs, masks_at
from impasto.score.official import (
    OfficialScorer,
    exact_float32,
    fast_bfloat16,
    split_float32,
)
from impasto.score.verdict import Thresholds, judge
from impasto.spec import CLASSES, COLORS, Item, Spec

RULE = Thresholds(threshold=0.3, counting_threshold=0.6)
"""Random networks are never sure to 0.9."""
NO_OBJECT = {"official": 11.5, "tiny": 1.0}
"""Bias of "no object" that leaves about ten objects a picture."""


def build_detector(preset: str, device: str, batch: int) -> Mask2FormerDetector:
    """A Mask2Former with random weights that tells its queries apart."""
    model = Mask2FormerForUniversalSegmentation(detector_config(preset))
    transformer = model.model.transformer_module
    with torch.no_grad():
        nn.init.normal_(transformer.queries_features.weight)
        nn.init.normal_(transformer.queries_embedder.weight)
        for layer in transformer.decoder.layers:
            for part in (layer.cross_attn.out_proj, layer.self_attn.out_proj, layer.fc2):
                part.weight *= 0.2
        for weight in transformer.decoder.mask_predictor.mask_embedder.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=2.4 / weight.shape[1] ** 0.5)
        spread = 3.2 / model.class_predictor.in_features**0.5
        nn.init.normal_(model.class_predictor.weight, std=spread)
        model.class_predictor.bias[-1] = NO_OBJECT[preset]
    return Mask2FormerDetector(model.to(device), inputs, masks_at, classes=CLASSES, batch=batch)


def build_colors(tiny: bool, device: str) -> ClipColorClassifier:
    """CLIP ViT-L/14 (or the tiny one) with random weights, and a tokenizer of GenEval's words."""
    tokenizer = train_tokenizer([t.format(color=c, cls=n)
                                 for t in TEMPLATES for c in COLORS for n in CLASSES])  # fmt: skip
    config = clip_config("tiny", len(tokenizer)) if tiny else CLIPConfig(
        projection_dim=768,
        vision_config=CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, patch_size=14,
            num_attention_heads=16, image_size=224, projection_dim=768).to_dict(),
        text_config=CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
            num_attention_heads=12, max_position_embeddings=77, projection_dim=768,
            pad_token_id=0, bos_token_id=1, eos_token_id=1).to_dict(),
    )  # fmt: skip
    return ClipColorClassifier(CLIPModel(config).to(device), tokenizer, normalisation=OPENAI)


def pictures(count: int, size: int) -> Tensor:
    """(count, 3, size, size): smooth noise on the 8-bit grid."""
    coarse = torch.rand(count, 3, 8, 8)
    return quantise(F.interpolate(coarse, (size, size), mode="bicubic"))


def demand(i: int, found: Sequence[Found], rng: np.random.Generator) -> Spec:
    """A spec of GenEval's task i % 6, mostly of classes that are there: a colour in half."""
    there = [one.cls for one in found if one.score > RULE.threshold] or list(CLASSES[:3])
    a, b = (str(rng.choice([*there, "zebra"])) for _ in range(2))
    ca, cb = (COLORS[k] for k in rng.choice(10, 2))
    tag, include = [
        ("single_object", [Item(cls=a)]),
        ("two_object", [Item(cls=a), Item(cls=b)]),
        ("counting", [Item(cls=a, count=2)]),
        ("colors", [Item(cls=a, color=ca)]),
        ("position", [Item(cls=b), Item(cls=a, position=("left of", 0))]),
        ("color_attr", [Item(cls=a, color=ca), Item(cls=b, color=cb)]),
    ][i % 6]
    exclude = (Item(cls=a, count=3),) if tag == "counting" else ()
    return Spec(tag=tag, include=tuple(include), exclude=exclude, prompt=f"picture {i}")


def loop(detector: Mask2FormerDetector, colors: ClipColorClassifier, images: Tensor,
         specs: Sequence[Spec]) -> list[Score]:  # fmt: skip
    """One picture after another, as the official script."""
    with torch.inference_mode(), exact_float32():
        return [one(detector, colors, image, spec)
                for image, spec in zip(images, specs, strict=True)]  # fmt: skip


def one(detector: Mask2FormerDetector, colors: ClipColorClassifier, image: Tensor, spec: Spec
        ) -> Score:  # fmt: skip
    rows, masks, labels = results(detector, image)
    threshold = RULE.score_above(spec.tag)
    objects: dict[str, list[Found]] = {}
    for k, name in enumerate(CLASSES):
        own = rows[labels == k]
        order = np.argsort(own[:, 4], kind="stable")[::-1]
        order = order[own[order, 4] > threshold][: RULE.max_objects]
        planes = masks[labels == k]
        if len(order):
            objects[name] = [Found(name, tuple(own[i, :4].tolist()), float(own[i, 4]),
                                   torch.from_numpy(planes[i])) for i in order]  # fmt: skip
    return judge(spec, objects, lambda it: colors.classify([(image, it)])[0], RULE)


def results(detector: Mask2FormerDetector, image: Tensor) -> tuple[np.ndarray, ...]:
    """mmdetection's result on the host: rows (100, 5), masks (100, H, W), labels (100,)."""
    ((logits, masks),) = detector.predict(image[None])
    p, index = logits.softmax(-1)[:, :-1].flatten().topk(len(logits))
    full = masks_at(masks[index // len(CLASSES)], (image.shape[-2], image.shape[-1]))
    inside = (full > 0).float()
    score = p * (full.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
    rows = torch.cat([tight_boxes(inside.bool()), score[:, None]], 1)
    return rows.cpu().numpy(), inside.bool().cpu().numpy(), (index % len(CLASSES)).cpu().numpy()


def timed(run: Callable[[], list[Score]], device: str) -> tuple[list[Score], dict[str, float]]:
    """What `run` gives, and its seconds (wall, and of this process's threads) and peak memory."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start, own = time.perf_counter(), time.process_time()
    scores = run()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    told = {"seconds": round(seconds, 3), "processor_seconds": round(time.process_time() - own, 3),
            "ms_per_picture": round(1e3 * seconds / len(scores), 2)}  # fmt: skip
    return scores, told | ({"GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2)} if cuda
                           else {})  # fmt: skip


def flips(scores: Sequence[Score], base: Sequence[Score]) -> int:
    return sum((a.correct, a.reason) != (b.correct, b.reason)
               for a, b in zip(scores, base, strict=True))  # fmt: skip


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, help="pictures in one pass (16 on a GPU, else 1)")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: a smoke run")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    device, preset = chosen.device, "tiny" if chosen.tiny else "official"
    torch.manual_seed(0)
    batch = chosen.batch or (16 if device.startswith("cuda") else 1)
    detector = build_detector(preset, device, batch)
    colors = build_colors(chosen.tiny, device)
    images, rng = pictures(chosen.images, chosen.size), np.random.default_rng(0)
    # The loop has transformers' network as it is, ours the lean one of the same weights.
    own = Mask2FormerDetector(lean(deepcopy(detector.model)), inputs, masks_at, classes=CLASSES,
                              batch=batch)  # fmt: skip
    own_colors = copy(colors)
    own_colors.model = lean_clip(deepcopy(colors.model))
    with exact_float32():
        found = [kept for image in images for kept in detector.detect(image[None])]
    specs = [demand(i, there, rng) for i, there in enumerate(found)]
    colors.columns(item.cls for spec in specs for item in spec.include if item.color)
    ways: dict[str, Callable[[], list[Score]]] = {
        "official-style loop": lambda: loop(detector, colors, images, specs),
        **{name: lambda scorer=scorer: scorer.score(images, specs) for name, scorer in (
            ("ours, plain float32", OfficialScorer(own, own_colors, thresholds=RULE)),
            ("ours", OfficialScorer(own, own_colors, thresholds=RULE, precision=split_float32)),
            ("ours, details=asked", OfficialScorer(own, own_colors, thresholds=RULE,
                                                   details="asked", precision=split_float32)),
            ("ours, fast", OfficialScorer(own, own_colors, thresholds=RULE, details="asked",
                                          precision=fast_bfloat16(device))),
        )},
    }  # fmt: skip
    told: dict[str, dict[str, Any]] = {}
    base: list[Score] = []
    for name, run in ways.items():
        try:
            if device.startswith("cuda"):
                run()  # compiles and warms up kernels, and the allocator
            scores, told_one = timed(run, device)
        except Exception as error:  # one way that fails hides no other's figures
            told[name] = {"error": f"{type(error).__name__}: {error}"[:1000]}
            continue
        base = base or scores
        told[name] = told_one | {"flips": flips(scores, base)}
    print(json.dumps({
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(), "torch": torch.__version__, "networks": preset,
        "images": chosen.images, "size": chosen.size, "batch": batch,
        "correct": sum(bool(s.correct) for s in base),
        "objects_per_picture": round(sum(o.score > RULE.threshold for f in found for o in f)
                                     / len(found), 1),
        "ways": told,
    }, indent=2))  # fmt: skip
    if any("error" in one for one in told.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
