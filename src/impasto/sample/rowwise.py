"""Arithmetic that a row's neighbours cannot change, on a CPU.

A matrix product of B stacked rows is blocked by the library according to its whole shape, so row i
of F.linear(x) may differ in its last bit from F.linear(x[i:i+1]). Inside `rowwise_products` every
linear layer is B products of one fixed shape each, by one batched call,

    y_i = x_i W^T + b,    i = 1 .. B,    x_i: (L, D)

of at least as many products as there are threads, or else the library shares single products out
among them; and convolutions, GELU and SiLU are done row by row. (Threads share an elementwise
function out without regard to rows, and what is left over at a seam goes through a scalar version,
which may differ in the last bit.) What else a transformer has, attention, normalisation, sums and
products, works within a row in the first place. Figures: benchmarks/notes/batch-invariance.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["in_rows", "rowwise_linear", "rowwise_products"]


def in_rows(fn: Callable[[slice], Tensor], n: int, rows_at_once: int | None) -> Tensor:
    """`fn` of slices of `rows_at_once` rows (None: all `n`), results joined."""
    size = rows_at_once or n
    return torch.cat([fn(slice(i, min(i + size, n))) for i in range(0, n, size)])


def rowwise_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b for x (B, ..., D) as B separate products; W: (O, D), b: (O,)."""
    rows = x.reshape(len(x), -1, x.shape[-1])
    idle = torch.get_num_threads() - len(rows)
    if idle > 0:
        rows = torch.cat([rows, rows[:1].expand(idle, -1, -1)])
    y = torch.bmm(rows, weight.t().expand(len(rows), -1, -1))[: len(x)]
    return (y if bias is None else y.add_(bias)).view(*x.shape[:-1], -1)


def _each_row(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def by_rows(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return torch.cat([fn(row, *args, **kwargs) for row in x.split(1)])

    return by_rows


ROWWISE: Mapping[Callable[..., Tensor], Callable[..., Tensor]] = {
    F.linear: rowwise_linear,
    **{fn: _each_row(fn) for fn in (F.conv2d, F.gelu, F.silu)},
}


class _RowwiseProducts(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        return ROWWISE.get(func, func)(*args, **(kwargs or {}))


def rowwise_products(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The block's products row by row on a CPU; no change elsewhere. For inference only."""
    return _RowwiseProducts() if device.type == "cpu" else contextlib.nullcontext()
