"""Fresh weights, as far as VAR's and Infinity's published trainings start alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["truncated_normal"]


@torch.no_grad()
def truncated_normal(model: nn.Module, own: Sequence[Tensor], width: int) -> None:
    """Weights of linears and embeddings, then `own` parameters: truncated normal of std
    sqrt(1 / 3C), biases 0. width: C."""
    std = (1 / (3 * width)) ** 0.5
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
    for weight in own:
        nn.init.trunc_normal_(weight, std=std)
