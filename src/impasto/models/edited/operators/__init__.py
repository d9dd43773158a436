"""Operators that take the place of a block's self-attention or MLP, by name."""

from impasto.models.edited.operators.attention import SelfAttention
from impasto.models.edited.operators.base import OPERATORS, PLACES, build_operator
from impasto.models.edited.operators.hyena import ChannelHyena, Hyena
from impasto.models.edited.operators.mamba import Mamba2
from impasto.models.edited.operators.mlp import MLP

__all__ = ["MLP", "OPERATORS", "PLACES", "ChannelHyena", "Hyena", "Mamba2", "SelfAttention",
           "build_operator"]  # fmt: skip
