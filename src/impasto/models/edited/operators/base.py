"""What operators are and what they share.

An operator is a module (B, N, D) -> (B, N, D) that stands in a block for its self-attention or
its MLP (Chandrasegaran et al. 2025, arXiv 2506.05340, table 1); tokens of a picture come row by
row. A causal depthwise filter of K taps pads K - 1 zeros on the left:

    y[n, c] = b[c] + sum_k w[c, k] x[n - K + 1 + k, c]

so the last tap is the token itself and rows of a picture run on into each other.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.zoo.registry import Registry, nearest

__all__ = ["OPERATORS", "PLACES", "CausalConv", "build_operator", "fused_kernel",
           "identity_filter_", "shifted_sum"]  # fmt: skip

OPERATORS: Registry[nn.Module] = Registry("operator")
"""Name -> builder(width=, heads=, tokens=, **options); width D, tokens N of a whole picture."""

PLACES: dict[str, tuple[str, ...]] = {
    "attention": ("attention", "sliding-window", "hyena-se", "hyena-x", "hyena-y", "mamba-2"),
    "mlp": ("mlp", "mlp-hyena-x"),
}
"""Place in a block -> operators that may stand there."""

GIVEN = ("width", "heads", "tokens")
POSITIVE = ("taps", "state", "expand", "head")
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", lambda x: type(x) is int),
    "float": ("a number", lambda x: type(x) in (int, float) and math.isfinite(x)),
    "bool": ("true or false", lambda x: type(x) is bool),
}
"""A builder's annotation of an option, as written -> in words, and whether a value is of it."""


def build_operator(
    name: str, *, width: int, heads: int, tokens: int | None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:  # fmt: skip
    """The operator `name` with fresh weights.

    width: D. heads: of the host's attention. tokens: of a whole picture, None where that is not
    known. Raises ValueError for an unknown name, an unknown option, a value of another kind than
    the option's, or a size that does not fit.
    """
    factory, options = OPERATORS.factory(name), dict(options or {})
    kinds = {key: parameter.annotation for key, parameter in
             inspect.signature(factory).parameters.items() if key not in GIVEN}  # fmt: skip
    for key, value in options.items():
        if key not in kinds:
            raise ValueError(f"unknown option {key!r} for operator {name!r}: "
                             f"{nearest(key, list(kinds))}")  # fmt: skip
        what, fits = KINDS[kinds[key]]
        if not fits(value) or (key in POSITIVE and value < 1):
            least = " of at least 1" if key in POSITIVE else ""
            raise ValueError(f"operator {name!r}: {key} must be {what}{least}, given {value!r}")
    return factory(width=width, heads=heads, tokens=tokens, **options)


def fused_kernel(module: str, name: str, x: Tensor) -> Any:
    """A function of an optional package for x; None where there is none, or x is on no GPU."""
    if x.device.type != "cuda" or torch.compiler.is_compiling():
        return None
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        return None


def shifted_sum(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The filter as a sum of K shifted products, which a compiler makes one kernel with what is
    around it. x: (B, C, L); weight: (C, 1, K)."""
    taps, length = weight.shape[-1], x.shape[-1]
    padded = F.pad(x, (taps - 1, 0))
    total = sum(padded[..., k : k + length] * weight[:, :, k] for k in range(taps))
    return total if bias is None else total + bias[:, None]  # type: ignore[return-value]


class CausalConv(nn.Conv1d):
    """Causal depthwise filter over the last axis: (B, C, L) -> (B, C, L); weight (C, 1, K)."""

    def __init__(self, channels: int, taps: int) -> None:
        if taps < 1:
            raise ValueError(f"a filter has at least 1 tap, given {taps}")
        super().__init__(channels, channels, taps, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return shifted_sum(x, self.weight, self.bias)
        fused = fused_kernel("causal_conv1d", "causal_conv1d_fn", x)
        if fused is not None and 2 <= self.kernel_size[0] <= 4:
            return fused(x, self.weight[:, 0].to(x.dtype), self.bias.to(x.dtype))  # type: ignore
        return super().forward(F.pad(x, (self.kernel_size[0] - 1, 0)))


@torch.no_grad()
def identity_filter_(conv: CausalConv) -> None:
    """Last tap 1, all else 0."""
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    conv.weight[..., -1] = 1
