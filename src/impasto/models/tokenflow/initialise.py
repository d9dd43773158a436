"""Fresh weights of TokenFlow's transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from impasto.models.tokenflow.model import TokenFlowTransformer

__all__ = ["initialise"]


@torch.no_grad()
def initialise(model: TokenFlowTransformer) -> TokenFlowTransformer:
    """Fresh weights: matrices and embeddings normal of std 0.02, as Llama's; levels and positions
    truncated normal of std sqrt(1 / 3C), norms 1 and the projector torch's own, as the released
    training adds them to a Llama."""
    trunk: Any = model.model
    for module in (*trunk.layers.modules(), model.lm_head, trunk.embed_tokens):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    std = (1 / (3 * trunk.pos_1LC.shape[-1])) ** 0.5
    for weight in (trunk.lvl_embed.weight, trunk.pos_1LC):
        nn.init.trunc_normal_(weight, std=std)
    return model
