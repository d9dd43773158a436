"""The losses of the "var" family, as plain functions.

Transformer, all scales in one sequence under the block-causal mask:

    i_1 ... i_K = tokens of a picture, of the frozen tokenizer
    input of scale k > 1 = area(f^_k-1, scale k),  f^ of the tokens themselves (teacher forcing)
    loss = mean over all tokens of CE(logits, i)

A row's class is replaced by the null class with probability 0.1.

Tokenizer (VAR's quantiser as it trains):

    L_VQ = mean over k of  0.25 |f - sg(f^_k)|^2 + |f^_k - sg(f)|^2

The decoder is given f^_K with f's gradient, straight through the sum of all scales. Codebook and
phis learn from the second term alone. The trap of such a tokenizer are coarse scales that use a
few codes only: `bench.reconstruction.codebook_use` shows it, `restart_unused` puts codes back to
where residuals are.

Source: Tian et al. 2024 (VAR, arXiv 2404.02905), algorithm 1, and the official quantiser's
`forward`; the tokenizer's training code is not published. Restarts: Dhariwal et al. 2020 (Jukebox,
arXiv 2005.00341), section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.models.classes import drop_classes
from impasto.models.next_scale.maps import Sizes, block_causal_mask
from impasto.models.var.model import VARTransformer
from impasto.models.var.quantiser import Quantiser
from impasto.models.var.tokenizer import VARTokenizer

__all__ = ["Quantised", "TeacherForcing", "quantised", "restart_unused", "teacher_inputs",
           "token_loss", "training_loss"]  # fmt: skip

COMMITMENT = 0.25


@torch.no_grad()
def teacher_inputs(vae: VARTokenizer, ids: Sequence[Tensor], sizes: Sizes) -> list[Tensor]:
    """What the transformer is told before scales 2 to K: (B, h_k w_k, C) each, of the tokens
    (B, h_k w_k) of scales 1 to K - 1 (a K-th is not looked at)."""
    f_hat = torch.zeros(len(ids[0]), vae.channels, *sizes[-1], device=ids[0].device)
    f_hat = f_hat.contiguous(memory_format=torch.channels_last)
    inputs = []
    for k, following in enumerate(sizes[1:]):
        f_hat = vae.add_codes(f_hat, ids[k], k, sizes)
        inputs.append(vae.next_input(f_hat, following))
    return inputs


def token_loss(
    logits: Tensor, ids: Sequence[Tensor], sizes: Sizes
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, its mean a scale (K,), share of right tokens a scale (K,)).

    logits: (B, L, V) of all scales; ids: tokens (B, h_k w_k) of each.
    """
    wanted = torch.cat(list(ids), dim=1)
    each = F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), reduction="none")
    each = each.view(wanted.shape)
    counts = [h * w for h, w in sizes]
    with torch.no_grad():
        right = (logits.argmax(-1) == wanted).float()
        means = torch.stack([part.mean() for part in each.split(counts, dim=1)])
        shares = torch.stack([part.mean() for part in right.split(counts, dim=1)])
    return each.mean(), means, shares


class TeacherForcing(nn.Module):
    """`transformer` over all scales at once; the mask is made once, so that a compiled step holds
    nothing else."""

    mask: Tensor

    def __init__(self, transformer: VARTransformer) -> None:
        super().__init__()
        self.transformer = transformer
        mask = block_causal_mask(transformer.sizes, transformer.device)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, labels: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (B, L, V) of classes (B,) and codes."""
        condition = self.transformer.condition(labels)
        return self.transformer.teacher_forced(condition, inputs, self.mask)


def training_loss(
    forced: TeacherForcing, vae: VARTokenizer, ids: Sequence[Tensor], labels: Tensor, *,
    drop: float = 0.1, generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`token_loss` of one training step, teacher-forced over all scales.

    ids: tokens (B, h_k w_k) of each scale, of the frozen tokenizer; labels: (B,) classes.
    """
    model = forced.transformer
    told = teacher_inputs(vae, ids, model.sizes)
    dropped = drop_classes(labels, model.null_class, drop, generator)
    return token_loss(forced(dropped, told), ids, model.sizes)


# ---------------------------------------------------------------- the tokenizer


class Quantised(NamedTuple):
    """f_hat: (B, C, H, W) with f's gradient. loss: L_VQ. ids: tokens (B, h_k w_k) of each scale.
    rests: what was quantised, (B, C, h_k, w_k)."""

    f_hat: Tensor
    loss: Tensor
    ids: list[Tensor]
    rests: list[Tensor]


def quantised(
    quantize: Quantiser, f: Tensor, sizes: Sizes, *, scales: int | None = None
) -> Quantised:
    """Features (B, C, H, W) through the first `scales` scales, all by default.

    Raises ValueError for a number of scales that there is not.
    """
    scales = len(sizes) if scales is None else scales
    if not 1 <= scales <= len(sizes):
        raise ValueError(f"scales must be 1 to {len(sizes)}, given {scales!r}")
    f, f_hat, loss = f.float(), torch.zeros_like(f, dtype=torch.float32), f.new_zeros(())
    ids, rests = quantize.residual_tokens(f.detach(), sizes)
    for k in range(scales):
        f_hat = f_hat + quantize.summand(ids[k], k, sizes)
        near = COMMITMENT * F.mse_loss(f, f_hat.detach()) + F.mse_loss(f_hat, f.detach())
        loss = loss + near / scales
    straight = f + (f_hat - f).detach()
    return Quantised(straight, loss, ids[:scales], rests[:scales])


@torch.no_grad()
def restart_unused(
    quantize: Quantiser, rests: Sequence[Tensor], hits: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Move codes that nothing has hit to places of residuals drawn at random, scales alike.

    rests: (B, C, h_k, w_k) a scale; hits: (V,) how often each code was used. Returns which codes,
    bool (V,), have moved. generator: on the codebook's device.
    """
    weight, unused = quantize.embedding.weight, hits == 0
    by_scale = [rest.movedim(1, -1).flatten(0, 2) for rest in rests]
    draw = [torch.randint(len(own), (len(weight),), device=weight.device, generator=generator)
            for own in by_scale]  # fmt: skip
    found = torch.stack([own[at] for own, at in zip(by_scale, draw, strict=True)])
    which = torch.randint(len(rests), (len(weight),), device=weight.device, generator=generator)
    moved = found[which, torch.arange(len(weight), device=weight.device)].to(weight.dtype)
    weight.copy_(torch.where(unused[:, None], moved, weight))
    return unused
