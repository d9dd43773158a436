"""Fresh weights of VAR's networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from impasto.models.next_scale.initialise import truncated_normal
from impasto.models.var.model import VARTransformer

__all__ = ["initialise"]


@torch.no_grad()
def initialise(model: VARTransformer, gamma: float = 1e-3) -> VARTransformer:
    """Fresh weights as the published training starts from.

    Linears, embeddings and positions truncated normal of std sqrt(1 / 3C); head x 0.02; what ends
    a branch / sqrt(2 depth); rows of AdaLN that make scales and shifts x 0.5, those of the gammas
    x gamma (published: 1e-3 to depth 20, 1e-4 for 24, 1e-5 for 30, 5e-6 for 36); the head's
    modulation x 0.5; where AdaLN is shared the constants are normal / sqrt(C), by the same
    factors; biases 0.
    """
    blocks: Any = model.blocks
    width, depth = model.pos_start.shape[-1], len(blocks)
    truncated_normal(model, (model.pos_start, model.pos_1LC), width)
    head: Any = model.head_nm.ada_lin[1]
    model.head.weight.mul_(0.02)
    head.weight.mul_(0.5)
    for block in blocks:
        for ending in (block.attn.proj, block.ffn.fc2):
            ending.weight.div_((2 * depth) ** 0.5)
        rows = _modulating(block, width)
        rows[:2].mul_(gamma)
        rows[2:].mul_(0.5)
    return model


def _modulating(block: Any, width: int) -> torch.Tensor:
    """What makes the six of a block, (6, ...): a view of its weights."""
    if hasattr(block, "ada_gss"):
        nn.init.normal_(block.ada_gss, std=width**-0.5)
        return block.ada_gss[0, 0]
    return block.ada_lin[1].weight.view(6, width, width)
