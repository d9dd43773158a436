"""The losses of the "infinity" family, as plain functions.

Transformer, with bitwise self-correction (Infinity, arXiv 2412.04431, section 3.4):

    R_k  = bits(area(f - cum_k))                            the target of scale k
    p_k ~ {0, 1, ..., 100 s} / 100                          one a scale for the whole batch
    R'_k = R_k, each bit flipped with p_k                   for the first `flipped_scales`
    cum_k+1 = cum_k + linear(codes(R'_k))                   in later inputs and later targets
    loss = sum_tokens w_k mean_bits CE(logits, R_k),   w_k ~ sqrt(A_K) / sqrt(A_k), normalised to
           sum 1 over all tokens: a scale weighs as the square root of its tokens A_k

The text of a row is replaced by the unconditional one with probability 0.1.

Tokenizer: bits with a straight-through gradient, and binary spherical quantisation's entropy in
its form per bit (arXiv 2406.07548, eq. 11 to 13): with p = sigmoid(4 z / sqrt(d) inv_temperature),

    L_entropy = mean H(p)  -  H(mean p)                     sure of each bit, and use both values

The trap of such a tokenizer are coarse scales that say the same of every picture; dropping a
random number of last scales makes the first ones carry, and `scale_entropies` shows whether they
do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.models.infinity import quantiser
from impasto.models.infinity.model import InfinityTransformer, block_causal_mask
from impasto.models.infinity.schedules import Schedule, Sizes
from impasto.models.infinity.tokenizer import InfinityTokenizer

__all__ = ["Corrected", "TeacherForcing", "bit_loss", "drop_text", "entropy_loss",
           "scale_entropies", "self_corrected", "token_weights", "tokenizer_codes",
           "training_loss"]  # fmt: skip


class Corrected(NamedTuple):
    """inputs: codes (B, L_k, bits) of scales 2 to K. targets: bits, bool (B, L_k, bits) of all.
    flipped: (K,) the share that was drawn for each scale."""

    inputs: list[Tensor]
    targets: list[Tensor]
    flipped: Tensor


@torch.no_grad()
def self_corrected(
    vae: InfinityTokenizer, f: Tensor, sizes: Sizes, *, strength: float = 0.3,
    flipped_scales: int = 13, generator: torch.Generator | None = None,
) -> Corrected:  # fmt: skip
    """What the transformer is told and asked, of features f (B, d, H, W).

    strength: s, the largest share of bits that is flipped; 0 for none. generator: on f's device.
    Raises ValueError for a strength outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be 0 to 1, given {strength!r}")
    # As tensors throughout: a number of Python's would wait for the device at every scale.
    shares = torch.randint(round(100 * strength) + 1, (len(sizes),), device=f.device,
                           generator=generator) / 100  # fmt: skip
    shares[flipped_scales:] = 0

    def flip(k: int, bits: Tensor) -> Tensor:
        u = torch.rand(bits.shape, device=f.device, generator=generator)
        return bits ^ (u < shares[k])

    # Channels last: CUDA's interpolation in the other layout runs over the places alone, 256 here,
    # and held a training step of 1,024 pictures up for 100 ms.
    f = f.float().contiguous(memory_format=torch.channels_last)
    targets, used = quantiser.residual_bits(f, vae.map_sizes(sizes), flip)
    f_hat = torch.zeros_like(f, dtype=torch.float32, memory_format=torch.channels_last)
    inputs: list[Tensor] = []
    for bits, following in zip(used, sizes[1:], strict=False):
        f_hat = f_hat + quantiser.linear(quantiser.codes(bits), (f.shape[-2], f.shape[-1]))
        inputs.append(vae.next_input(f_hat, following))
    asked = [quantiser.to_tokens(bits.float(), vae.patch) > 0.5 for bits in targets]
    return Corrected(inputs, asked, shares)


def token_weights(sizes: Sizes, device: torch.device | str = "cpu") -> Tensor:
    """w (L,), float32, sum 1: of a token of scale k proportional to 1 / sqrt(A_k)."""
    parts = [torch.full((h * w,), (h * w) ** -0.5, device=device) for h, w in sizes]
    w = torch.cat(parts)
    return w / w.sum()


def bit_loss(
    logits: Tensor, targets: Sequence[Tensor], sizes: Sizes
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, its mean a scale (K,), share of right bits a scale (K,)).

    logits: (B, L, bits, 2) of all scales; targets: bits (B, L_k, bits).
    """
    bits = torch.cat(list(targets), dim=1)
    each = F.cross_entropy(logits.movedim(-1, 1).float(), bits.long(), reduction="none")
    loss = (each.mean((0, 2)) * token_weights(sizes, each.device)).sum()
    right = (logits[..., 1] > logits[..., 0]) == bits
    counts = [h * w for h, w in sizes]
    with torch.no_grad():
        means = torch.stack([part.mean() for part in each.split(counts, dim=1)])
        shares = torch.stack([part.float().mean() for part in right.split(counts, dim=1)])
    return loss, means, shares


def drop_text(
    transformer: InfinityTransformer, states: Tensor, probability: float = 0.1,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """States (B, L, D) with each row replaced by the unconditional text with the probability.
    Gradients reach `cfg_uncond`."""
    u = torch.rand(len(states), 1, 1, device=states.device, generator=generator)
    return torch.where(u < probability, transformer.null_text(states.shape[1]), states)


class TeacherForcing(nn.Module):
    """`transformer` over all scales of one schedule at once; mask and places are made once, so
    that a compiled step holds nothing else."""

    mask: Tensor
    cosines: Tensor
    sines: Tensor

    def __init__(self, transformer: InfinityTransformer, plan: Schedule) -> None:
        super().__init__()
        self.transformer, self.plan = transformer, plan
        self.mask = block_causal_mask(plan, transformer.pos_start.device)
        self.cosines, self.sines = transformer.turn(plan)

    def forward(self, states: Tensor, seen: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (B, L, bits, 2) of texts (B, L_text, D), seen (B, L_text), and codes."""
        condition = self.transformer.condition(states, seen)
        return self.transformer.teacher_forced(condition, inputs, self.plan, mask=self.mask,
                                               turn=(self.cosines, self.sines))  # fmt: skip


def training_loss(
    forced: TeacherForcing, vae: InfinityTokenizer, f: Tensor, states: Tensor, seen: Tensor, *,
    strength: float = 0.3, drop: float = 0.1, generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`bit_loss` of one training step, teacher-forced over all scales.

    forced: a `TeacherForcing`, compiled or not. f: (B, d, H, W) of the frozen tokenizer; states:
    (B, L, D) text states, seen: bool (B, L).
    """
    sizes = forced.plan.sizes
    told = self_corrected(vae, f, sizes, strength=strength, generator=generator)
    states = drop_text(forced.transformer, states, drop, generator)
    return bit_loss(forced(states, seen, told.inputs), told.targets, sizes)


# ---------------------------------------------------------------- the tokenizer


def tokenizer_codes(
    vae: InfinityTokenizer, f: Tensor, sizes: Sizes, *, scales: int | None = None
) -> tuple[Tensor, list[Tensor]]:
    """(f^ of the first `scales` scales, the rests before each of them at its own size).

    f^ (B, d, H, W) has f's gradient, straight through the bits. Raises ValueError for a number of
    scales that there is not.
    """
    scales = len(sizes) if scales is None else scales
    if not 1 <= scales <= len(sizes):
        raise ValueError(f"scales must be 1 to {len(sizes)}, given {scales!r}")
    maps = vae.map_sizes(sizes)
    full = maps[-1]
    with torch.no_grad():
        bits, _ = quantiser.residual_bits(f, maps)
        f_hat = quantiser.sum_codes(bits[:scales], full)
    rest, rests = f.float(), []
    for own, size in zip(bits[:scales], maps, strict=False):
        rests.append(quantiser.area(rest, size))
        rest = rest - quantiser.linear(quantiser.codes(own), full)
    return f.float() + (f_hat - f.float()).detach(), rests


def entropy_loss(rests: Sequence[Tensor], inv_temperature: float = 100.0) -> Tensor:
    """Mean over scales of (a bit's own entropy - the batch's entropy), in nats.

    rests: (B, d, h_k, w_k) residuals, of which the direction alone counts. From -ln 2 (sure, and
    both values as often) to ln 2.
    """
    terms = []
    for rest in rests:
        z = F.normalize(rest.float(), dim=1)
        p = torch.sigmoid(4 * z / math.sqrt(z.shape[1]) * inv_temperature)
        terms.append(_entropy(p).mean() - _entropy(p.mean((0, 2, 3))).mean())
    return torch.stack(terms).mean()


def _entropy(p: Tensor) -> Tensor:
    p = p.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log())


@torch.no_grad()
def scale_entropies(bits: Sequence[Tensor]) -> Tensor:
    """Mean entropy of a bit for each scale (K,), in [0, 1], over pictures at the same place.

    bits: (B, L_k, d), of many pictures. A scale near 0 says the same of every picture.
    """
    values = []
    for own in bits:
        p = own.float().mean(0)
        values.append(_entropy(p).mean() / math.log(2))
    return torch.stack(values)
