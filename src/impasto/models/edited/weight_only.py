"""INT8 and INT4 weights in torchao's plain layouts; linear layers that compute from them.

INT8, one symmetric scale s a row of the weight (O, I), float32:

    q = round(w / s) in [-128, 127],   y = (x q^T) s + b

INT4, groups of g neighbouring inputs, s and z in the weight's dtype (K/g, O):

    s = (max w - min w) / 15,   z = min w + 8 s,   q = round((w - min w) / s) - 8,   w' = q s + z

Two 4-bit numbers are one byte, the first in its low half. Bits a weight: 8 + 32 / I; 4 + 32 / g.
torchao quantises to INT8 and knows both layouts (`Int8Tensor`, `Int4Tensor`); torch computes, by
dequantising, on any device: memory is what is won, not time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GROUPS", "Int4Linear", "Int8Linear", "WeightOnlyLinear"]

GROUPS = (128, 64, 32)
"""Sizes of an INT4 group, as torchao's kernels have them."""


class WeightOnlyLinear(nn.Module):
    """A linear layer whose weight is several tensors: buffers by torchao's names in a file."""

    in_features: int
    out_features: int
    bias: nn.Parameter | None

    def __init__(self, linear: nn.Linear, compute: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.compute_dtype, self.bias = compute, linear.bias

    def _hold(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(f"_weight_{name}", tensor)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves; scales keep their dtype, for casting them would change every weight."""
        before: dict[str, Any] = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, tensor in before.items():
            moved: Any = self._buffers[name]
            if moved.dtype != tensor.dtype:
                self._buffers[name] = tensor.to(moved.device)
        return self

    def parts(self) -> list[Tensor]:
        """What the weight takes in memory."""
        return [tensor for tensor in self._buffers.values() if tensor is not None]

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weight from a state dict's tensors. Raises ValueError for another layer's."""
        for name, own in self._buffers.items():
            found = tensors.get(name)
            if own is None or found is None:
                raise ValueError(f"there is no {name}")
            if (found.shape, found.dtype) != (own.shape, own.dtype):
                raise ValueError(f"{name} is {tuple(found.shape)} in {found.dtype}; wanted: "
                                 f"{tuple(own.shape)} in {own.dtype}")  # fmt: skip
            self._buffers[name] = found.contiguous()

    @property
    def weight(self) -> Tensor:
        """(O, I), dequantised, in the compute dtype."""
        raise NotImplementedError

    def stock(self) -> Tensor:
        """The weight as torchao's tensor, over the same memory."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        return F.linear(x.to(self.compute_dtype), self.weight, bias).to(x.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class Int8Linear(WeightOnlyLinear):
    _weight_qdata: Tensor
    _weight_scale: Tensor

    def __init__(self, linear: nn.Linear, compute: torch.dtype) -> None:
        super().__init__(linear, compute)
        if linear.weight.is_meta:
            self._hold(qdata=torch.empty_like(linear.weight, dtype=torch.int8),
                       scale=torch.empty_like(linear.weight[:, :1], dtype=torch.float32)
                       )  # fmt: skip
            return
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        held = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        held.weight = nn.Parameter(linear.weight.detach().to(compute), requires_grad=False)
        quantize_(held, Int8WeightOnlyConfig(set_inductor_config=False))
        made: Any = held.weight
        self._hold(qdata=made.qdata.contiguous(), scale=made.scale.contiguous())

    @property
    def weight(self) -> Tensor:
        return (self._weight_qdata * self._weight_scale).to(self.compute_dtype)

    def forward(self, x: Tensor) -> Tensor:
        """In torchao's order: the scales act on the products."""
        q, s = (t.to(self.compute_dtype) for t in (self._weight_qdata, self._weight_scale))
        y = F.linear(x.to(self.compute_dtype), q) * s.flatten()
        if self.bias is not None:
            y = y + self.bias.to(self.compute_dtype)
        return y.to(x.dtype)

    def stock(self) -> Tensor:
        from torchao.quantization import Int8Tensor

        return Int8Tensor(self._weight_qdata, self._weight_scale, [1, self.in_features],
                          self.compute_dtype)  # fmt: skip


class Int4Linear(WeightOnlyLinear):
    """group: how many neighbouring inputs share a scale, a divisor of the inputs."""

    _weight_qdata: Tensor
    _weight_scale: Tensor
    _weight_zero_point: Tensor

    def __init__(self, linear: nn.Linear, compute: torch.dtype, group: int) -> None:
        super().__init__(linear, compute)
        self.group = group
        w = linear.weight.detach().to(compute).float().unflatten(1, (-1, group))  # (O, I/g, g)
        low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
        s = ((high - low) / 15).clamp(min=1e-6)
        q = ((w - low) / s).round().clamp(0, 15).to(torch.int8).flatten(1) - 8
        s, z = s[..., 0].t().contiguous(), (low + 8 * s)[..., 0].t().contiguous()
        self._hold(qdata=(q[:, ::2] & 15) | (q[:, 1::2] << 4), scale=s.to(compute),
                   zero_point=z.to(compute))  # fmt: skip

    @property
    def weight(self) -> Tensor:
        two = torch.stack([((self._weight_qdata & 15) ^ 8) - 8, self._weight_qdata >> 4], dim=-1)
        q = two.view(self.out_features, -1, self.group).to(self.compute_dtype)
        s, z = (t.t()[..., None] for t in (self._weight_scale, self._weight_zero_point))
        return (q * s + z).flatten(1)

    def stock(self) -> Tensor:
        from torchao.quantization import Int4Tensor

        return Int4Tensor(self._weight_qdata, self._weight_scale, self._weight_zero_point,
                          [1, self.group], torch.Size((self.out_features, self.in_features))
                          )  # fmt: skip
