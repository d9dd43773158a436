"""Published LlamaGen tokenizers <-> folders of ours.

Names of the convolutions: `models.llamagen`. Dropped, and made again on the way back:

    quantize.codebook_used (65536)     ids lately used, of the training
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from impasto.models.conversion import shape_of, write_network
from impasto.models.llamagen import from_llamagen, llamagen_sizes, to_llamagen
from impasto.models.vq.tokenizer import VQTokenizer
from impasto.zoo.convert import CONVERTERS, PARTS, ConversionReport

__all__ = ["official_tokenizer", "tokenizer_sizes", "vq"]

USED, USED_LENGTH = "quantize.codebook_used", 65536
PARTS |= {"vq": "model"}


def tokenizer_sizes(ours: Mapping[str, Tensor]) -> dict[str, Any]:
    """`TokenizerConfig`'s values, from the shapes under our names; GroupNorm has 32 groups in the
    published ones. Raises ValueError for another model's tensors."""
    vocabulary, channels = shape_of(ours, "quantize.embedding.weight")
    z = shape_of(ours, "quant_conv.weight")[1]
    return {"vocabulary": vocabulary, "channels": channels, "z": z, "groups": 32,
            **llamagen_sizes(ours)}  # fmt: skip


def official_tokenizer(model: VQTokenizer) -> dict[str, Tensor]:
    """The published file's tensors, no ids counted as used: the way back."""
    return {**to_llamagen(model.state_dict()), USED: torch.zeros(USED_LENGTH, device=model.device)}


@CONVERTERS.register("vq")
def vq(tensors: Mapping[str, Tensor], folder: Path) -> ConversionReport:
    """LlamaGen's tokenizer. Raises ValueError for another model's tensors."""
    state, names = from_llamagen({key: x for key, x in tensors.items() if key != USED})
    return write_network(VQTokenizer, tokenizer_sizes(state), state, folder,
                         source="LlamaGen's official code", names=names,
                         dropped=[USED] if USED in tensors else [])  # fmt: skip
