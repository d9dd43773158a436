"""Operators where diffusers calls something else: each is called as what it stands for.

    SequenceMixer   self-attention of PixArt, DiT and SANA (attn1), and of the image alone in
                    SD3.5's dual-attention layers (attn2)
    SpatialMixer    SANA's convolutional MLP, of maps (B, D, h, w)
    JointMixer,     SD3's joint attention, one softmax over [image; text]
    JointWindow

In a joint attention the pairs image-image are its self-attention; those with text are what the
picture knows of its prompt, and grow with N only. So, as with cross-attention elsewhere, only the
former are replaced. A window keeps the one softmax:

    image i sees images |i - j| <= w and all text;   text sees everything

Any other operator has no softmax to share with the text. What image i hears is

    op(x)_i + W_o sum_t a_it v_t,      a_it = exp(q_i k_t) / (e^s + sum_t exp(q_i k_t))

a head, with the host's own projections and s a learned number a head that stands for the image's
share of the softmax, at first that of N keys with product 0: s = log N. Text hears what it did.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.models.edited.operators.windows import window_attention

__all__ = ["JointMixer", "JointWindow", "SequenceMixer", "SpatialMixer"]


def _refuse(**given: Any) -> None:
    """What an operator has no use for must not be given: it would be ignored."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"a grafted attention cannot use {name!r}; leave it out, or graft "
                             f"other blocks")  # fmt: skip


class SequenceMixer(nn.Module):
    """An operator (B, N, D) -> (B, N, D), called as a self-attention of diffusers is."""

    def __init__(self, operator: nn.Module) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, hidden_states: Tensor, **given: Any) -> Tensor:
        _refuse(**given)
        return self.operator(hidden_states)


class SpatialMixer(nn.Module):
    """An operator on maps (B, D, h, w), whose tokens come row by row."""

    def __init__(self, operator: nn.Module) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        return self.operator(x.flatten(2).mT).mT.reshape(x.shape)


def _projected(
    attention: Any, x: Tensor, context: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Queries, keys and values (B, H, N, d) of the image and of the text, as the softmax sees
    them."""
    q, k, v = (to(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
               for to in (attention.to_q, attention.to_k, attention.to_v))  # fmt: skip
    added = (attention.add_q_proj, attention.add_k_proj, attention.add_v_proj)
    tq, tk, tv = (to(context).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
                  for to in added)  # fmt: skip
    if attention.norm_q is not None:
        q, k = attention.norm_q(q), attention.norm_k(k)
    if attention.norm_added_q is not None:
        tq, tk = attention.norm_added_q(tq), attention.norm_added_k(tk)
    return (q, k, v), (tq, tk, tv)


def _out(attention: Any, image: Tensor) -> Tensor:
    image = image.transpose(1, 2).flatten(2)
    return attention.to_out[1](attention.to_out[0](image))


def _text(attention: Any, image: Any, text: Any) -> Tensor:
    """What text hears of everything, (B, T, D); projected where the block goes on with it."""
    k, v = (torch.cat(pair, dim=2) for pair in zip(image[1:], text[1:], strict=True))
    heard = F.scaled_dot_product_attention(text[0], k, v).transpose(1, 2).flatten(2)
    return heard if attention.context_pre_only else attention.to_add_out(heard)


class JointWindow:
    """Processor of a joint attention of diffusers in which images see `window` tokens to each side
    and all text."""

    def __init__(self, window: int) -> None:
        self.window = window

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor,
        **given: Any,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        _refuse(**given)
        image, text = _projected(attn, hidden_states, encoder_hidden_states)
        heard = window_attention(*image, self.window, shared=text[1:])
        return _out(attn, heard), _text(attn, image, text)


class JointMixer(nn.Module):
    """An operator among images in a joint attention, whose text goes on as before.

    joint: the host's attention. tokens: N of a whole picture, 1 where it is not known.
    """

    def __init__(self, joint: Any, operator: nn.Module, tokens: int) -> None:
        super().__init__()
        self.joint, self.operator = joint, operator
        self.sink = nn.Parameter(torch.full((joint.heads,), math.log(tokens)))

    @property
    def context_pre_only(self) -> bool:
        return self.joint.context_pre_only

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, **given: Any
    ) -> tuple[Tensor, Tensor]:
        _refuse(**given)
        image, text = _projected(self.joint, hidden_states, encoder_hidden_states)
        heard = self.operator(hidden_states) + _out(self.joint, self._of_text(image[0], text))
        return heard, _text(self.joint, image, text)

    def _of_text(self, q: Tensor, text: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """sum_t a_it v_t (B, H, N, d): one more key of value 0 takes the image's share."""
        k, v = (F.pad(x, (0, 0, 0, 1)) for x in text[1:])
        share = F.pad(self.sink.to(q.dtype)[None, :, None, None], (k.shape[2] - 1, 0))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=share.expand(
            len(q), -1, q.shape[2], -1))  # fmt: skip
