"""Linear layers of few bits in plain PyTorch, for machines without the libraries that have them.

    PlainNF4       weights in 4 bits: memory as bitsandbytes has it; a table, absmax, a product
    DynamicFP8     weights and activations in float8 (e4m3), a scale a row of each: speed, lossy
    DynamicINT8    the same in int8, symmetric

NF4's second quantisation is linear here, 8 bits in blocks of 256 around the mean, where
bitsandbytes has levels of its own: the same bytes, other rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DynamicFP8", "DynamicINT8", "PlainNF4", "replace_linears"]

NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
       0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
       0.7229568362236023, 1.0)  # fmt: skip
"""Dettmers et al. 2023 (arXiv 2305.14314), appendix E."""


def _blocks(values: Tensor, size: int) -> Tensor:
    """(n,) as (blocks, size), zeros after the end."""
    return F.pad(values, (0, -len(values) % size)).view(-1, size)


class PlainNF4(nn.Module):
    """Of a linear layer; doubled: whether absmax are quantised too."""

    def __init__(self, linear: nn.Linear, doubled: bool = True) -> None:
        super().__init__()
        w, levels = linear.weight.detach(), torch.tensor(NF4, device=linear.weight.device)
        self.shape, self.bias = w.shape, linear.bias
        blocks = _blocks(w.flatten().float(), 64)
        top = blocks.abs().amax(1)
        bounds = (levels[1:] + levels[:-1]) / 2
        q = torch.bucketize(blocks / top.clamp(min=1e-12)[:, None], bounds, out_int32=True)
        self.register_buffer("codes", (q[:, ::2] * 16 + q[:, 1::2]).to(torch.uint8))
        first, second = levels.repeat_interleave(16), levels.repeat(16)
        self.register_buffer("pairs", torch.stack([first, second], 1).to(w.dtype))
        self.doubled = doubled
        if doubled:
            mean = top.mean()
            rest = _blocks(top - mean, 256)
            step = (rest.abs().amax(1) / 127).clamp(min=1e-12)
            self.register_buffer("mean", mean)
            self.register_buffer("step", step)
            self.register_buffer("absmax", (rest / step[:, None]).round().to(torch.int8))
        else:
            self.register_buffer("absmax", top)

    def weight(self) -> Tensor:
        top = self.absmax
        if self.doubled:
            top = (top * self.step[:, None] + self.mean).flatten()[: len(self.codes)]
        w = F.embedding(self.codes.int(), self.pairs).flatten(1)  # (blocks, 64)
        w = w * top[:, None].to(w.dtype)
        return w.flatten()[: self.shape.numel()].view(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight(), self.bias)


def _rows(x: Tensor, top: float) -> Tensor:
    """Scale of every row of (M, K): (M, 1), float32."""
    return (x.float().abs().amax(1, keepdim=True) / top).clamp(min=1e-12)


class DynamicFP8(nn.Module):
    """y = (x / s_x)(w / s_w)^T s_x s_w + b; products in float8 on Hopper, elsewhere the same
    rounding with products in the activations' dtype."""

    TOP = 448.0

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        w = linear.weight.detach()
        self.outputs, self.bias = len(w), linear.bias
        s = _rows(w, self.TOP)
        self.register_buffer("q", (w.float() / s).to(torch.float8_e4m3fn))
        self.register_buffer("s", s.t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        s = _rows(flat, self.TOP)
        q = (flat.float() / s).to(torch.float8_e4m3fn)
        if x.is_cuda and x.dtype == torch.bfloat16:
            y = torch._scaled_mm(q, self.q.t(), scale_a=s, scale_b=self.s, bias=self.bias,
                                 out_dtype=x.dtype)  # fmt: skip
        else:
            w = self.q.to(x.dtype) * self.s.t().to(x.dtype)
            y = F.linear(q.to(x.dtype) * s.to(x.dtype), w, self.bias)
        return y.view(*x.shape[:-1], self.outputs)


class DynamicINT8(nn.Module):
    """The same with int8 products summed in int32."""

    TOP = 127.0

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        w = linear.weight.detach()
        self.outputs, self.bias = len(w), linear.bias
        s = _rows(w, self.TOP)
        self.register_buffer("q", (w.float() / s).round().to(torch.int8))
        self.register_buffer("s", s.t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        s = _rows(flat, self.TOP)
        q = (flat.float() / s).round().to(torch.int8)
        y = (torch._int_mm(q, self.q.t()) * s * self.s).to(x.dtype)
        return (y if self.bias is None else y + self.bias).view(*x.shape[:-1], self.outputs)


@torch.no_grad()
def replace_linears(
    model: nn.Module, make: Callable[[nn.Linear], nn.Module],
    where: Callable[[str], bool] = lambda path: True,
) -> int:  # fmt: skip
    """Replace linear layers whose path `where` takes, one by one; how many."""
    found = [path for path, m in model.named_modules() if isinstance(m, nn.Linear) and where(path)]
    for path in found:
        parent, _, name = path.rpartition(".")
        holder = model.get_submodule(parent)
        setattr(holder, name, make(getattr(holder, name)))
    return len(found)
