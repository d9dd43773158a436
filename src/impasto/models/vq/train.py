"""The losses of the "vq" tokenizers.

    L_vq + L_commit (`models.codebooks`); with levels nothing is learnt by the quantiser

to which the trainer adds the picture's. Source: Sun et al. 2024 (LlamaGen, arXiv 2406.06525),
section 2.2.
"""

from __future__ import annotations

from torch import Tensor

from impasto.models.codebooks import Learnt
from impasto.models.vq.tokenizer import VQTokenizer

__all__ = ["quantised"]


def quantised(vae: VQTokenizer, z: Tensor) -> Learnt:
    """Features (B, C, h, w) as codes with their gradient, and what is to be added to the loss."""
    return vae.quantize.learnt(z.float())
