"""The plain tokenizer: convolutions around one codebook, one id a place.

    z = quant_conv(encoder(x)),    i = nearest code (`models.codebooks`),    y = decoder(post(e_i))

or, with `levels`, every channel of z is bounded and rounded to one of so many values, and i is
their number in a mixed base (FSQ, of the library vector-quantize-pytorch). Source: config.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from impasto.models.codebooks import Codebook, Learnt
from impasto.models.convolutional import Decoder, Encoder
from impasto.models.discrete import DiscreteTokenizer
from impasto.models.next_scale.blocks import full_precision
from impasto.models.next_scale.maps import Sizes, from_tokens, to_tokens

__all__ = ["Levels", "VQTokenizer"]


class Levels(nn.Module):
    """FSQ with a codebook's methods. Codes are in [-1, 1]; nothing is learnt here."""

    def __init__(self, levels: Sequence[int]) -> None:
        from vector_quantize_pytorch import FSQ  # a second of imports, for this alone

        super().__init__()
        self.fsq = FSQ(levels=list(levels))
        self.vocabulary, self.channels = int(self.fsq.codebook_size), len(levels)

    def codes(self, ids: Tensor) -> Tensor:
        return self.fsq.indices_to_codes(ids).float()

    def nearest(self, z: Tensor) -> Tensor:
        return self.learnt(z).ids

    def learnt(self, z: Tensor) -> Learnt:
        """Straight through the rounding; there is no loss to it."""
        with full_precision(z.device):
            codes, ids = self.fsq(to_tokens(z.float()))
        none = z.new_zeros((), dtype=torch.float32)
        return Learnt(from_tokens(codes, (z.shape[2], z.shape[3])), none, none, ids.long())


class VQTokenizer(DiscreteTokenizer):
    """Pictures <-> h/f x w/f ids; see `config.TokenizerConfig` for the arguments."""

    @register_to_config
    def __init__(
        self, *, widths: Sequence[int], z: int, vocabulary: int | None = None,
        channels: int | None = None, levels: Sequence[int] | None = None, blocks: int = 2,
        groups: int = 32,
    ) -> None:  # fmt: skip
        super().__init__()
        if (levels is None) == (vocabulary is None or channels is None):
            raise ValueError(f"give either a vocabulary with its channels or levels; given "
                             f"{vocabulary!r}, {channels!r}, {levels!r}")  # fmt: skip
        self.encoder = Encoder(z, widths, blocks, groups, attention=True)
        self.decoder = Decoder(z, widths, blocks, groups, attention=True)
        self.quantize: Any = (Levels(levels) if levels is not None else
                              Codebook(vocabulary or 0, {"embedding": channels or 0}))
        self.vocabulary, self.channels = self.quantize.vocabulary, self.quantize.channels
        self.quant_conv = nn.Conv2d(z, self.channels, 1)
        self.post_quant_conv = nn.Conv2d(self.channels, z, 1)
        self.factor = 2 ** (len(widths) - 1)

    @property
    def token_parts(self) -> tuple[nn.Module, ...]:
        return self.encoder, self.quant_conv, self.quantize

    def sizes_of(self, height: int, width: int) -> Sizes:
        if min(height, width) < self.factor or height % self.factor or width % self.factor:
            raise ValueError(f"this tokenizer takes pictures whose sides are multiples of "
                             f"{self.factor} pixels, not {width} x {height}")  # fmt: skip
        return ((height // self.factor, width // self.factor),)

    def features(self, images: Tensor) -> Tensor:
        return self.quant_conv(self.encoder((2 * images - 1).to(self.dtype))).float()

    def encode(self, images: Tensor, sizes: Sizes | None = None) -> list[Tensor]:
        own = self.sizes_of(images.shape[2], images.shape[3])
        if sizes not in (None, own):
            raise ValueError(f"these pictures have one map of {own[0]}, given {sizes}")
        return [self.quantize.nearest(self.features(images))]

    def codes(self, ids: Tensor) -> Tensor:
        return self.quantize.codes(ids)

    def features_of(self, ids: Sequence[Tensor], sizes: Sizes) -> Tensor:
        return from_tokens(self.codes(ids[0]), sizes[0])

    def picture(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z.to(self.dtype))).float()
