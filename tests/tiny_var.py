"""VAR's networks with random weights in which everything matters."""

from __future__ import annotations

from dataclasses import asdict

import torch

from impasto.models.var.config import PRESETS
from impasto.models.var.model import VARTransformer
from impasto.models.var.pipeline import VARGenerator
from impasto.models.var.sampler import Defaults
from impasto.models.var.tokenizer import VARTokenizer

CONFIG = PRESETS["tiny"]()
SIZES = ((1, 1), (2, 2), (4, 4))


@torch.no_grad()
def enliven(model: VARTransformer, seed: int = 1) -> VARTransformer:
    """All weights at random, large enough for every term to be seen."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        std = 0.3 if "scale_mul" in name or parameter.ndim == 1 else parameter.shape[-1] ** -0.5
        noise = std * torch.randn(parameter.shape, generator=generator)
        parameter.copy_(parameter + noise if "scale_mul" in name else noise)
    return model


def transformer(seed: int = 1, **changes) -> VARTransformer:
    with torch.random.fork_rng():
        return enliven(VARTransformer(**asdict(CONFIG.transformer) | changes), seed).eval()


def tokenizer(seed: int = 0, **changes) -> VARTokenizer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VARTokenizer(**asdict(CONFIG.tokenizer) | changes).eval()


def inputs(rows=2, channels=8, sizes=SIZES, seed=0):
    """Codes (B, L_k, channels) of scales 2 to K."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, h * w, channels, generator=generator) for h, w in sizes[1:]]


@torch.no_grad()
def generator(**defaults) -> VARGenerator:
    """Tiny, without top-k and top-p unless told otherwise, so that noise matters."""
    made = VARGenerator.from_config(CONFIG)
    settings = {"classes": CONFIG.classes, "top_k": 0, "top_p": 0.0} | defaults
    enliven(made.transformer)
    return VARGenerator(**made.components, defaults=Defaults(**settings))
