"""FLOPs of a network call, 2 per multiply-add, the same on every device.

The network is run once on the meta device under torch's own `FlopCounterMode`, so nothing is
computed and kernels that the counter does not know (fused attention on a CPU) play no part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["count_flops", "flops_by_operation"]


def count_flops(module: nn.Module, *args: Any, **kwargs: Any) -> int:
    """FLOPs of `module(*args, **kwargs)`: matrix products, convolutions and attention.

    Tensor arguments may lie on any device; only their shapes and dtypes matter.
    """
    return sum(flops_by_operation(module, *args, **kwargs).values())


def flops_by_operation(module: nn.Module, *args: Any, **kwargs: Any) -> dict[str, int]:
    """What `count_flops` sums up, by torch's name of the operation, as "aten.convolution"."""
    held = dict(module.named_parameters()) | dict(module.named_buffers())
    meta = {name: tensor.detach().to("meta") for name, tensor in held.items()}
    args = tuple(_to_meta(value) for value in args)
    kwargs = {name: _to_meta(value) for name, value in kwargs.items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        functional_call(module, meta, args, kwargs)
    counts = counter.get_flop_counts().get("Global", {})
    return {str(operation): int(count) for operation, count in counts.items()}


def _to_meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value
