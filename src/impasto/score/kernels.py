"""Triton kernels of Mask2Former's two attentions, where a GPU spends its time on small steps.

Deformable attention (Zhu et al. 2021, eq. 3), of query q and head h over levels l and points p:

    out_qh = sum_lp softmax_lp(A_qh) * bilinear(value_hl, r_ql * (W_l, H_l) + offset_qhlp - 1/2)

`bilinear` is 0 outside of the level, as grid_sample's with padding "zeros". The softmax, the
places and the sum are one pass; nothing of the size (queries x levels x points x width) is kept.

Window attention (Liu et al. 2021, eq. 4), of window w of the map shifted by s, with tokens i, j:

    out_i = sum_j softmax_j( q_i k_j / sqrt(d) + B_ij - 100 [region_i != region_j] ) v_j

reads tokens where they lie, so padding, rolling, cutting into windows and all the ways back cost
nothing. Tokens of the padding have no features: their key and value are the projections' biases.

Sums are float32 whatever the inputs are. Products of float32 in the window kernel are three TF32
products of halves (2^-22 relative), as in torch's own memory-efficient attention of float32.
"""

# ruff: noqa: ANN001, ANN202, PLR0917 (a kernel's arguments are pointers and numbers)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["deformable_attention", "layer_norm", "window_attention"]


@triton.jit
def _corner(base, x, y, weight, start, height, width, channel, STRIDE: tl.constexpr):
    """weight times the features at whole places (x, y) of a level; 0 outside."""
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    token = start + tl.where(inside, y * width + x, 0)
    seen = tl.load(base + token[:, None] * STRIDE + channel[None, :], mask=inside[:, None],
                   other=0.0)  # fmt: skip
    return weight[:, None] * seen.to(tl.float32)


@triton.jit
def _deformable(
    value, offsets, logits, reference, levels, out, queries, tokens,
    HEADS: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr, WIDTH: tl.constexpr,
    SAMPLES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One head of `BLOCK` queries of a picture."""
    head, picture = tl.program_id(1), tl.program_id(2).to(tl.int64)
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    query = picture * queries + tl.minimum(number, queries - 1)
    own = (query * HEADS + head) * (LEVELS * POINTS)
    sample, channel = tl.arange(0, SAMPLES), tl.arange(0, WIDTH)
    sure = tl.load(logits + own[:, None] + sample[None, :],
                   mask=(sample < LEVELS * POINTS)[None, :], other=float("-inf"))  # fmt: skip
    sure = sure.to(tl.float32)
    top = tl.max(sure, 1)
    total = tl.sum(tl.exp(sure - top[:, None]), 1)
    base = value + (picture * tokens * HEADS + head) * WIDTH
    summed = tl.zeros((BLOCK, WIDTH), tl.float32)
    for level in tl.static_range(LEVELS):
        height, width = tl.load(levels + 3 * level), tl.load(levels + 3 * level + 1)
        start = tl.load(levels + 3 * level + 2)
        place = reference + (query * LEVELS + level) * 2
        rx = tl.load(place).to(tl.float32) * width - 0.5
        ry = tl.load(place + 1).to(tl.float32) * height - 0.5
        for point in tl.static_range(POINTS):
            at = own + level * POINTS + point
            share = tl.exp(tl.load(logits + at).to(tl.float32) - top) / total
            x = rx + tl.load(offsets + 2 * at).to(tl.float32)
            y = ry + tl.load(offsets + 2 * at + 1).to(tl.float32)
            left, upper = tl.floor(x), tl.floor(y)
            right_part, lower_part = x - left, y - upper
            x0, y0 = left.to(tl.int32), upper.to(tl.int32)
            above, below = share * (1 - lower_part), share * lower_part
            summed += _corner(base, x0, y0, above * (1 - right_part), start, height, width,
                              channel, HEADS * WIDTH)  # fmt: skip
            summed += _corner(base, x0 + 1, y0, above * right_part, start, height, width,
                              channel, HEADS * WIDTH)  # fmt: skip
            summed += _corner(base, x0, y0 + 1, below * (1 - right_part), start, height, width,
                              channel, HEADS * WIDTH)  # fmt: skip
            summed += _corner(base, x0 + 1, y0 + 1, below * right_part, start, height, width,
                              channel, HEADS * WIDTH)  # fmt: skip
    target = out + (query * HEADS + head)[:, None] * WIDTH + channel[None, :]
    tl.store(target, summed.to(out.dtype.element_ty), mask=(number < queries)[:, None])


_LEVELS: dict[Any, Tensor] = {}


def _levels(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """(L, 3) int32: height, width and first token of each level, kept on the device."""
    key = tuple(shapes), device
    if key not in _LEVELS:
        starts = [sum(h * w for h, w in shapes[:k]) for k in range(len(shapes))]
        rows = [[h, w, start] for (h, w), start in zip(shapes, starts, strict=True)]
        _LEVELS[key] = torch.tensor(rows, dtype=torch.int32, device=device)
    return _LEVELS[key]


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], reference: Tensor, offsets: Tensor,
    logits: Tensor,
) -> Tensor:  # fmt: skip
    """(B, Q, H D): what the queries gather.

    value: (B, T, H, D), the levels of `shapes` (height, width) one after another. reference:
    (B, Q, L, 2), x and y in [0, 1]. offsets: (B, Q, H, L, P, 2) in pixels of their level. logits:
    (B, Q, H, L, P), before the softmax over levels and points. D is a power of two.
    """
    pictures, tokens, heads, width = value.shape
    queries, levels, points = logits.shape[1], logits.shape[3], logits.shape[4]
    out = torch.empty(pictures, queries, heads * width, dtype=value.dtype, device=value.device)
    block = 32
    _deformable[triton.cdiv(queries, block), heads, pictures](
        value.contiguous(), offsets.contiguous(), logits.contiguous(), reference.contiguous(),
        _levels(shapes, value.device), out, queries, tokens, HEADS=heads, LEVELS=levels,
        POINTS=points, WIDTH=width, SAMPLES=triton.next_power_of_2(levels * points), BLOCK=block,
        num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _window(
    qkv, padding, table, out, height, width, down, across, scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, WINDOW: tl.constexpr, SHIFT: tl.constexpr,
    ROOM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One head of a window of a picture; `ROOM` >= WINDOW^2."""
    window, head, picture = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    token, channel = tl.arange(0, ROOM), head * WIDTH + tl.arange(0, WIDTH)
    y = (window // across) * WINDOW + token // WINDOW
    x = (window % across) * WINDOW + token % WINDOW
    high, wide = down * WINDOW, across * WINDOW
    real = token < WINDOW * WINDOW
    old_y, old_x = (y + SHIFT) % high, (x + SHIFT) % wide
    there = real & (old_y < height) & (old_x < width)
    place = picture * height * width + tl.where(there, old_y * width + old_x, 0)
    at = qkv + place[:, None] * (3 * HEADS * WIDTH) + channel[None, :]
    q = tl.load(at, mask=there[:, None], other=0.0)
    k = tl.load(at + HEADS * WIDTH, mask=there[:, None], other=0.0)
    v = tl.load(at + 2 * HEADS * WIDTH, mask=there[:, None], other=0.0)
    no_key = tl.load(padding + HEADS * WIDTH + channel).to(k.dtype)
    no_value = tl.load(padding + 2 * HEADS * WIDTH + channel).to(v.dtype)
    k = tl.where(there[:, None], k, no_key[None, :])
    v = tl.where(there[:, None], v, no_value[None, :])
    pair = head * (WINDOW * WINDOW * WINDOW * WINDOW) + token[:, None] * (WINDOW * WINDOW)
    bias = tl.load(table + pair + token[None, :], mask=real[:, None] & real[None, :], other=0.0)
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale + bias.to(tl.float32)
    if SHIFT > 0:
        row = (y >= high - WINDOW).to(tl.int32) + (y >= high - SHIFT).to(tl.int32)
        column = (x >= wide - WINDOW).to(tl.int32) + (x >= wide - SHIFT).to(tl.int32)
        region = 3 * row + column
        s += tl.where(region[:, None] != region[None, :], -100.0, 0.0)
    s = tl.where(real[None, :], s, float("-inf"))
    p = tl.exp(s - tl.max(s, 1)[:, None])
    p = p / tl.sum(p, 1)[:, None]
    seen = tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
    target = out + place[:, None] * (HEADS * WIDTH) + channel[None, :]
    tl.store(target, seen.to(out.dtype.element_ty), mask=there[:, None])


def window_attention(
    qkv: Tensor, padding: Tensor, table: Tensor, size: tuple[int, int], window: int, shift: int,
    scale: float,
) -> Tensor:  # fmt: skip
    """(B, T, H D): attention within the windows of a map of `size` (height, width), T tokens.

    qkv: (B, T, 3 H D), queries, keys and values. padding: (3 H D,), those of a token of zeros.
    table: (H, N, N) biases, N = window^2 <= 64. D is a power of two from 16 on.
    """
    pictures, tokens, wide = qkv.shape
    heads = table.shape[0]
    width = wide // 3 // heads
    down, across = triton.cdiv(size[0], window), triton.cdiv(size[1], window)
    out = torch.empty(pictures, tokens, wide // 3, dtype=qkv.dtype, device=qkv.device)
    _window[down * across, heads, pictures](
        qkv.contiguous(), padding.contiguous(), table.contiguous(), out, size[0], size[1], down,
        across, scale, HEADS=heads, WIDTH=width, WINDOW=window, SHIFT=shift,
        ROOM=max(16, triton.next_power_of_2(window**2)), PRECISION="tf32x3", num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _layer_norm(
    x, weight, bias, out, rows, columns, eps, ROOM: tl.constexpr, BLOCK: tl.constexpr
):
    row, column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, ROOM)
    there = (row < rows)[:, None] & (column < columns)[None, :]
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    value -= (tl.sum(value, 1) / columns)[:, None]
    value = tl.where(there, value, 0.0)
    value *= tl.rsqrt(tl.sum(value * value, 1) / columns + eps)[:, None]
    scale = tl.load(weight + column, mask=column < columns, other=0.0)
    shift = tl.load(bias + column, mask=column < columns, other=0.0)
    tl.store(out + at, (value * scale[None, :] + shift[None, :]).to(out.dtype.element_ty),
             mask=there)  # fmt: skip


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """The layer norm of x (..., C) in `dtype`, computed in float32."""
    columns = x.shape[-1]
    rows = x.numel() // columns
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    room = triton.next_power_of_2(columns)
    block = max(1, 4096 // room)
    _layer_norm[triton.cdiv(rows, block),](x.contiguous(), weight, bias, out, rows, columns, eps,
                                           ROOM=room, BLOCK=block, num_warps=4)  # fmt: skip
    return out
