"""TokenFlow's tokenizer with random weights in which everything matters."""

from __future__ import annotations

from dataclasses import asdict

import torch

from impasto.models.tokenflow import TOKENIZERS, TokenFlowTokenizer
from tests.random_weights import named_random

PUBLISHED = {
    "image": 16, "scales": (1, 2, 4), "tower": "clip", "tower_width": 24, "tower_side": 4,
    "vision": {"hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 2,
               "num_attention_heads": 2, "image_size": 16, "patch_size": 4,
               "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "target": 12, "vocabulary": 64, "semantic_channels": 6, "pixel_channels": 4,
    "widths": (32, 32, 64), "z": 16, "blocks": 2, "groups": 32, "semantic_blocks": 2,
    "semantic_heads": 2,
}  # fmt: skip
"""The small model that the official code was run at."""


def tokenizer(seed: int = 0, **changes) -> TokenFlowTokenizer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TokenFlowTokenizer(**asdict(TOKENIZERS["tiny"]()) | changes).eval()


@torch.no_grad()
def official_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Weights for the official names, each from its own name; norms around 1."""
    return {key: named_random(key, shape)
            + (("norm" in key or ".ln_" in key) and key.endswith("weight"))
            for key, shape in shapes.items()}  # fmt: skip


def pictures(side: int, count: int = 2) -> torch.Tensor:
    """In [0, 1]: the sine of 7 t, t from -1 to 1 over all values."""
    x = torch.linspace(-1, 1, count * 3 * side * side).reshape(count, 3, side, side).mul(7).sin()
    return (x + 1) / 2
