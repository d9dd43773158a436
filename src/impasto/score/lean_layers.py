"""The layers that all networks are made of, by kernels on a GPU: linear, layer norm, convolution.

Each is transformers' or torch's own layer up to rounding, and their own code where there are no
kernels (`score.kernels`, `score.products`: they need Triton, which comes with torch for CUDA, and
tensors on a GPU). `FORWARDS` has what `score.lean` puts in place of the layers' `forward`.

    within `split_products`     float32 products are three of TF32 (`score.products`), whose error
                                is no larger than that of torch's own
    under bfloat16 autocast     products with an activation or a residual are one kernel, and layer
                                norms write the type that is read next
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.clip.modeling_clip import CLIPMLP

from impasto.score.switches import has_kernels, splitting

__all__ = ["FORWARDS", "halves", "kernels_of", "normed", "product"]

ROWS = 1024
"""Products of fewer rows are not worth a kernel of their own."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda x: x, "gelu": F.gelu, "relu": F.relu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}  # fmt: skip


def kernels_of(tensor: Tensor) -> ModuleType | None:
    """`score.kernels` where they run."""
    if not has_kernels(tensor.device):
        return None
    from impasto.score import kernels

    return kernels


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "",
    residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """activation(x weight^T + bias) + residual."""
    half = halves(x.device)
    follows = bool(activation) or residual is not None
    if bias is not None and x.shape[:-1].numel() >= ROWS and (
            _splits(x, weight) or (half and follows)):  # fmt: skip
        from impasto.score import products

        if half:
            x, weight = x.bfloat16(), weight.bfloat16()
        return products.linear(x, weight, bias, activation, residual)
    out = ACTIVATIONS[activation](F.linear(x, weight, bias))
    return out if residual is None else residual + out


def halves(device: torch.device) -> bool:
    """Whether linear layers run in bfloat16 there, and the kernels too."""
    return (has_kernels(device) and torch.is_autocast_enabled("cuda")
            and torch.get_autocast_dtype("cuda") == torch.bfloat16)  # fmt: skip


def normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """The layer norm that linear layers look at: in their type, which autocast would copy into."""
    return _layer_norm(norm, x, torch.bfloat16 if halves(x.device) else None)


def _layer_norm(self: nn.LayerNorm, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """In `dtype`, default float32 under autocast, as torch's, and x's own without."""
    kernels = kernels_of(x)
    if kernels is None or len(self.normalized_shape) != 1 or self.bias is None:
        return nn.LayerNorm.forward(self, x)
    usual = torch.float32 if torch.is_autocast_enabled("cuda") else x.dtype
    return kernels.layer_norm(x, self.weight, self.bias, self.eps, dtype or usual)


def _splits(x: Tensor, weight: Tensor) -> bool:
    return (splitting() and has_kernels(x.device) and x.dtype == weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cuda") and weight.shape[1] % 32 == 0)  # fmt: skip


def _linear(self: nn.Linear, x: Tensor) -> Tensor:
    return product(x, self.weight, self.bias)


def _convolution(self: nn.Conv2d, x: Tensor) -> Tensor:
    plain = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups)
    if plain != ((3, 3), (1, 1), (1, 1), (1, 1), 1) or self.bias is not None:
        return nn.Conv2d.forward(self, x)
    if not _splits(x, self.weight):
        return nn.Conv2d.forward(self, x)
    from impasto.score import products

    return products.convolution(x, self.weight)


def _clip_mlp(self: Any, hidden_states: Tensor) -> Tensor:
    if self.config.hidden_act not in ACTIVATIONS:
        return CLIPMLP.forward(self, hidden_states)
    inner = product(hidden_states, self.fc1.weight, self.fc1.bias, self.config.hidden_act)
    return self.fc2(inner)


FORWARDS: dict[type[nn.Module], Callable[..., Any]] = {
    CLIPMLP: _clip_mlp, nn.Linear: _linear, nn.Conv2d: _convolution, nn.LayerNorm: _layer_norm,
}  # fmt: skip
