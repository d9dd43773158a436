"""Multi-scale residual binary spherical quantisation (BSQ): features to bits and back.

Full-size features f (B, d, H, W), sizes (h_1, w_1) ... (h_K, w_K) = (H, W), from coarse to fine:

    rest_1 = f
    R_k = [area(rest_k, h_k x w_k) > 0]                     bits (B, d, h_k, w_k)
    c_k = (2 R_k - 1) / sqrt(d)                             codes; a zero is bit 0
    rest_k+1 = rest_k - linear(c_k, H x W)
    f^ = sum_k linear(c_k, H x W)                           what the decoder sees

`area` averages, `linear` interpolates (align_corners=False); the published code interpolates 5-D
tensors of one frame trilinearly, which is the same. There is no codebook: 2^d codes without a
parameter. All in float32.

Source: Zhao et al. 2024 (BSQ, arXiv 2406.07548); Infinity (arXiv 2412.04431), section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from impasto.models.next_scale.maps import Size, area, from_tokens, linear, to_tokens

__all__ = ["area", "codes", "from_tokens", "linear", "residual_bits", "sum_codes", "to_tokens"]


def codes(bits: Tensor) -> Tensor:
    """c = (2 R - 1) / sqrt(d), float32, of bits (B, d, h, w)."""
    return (2 * bits.float() - 1) / bits.shape[1] ** 0.5


def residual_bits(
    f: Tensor, sizes: Sequence[Size], flip: Callable[[int, Tensor], Tensor] | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """(targets, used): per scale, the residual's bits and those whose codes are taken from it.

    f: (B, d, H, W). flip: (scale, bits) -> bits; None uses the targets themselves. With flips the
    later targets are bits of what the flipped ones left over. Raises ValueError when the last size
    is not that of f.
    """
    full: Size = (f.shape[-2], f.shape[-1])
    if not sizes or tuple(sizes[-1]) != full:
        raise ValueError(f"the last size must be the features' own, {full}, given {sizes}")
    rest, targets, used = f.float(), [], []
    for k, size in enumerate(sizes):
        bits = area(rest, size) > 0
        targets.append(bits)
        used.append(bits if flip is None else flip(k, bits))
        rest = rest - linear(codes(used[-1]), full)
    return targets, used


def sum_codes(bits: Sequence[Tensor], size: Size) -> Tensor:
    """f^ (B, d, *size) of the bits of any number of first scales, at least one."""
    total = linear(codes(bits[0]), size)
    for more in bits[1:]:
        total = total + linear(codes(more), size)
    return total
