"""Fresh weights of LaytonGen's transformer."""

from __future__ import annotations

import torch
from torch import nn

from impasto.models.layton.model import LaytonTransformer

__all__ = ["initialise"]


@torch.no_grad()
def initialise(model: LaytonTransformer) -> LaytonTransformer:
    """Fresh weights as LlamaGen's training starts from: matrices and embeddings normal of std
    0.02, norms 1, the text for none normal of std D^-1/2; the head zero, so all ids are as likely.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    null = model.cls_embedding.uncond_embedding
    nn.init.normal_(null, std=null.shape[1] ** -0.5)
    nn.init.zeros_(model.output.weight)
    return model
