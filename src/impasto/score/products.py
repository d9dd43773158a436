"""Linear layers with what follows them, and float32 products on tensor cores.

A product of float32 is three of TF32 (Ootomo & Yokota 2022):

    x = x' + x'' + e,   w = w' + w'' + e       x', x'' with 11 bits each, |e| <= 2^-22 |x|
    y = sum_k x'_k w'_k + x'_k w''_k + x''_k w'_k + b

with float32 sums: what is left out, x'' w'', is of the order of a float32 product's own rounding.
Measured on an H100, the mean error of a layer is half of torch's float32 product's.
No TF32 in the sense of torch's switch, which keeps x' w' alone (2^-11). Products of bfloat16 are
plain ones. Activation and residual are added to the sums before they are rounded and stored.
"""

# ruff: noqa: ANN001, ANN202, PLR0917 (a kernel's arguments are pointers and numbers)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["convolution", "linear"]

def _configs(depth: int, sizes: tuple[tuple[int, int, int, int], ...]) -> list[triton.Config]:
    """Of (rows, columns, warps, stages)."""
    return [triton.Config({"ROWS": rows, "COLUMNS": columns, "DEPTH": depth}, num_warps=warps,
                          num_stages=stages)
            for rows, columns, warps, stages in sizes]  # fmt: skip


CONFIGS = _configs(32, ((128, 128, 8, 3), (128, 128, 4, 2), (128, 64, 4, 3)))
HALVES = _configs(64, ((128, 256, 8, 3), (128, 128, 8, 3)))
GROUP = 8
"""Blocks of rows whose blocks of columns are computed one after another, for the cache."""
DEEP, EVEN = 256, 64
"""Depths from which blocks are chosen anew; of which multiples need no mask."""


@triton.jit
def _linear(
    x, weight, bias, residual, out, rows, columns, depth,
    DEEPER: tl.constexpr, EVEN: tl.constexpr, ACTIVATION: tl.constexpr, ADD: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A block of `ROWS` by `COLUMNS`, of float32 or halves; sums are float32."""
    number, down, across = tl.program_id(0), tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS)
    first = number // (GROUP * across) * GROUP
    high = tl.minimum(down - first, GROUP)
    row = (first + number % (GROUP * across) % high) * ROWS + tl.arange(0, ROWS)
    column = number % (GROUP * across) // high * COLUMNS + tl.arange(0, COLUMNS)
    step = tl.arange(0, DEPTH)
    left = x + (row % rows).to(tl.int64)[:, None] * depth + step[None, :]
    right = weight + (column % columns)[None, :] * depth + step[:, None]
    summed = tl.zeros((ROWS, COLUMNS), tl.float32)
    for done in range(0, depth, DEPTH):
        if EVEN:
            one, other = tl.load(left), tl.load(right)
        else:
            real = step < depth - done
            one = tl.load(left, mask=real[None, :], other=0.0)
            other = tl.load(right, mask=real[:, None], other=0.0)
        summed = tl.dot(one, other, summed, input_precision="tf32x3")
        left += DEPTH
        right += DEPTH
    summed += tl.load(bias + column % columns).to(tl.float32)[None, :]
    if ACTIVATION == "gelu":
        summed = 0.5 * summed * (1 + tl.erf(summed * 0.7071067811865476))
    if ACTIVATION == "relu":
        summed = tl.maximum(summed, 0.0)
    if ACTIVATION == "quick_gelu":
        summed = summed * tl.sigmoid(1.702 * summed)
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    there = (row < rows)[:, None] & (column < columns)[None, :]
    if ADD:
        summed += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
    tl.store(out + at, summed.to(out.dtype.element_ty), mask=there)


_of_floats = triton.autotune(CONFIGS, key=["DEEPER"])(_linear)
_of_halves = triton.autotune(HALVES, key=["DEEPER"])(_linear)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor, activation: str = "", residual: Tensor | None = None
) -> Tensor:
    """activation(x weight^T + bias) + residual, (..., N) as x, or as the residual where there is.

    x: (..., K) and weight: (N, K), both float32 or both bfloat16. activation: "", "gelu", "relu"
    or "quick_gelu". residual: (..., N).
    """
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    (rows, depth), columns = flat.shape, len(weight)
    dtype = x.dtype if residual is None else residual.dtype
    out = torch.empty(*x.shape[:-1], columns, dtype=dtype, device=x.device)
    grid = lambda chosen: (triton.cdiv(rows, chosen["ROWS"])  # noqa: E731
                           * triton.cdiv(columns, chosen["COLUMNS"]),)  # fmt: skip
    added = bias if residual is None else residual.contiguous()
    kernel = _of_floats if x.dtype == torch.float32 else _of_halves
    kernel[grid](flat, weight.contiguous(), bias, added, out, rows, columns, depth,
                 DEEPER=depth >= DEEP, EVEN=depth % EVEN == 0, ACTIVATION=activation,
                 ADD=residual is not None, GROUP=GROUP)  # fmt: skip
    return out


@triton.autotune(CONFIGS, key=[])
@triton.jit
def _convolution(
    x, weight, out, height, width, channels, columns,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """`ROWS` pixels of a picture by `COLUMNS` features; channels are a multiple of `DEPTH`."""
    picture, size = tl.program_id(2).to(tl.int64), height * width
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    y, across, step = pixel // width, pixel % width, tl.arange(0, DEPTH)
    summed = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tap in range(9):
        down, right = tap // 3 - 1, tap % 3 - 1
        inside = ((y + down >= 0) & (y + down < height) & (across + right >= 0)
                  & (across + right < width))  # fmt: skip
        seen = tl.where(inside, pixel + down * width + right, 0)
        left = x + (picture * size + seen)[:, None] * channels + step[None, :]
        kernel = weight + (tap * columns + column % columns)[None, :] * channels + step[:, None]
        for _ in range(0, channels, DEPTH):
            value = tl.load(left, mask=inside[:, None], other=0.0)
            summed = tl.dot(value, tl.load(kernel), summed, input_precision="tf32x3")
            left += DEPTH
            kernel += DEPTH
    at = (picture * columns + column)[None, :] * size + pixel[:, None]
    tl.store(out + at, summed, mask=(pixel < size)[:, None] & (column < columns)[None, :])


def convolution(x: Tensor, weight: Tensor) -> Tensor:
    """(B, N, H, W) float32: 3 x 3, padded by a pixel, without bias.

    x: (B, C, H, W) and weight: (N, C, 3, 3) float32, C a multiple of 32.
    """
    pictures, channels, height, width = x.shape
    columns = len(weight)
    out = torch.empty(pictures, columns, height, width, dtype=x.dtype, device=x.device)
    grid = lambda chosen: (triton.cdiv(height * width, chosen["ROWS"]),  # noqa: E731
                           triton.cdiv(columns, chosen["COLUMNS"]), pictures)  # fmt: skip
    _convolution[grid](x.permute(0, 2, 3, 1).contiguous(),
                       weight.permute(2, 3, 0, 1).contiguous(), out, height, width, channels,
                       columns)  # fmt: skip
    return out
