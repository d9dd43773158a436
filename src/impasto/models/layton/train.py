"""The "layton" family's losses, as plain functions.

Transformer, of the frozen tokenizer's ids, all at once under the causal mask:

    loss = mean over the picture's ids of CE(logits of the place before, id)

A caption is replaced by the learned text with probability 0.1, which guidance needs, behind the
caption's own empty slots. Tokens and what attentions and feed-forward networks add are dropped
with 0.1 (`config.TransformerConfig`). Source: Xie et al. 2025 (arXiv 2503.08377); LlamaGen's
text-conditional trainer for what the paper does not say.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.models.layton.model import LaytonTransformer
from impasto.models.layton.text import left_padded

__all__ = ["DROP_CAPTION", "TeacherForcing", "drop_captions", "next_id_loss"]


# ---------------------------------------------------------------- the transformer

DROP_CAPTION = 0.1


def drop_captions(
    transformer: LaytonTransformer, states: Tensor, probability: float = DROP_CAPTION,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """States (B, text, D) with each row replaced by the learned text with the probability, to
    which gradients reach."""
    u = torch.rand(len(states), 1, 1, device=states.device, generator=generator)
    return torch.where(u < probability, transformer.null_text(transformer.text), states)


class TeacherForcing(nn.Module):
    """`transformer` over whole pictures at once, so that a compiled step holds nothing else."""

    def __init__(self, transformer: LaytonTransformer) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, states: Tensor, there: Tensor, ids: Tensor) -> Tensor:
        return self.transformer.teacher_forced(states, there, ids)


def next_id_loss(
    forced: TeacherForcing, ids: Tensor, states: Tensor, there: Tensor, *,
    drop: float = DROP_CAPTION, generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(loss, share of right ids) of one training step.

    forced: compiled or not. ids: (B, N). states: (B, text, D) of the text encoder, padded behind
    the captions; there: bool (B, text), where they are.
    """
    states, there = left_padded(states, there)
    logits = forced(drop_captions(forced.transformer, states, drop, generator), there, ids)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten())
    with torch.no_grad():
        return loss, (logits.argmax(-1) == ids).float().mean()
