"""Fresh weights of Infinity's transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from impasto.models.infinity.model import InfinityTransformer
from impasto.models.next_scale.initialise import truncated_normal

__all__ = ["initialise"]


@torch.no_grad()
def initialise(model: InfinityTransformer) -> InfinityTransformer:
    """Fresh weights as the published training starts from.

    Linears and embeddings truncated normal of std sqrt(1 / 3C); head x 0.02; what ends a branch
    / sqrt(2 depth); ada_gss normal / sqrt(C), then gammas x 5e-6, scales and shifts x 1e-3; head
    modulation x 1e-3; biases 0; cfg_uncond std 1.2 / sqrt(text width).
    """
    blocks: Any = model.blocks
    width, depth = model.pos_start.shape[-1], len(blocks)
    truncated_normal(model, (model.pos_start, model.text_proj_for_sos.ca.mat_q), width)
    nn.init.trunc_normal_(model.cfg_uncond, std=1.2 / model.cfg_uncond.shape[1] ** 0.5)
    head: Any = model.head_nm.ada_lin[1]
    model.head.weight.mul_(0.02)
    head.weight.mul_(1e-3)
    for block in blocks:
        for ending in (block.sa.proj, block.ca.proj, block.ffn.fc2):
            ending.weight.div_((2 * depth) ** 0.5)
        nn.init.normal_(block.ada_gss, std=width**-0.5)
        block.ada_gss[:, :, :2].mul_(5e-6)
        block.ada_gss[:, :, 2:].mul_(1e-3)
    return model
