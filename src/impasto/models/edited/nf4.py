"""NF4: bitsandbytes' 4-bit linear layers. Imported only where bitsandbytes is installed.

    m_b  = max |w_i| over block b of 64 consecutive weights
    q_i  = argmin_j |w_i / m_b - c_j|,   c the 16 levels of NF4;   w'_i = m_b c_{q_i}

With double quantisation the float32 m_b are themselves 8-bit codes, in blocks of 256 around their
mean. Source: Dettmers et al. 2023 (arXiv 2305.14314), section 3. Tensors and their names in a
state dict are bitsandbytes' own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import bitsandbytes as bnb
import torch
import torch.nn.functional as F
from bitsandbytes.nn import Params4bit
from torch import Tensor, nn

__all__ = ["BLOCK", "DOUBLE_BLOCK", "NF4Linear"]

BLOCK = 64
DOUBLE_BLOCK = 256


def _dequantised(codes: Tensor, state: Any) -> Tensor:
    """w' of a weight, on a processor.

    bitsandbytes' kernel for processors with AVX-512 begins a block at every row (0.50.2), which is
    wrong where rows are no whole number of blocks; so it is shown a block a row.
    """
    n, flat = math.prod(state.shape), copy.copy(state)
    blocks = -(-n // BLOCK)
    flat.shape = torch.Size((blocks, BLOCK))
    whole = F.pad(codes.flatten(), (0, blocks * BLOCK // 2 - codes.numel()))
    return bnb.functional.dequantize_4bit(whole, flat).flatten()[:n].view(state.shape)


class NF4Linear(bnb.nn.Linear4bit):
    """`linear` in NF4, computed in `compute`. Of one on the meta device: without weights yet."""

    weight: Any

    def __init__(self, linear: nn.Linear, compute: torch.dtype, doubled: bool) -> None:
        has_bias = linear.bias is not None
        super().__init__(linear.in_features, linear.out_features, has_bias, compute,
                         compress_statistics=doubled, quant_type="nf4", device="meta"
                         )  # fmt: skip
        self.doubled, self.bias = doubled, linear.bias
        if not linear.weight.is_meta:
            # Of the compute dtype, so that what is dequantised needs no cast.
            weight: Any = Params4bit(linear.weight.detach().to(compute), blocksize=BLOCK,
                                     compress_statistics=doubled, quant_type="nf4", module=self
                                     )  # fmt: skip
            self.weight = weight.to(linear.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """Not bitsandbytes' own: that one rounds the bias in place and, on processors with
        bfloat16 products, repacks the weights with rounded absmax, which are then what is saved.
        """
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        h = x.to(self.compute_dtype)
        if h.is_meta:  # FLOPs are being counted; the weight has lost its state
            y = F.linear(h, h.new_empty(self.out_features, self.in_features), bias)
        elif h.device.type == "cpu":
            y = F.linear(h, _dequantised(self.weight.data, self.weight.quant_state), bias)
        else:
            y = bnb.matmul_4bit(h, self.weight, self.weight.quant_state, bias=bias)
        return y.to(x.dtype)

    def parts(self) -> list[Tensor]:
        """What the weight takes in memory: codes, absmax, and the tables of levels."""
        state = self.weight.quant_state
        if state is None:
            return [self.weight.data]
        nested = [state.state2.absmax, state.state2.code, state.offset] if state.nested else []
        return [self.weight.data, state.absmax, state.code, *nested]

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weight from a state dict's tensors ("weight", "weight.absmax", …).

        Raises ValueError for tensors of another layer, or quantised in another way.
        """
        codes = tensors["weight"]
        stats: dict[str, Any] = {key: t for key, t in tensors.items() if key != "weight"}
        n = self.out_features * self.in_features
        try:
            weight = Params4bit.from_prequantized(codes, stats, device=codes.device, module=self)
        except (AssertionError, AttributeError, KeyError) as error:
            raise ValueError(f"no NF4 weight with its quant state: {error}") from error
        state = weight.quant_state
        found = (state.quant_type, tuple(state.shape), state.nested, state.blocksize, codes.shape)
        wanted = ("nf4", (self.out_features, self.in_features), self.doubled, BLOCK,
                  ((n + 1) // 2, 1))  # fmt: skip
        if found != wanted or codes.dtype != torch.uint8:
            raise ValueError(f"type, shape, double quantisation, block and codes are {found}; "
                             f"wanted: {wanted}")  # fmt: skip
        self.weight = weight
