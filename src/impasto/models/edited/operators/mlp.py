"""The MLP of a transformer's block, of any width: W_2 gelu(W_1 x), D -> rD -> D."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from impasto.models.edited.operators.base import OPERATORS

__all__ = ["MLP"]


class MLP(nn.Module):
    """GELU by its tanh form; tensors are named as published."""

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inside), nn.Linear(inside, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


@OPERATORS.register("mlp")
def mlp(*, width: int, heads: int, tokens: int | None, ratio: float = 4) -> MLP:
    """The MLP with ratio · D features inside; 4 is the control, with fresh weights."""
    inside = round(ratio * width)
    if inside < 1:
        raise ValueError(f"an mlp's ratio must leave features inside, given {ratio} of {width}")
    return MLP(width, inside)
