"""Tokenizers of one codebook with random weights in which everything matters."""

from __future__ import annotations

from dataclasses import asdict

import torch

from impasto.models.vq import PRESETS, VQTokenizer
from tests.random_weights import named_random


def tokenizer(seed: int = 0, **changes) -> VQTokenizer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VQTokenizer(**asdict(PRESETS["tiny"]()) | changes).eval()


@torch.no_grad()
def official_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Weights for LlamaGen's names, each from its own name; norms around 1."""
    return {key: named_random(key, shape) + ("norm" in key and key.endswith("weight"))
            for key, shape in shapes.items()}  # fmt: skip


def pictures(count: int = 2, side: int = 16) -> torch.Tensor:
    """In [0, 1]: the sine of 7 t, t from -1 to 1 over all values."""
    x = torch.linspace(-1, 1, count * 3 * side * side).reshape(count, 3, side, side).mul(7).sin()
    return (x + 1) / 2
