"""Infinity's networks with random weights in which everything matters."""

from __future__ import annotations

import functools
from dataclasses import asdict

import torch

from impasto.models.infinity.config import PRESETS, TransformerConfig
from impasto.models.infinity.model import InfinityTransformer
from impasto.models.infinity.pipeline import InfinityGenerator
from impasto.models.infinity.sampler import Defaults
from impasto.models.infinity.schedules import schedule
from tests import tiny_mmdit

SCHEDULE = schedule(1.0, 4)  # 1, 2, 4, 6: 57 tokens


@torch.no_grad()
def enliven(model: InfinityTransformer, seed: int = 1) -> InfinityTransformer:
    """All weights but what must be zero at random, large enough for every term to be seen."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        std = 0.3 if "scale_mul" in name or parameter.ndim == 1 else parameter.shape[-1] ** -0.5
        noise = std * torch.randn(parameter.shape, generator=generator)
        parameter.copy_(parameter + noise if "scale_mul" in name or "norm" in name else noise)
    return model


def transformer(seed: int = 1, **changes) -> InfinityTransformer:
    config: TransformerConfig = PRESETS["tiny"]().transformer
    with torch.random.fork_rng():
        return enliven(InfinityTransformer(**asdict(config) | changes), seed).eval()


def texts(lengths=(5, 9), width=32, seed=0):
    """States (B, L, width) padded with garbage, and which are seen."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(len(lengths), max(lengths), width, generator=generator)
    return states, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def inputs(rows=2, bits=4, plan=SCHEDULE, seed=0):
    """Codes (B, L_k, bits) of scales 2 to K."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, h * w, bits, generator=generator) for h, w in plan.sizes[1:]]


@functools.cache
def tokenizer():
    return tiny_mmdit.tokenizer()


@torch.no_grad()
def generator(scales: int = 4, **defaults) -> InfinityGenerator:
    """Tiny, at temperature 1 and without top-p unless told otherwise, so that noise matters."""
    made = InfinityGenerator.from_config(PRESETS["tiny"](), tokenizer())
    settings = {"temperature": 1.0, "top_p": 0.0} | defaults
    enliven(made.transformer)
    return InfinityGenerator(**made.components, defaults=Defaults(scales=scales, **settings))
