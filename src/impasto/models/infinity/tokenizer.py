"""Infinity's tokenizer: `models.convolutional` without attention around `quantiser`.

Two residual blocks a level in the published ones. Parameter names are the published files'
(`…conv1.conv.weight`, `…norm1.norm.weight`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from impasto.models.convolutional import Decoder, Encoder
from impasto.models.infinity import quantiser
from impasto.models.next_scale.maps import Size, Sizes

__all__ = ["InfinityTokenizer"]


class InfinityTokenizer(ModelMixin, ConfigMixin):
    """Pictures <-> bits of K scales. Sizes are (height, width) in the transformer's tokens.

    bits: d, of one place of the features. widths: channels a level; each but the first halves.
    patch: places a side that make one token (2 for the 8B model), so a token has d patch^2 bits.
    decoder_widths: the decoder's, where they are not the encoder's; of fewer levels, its last
    convolution makes the pixels that are left.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self, bits: int, widths: Sequence[int], blocks: int = 2, groups: int = 32, patch: int = 1,
        *, decoder_widths: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        back = widths if decoder_widths is None else decoder_widths
        if not 1 <= len(back) <= len(widths):
            raise ValueError(f"the decoder must have 1 to {len(widths)} levels, as the encoder, "
                             f"given widths {list(back)}")  # fmt: skip
        self.encoder = Encoder(bits, widths, blocks, groups, wrapped=True)
        self.decoder = Decoder(bits, back, blocks, groups, wrapped=True,
                               pixels=2 ** (len(widths) - len(back)))  # fmt: skip
        self.patch = patch
        self.token_bits: int = bits * patch**2
        self.factor = 2 ** (len(widths) - 1)
        self.stride: int = self.factor * patch

    @property
    def token_parts(self) -> tuple[nn.Module, ...]:
        """What tokens depend on."""
        return (self.encoder,)

    def map_size(self, size: Size) -> Size:
        """The features' size where there are (h, w) tokens."""
        return (size[0] * self.patch, size[1] * self.patch)

    def map_sizes(self, sizes: Sizes) -> Sizes:
        return tuple(self.map_size(size) for size in sizes)

    def features(self, images: Tensor) -> Tensor:
        """f (B, d, H, W), float32, of pictures (B, 3, H_pixels, W_pixels) in [0, 1]."""
        return self.encoder((2 * images - 1).to(self.dtype)).float()

    def encode(self, images: Tensor, sizes: Sizes) -> list[Tensor]:
        """Bits, bool (B, h_k w_k, token_bits) a scale, of pictures (B, 3, H, W) in [0, 1].

        Raises ValueError when the last size is not that of the pictures.
        """
        targets, _ = quantiser.residual_bits(self.features(images), self.map_sizes(sizes))
        return [quantiser.to_tokens(bits.float(), self.patch) > 0.5 for bits in targets]

    def add_codes(self, f_hat: Tensor, bits: Tensor, size: Size) -> Tensor:
        """f^ (B, d, H, W) with the codes of one more scale: bits (B, h w, token_bits)."""
        own = quantiser.from_tokens(bits.float(), size, self.patch)
        return f_hat + quantiser.linear(quantiser.codes(own), (f_hat.shape[-2], f_hat.shape[-1]))

    def next_input(self, f_hat: Tensor, size: Size) -> Tensor:
        """What the transformer is told before a scale: f^ resized, (B, h w, token_bits)."""
        return quantiser.to_tokens(quantiser.linear(f_hat, self.map_size(size)), self.patch)

    def picture(self, f_hat: Tensor) -> Tensor:
        """What the decoder makes of summed codes: (B, 3, H, W), float32, about [-1, 1]."""
        return self.decoder(f_hat.to(self.dtype)).float()

    def decode(self, f_hat: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of summed codes, of however many scales."""
        return (self.picture(f_hat) / 2 + 0.5).clamp(0, 1)

    def decode_tokens(self, bits: Sequence[Tensor], sizes: Sizes) -> Tensor:
        """Pictures in [0, 1] from the bits of the first len(bits) scales of `sizes`.

        Raises ValueError for no scale or more than there are.
        """
        if not 1 <= len(bits) <= len(sizes):
            raise ValueError(f"there must be bits of 1 to {len(sizes)} scales, given {len(bits)}")
        b, d = len(bits[0]), self.token_bits // self.patch**2
        f_hat = torch.zeros(b, d, *self.map_size(sizes[-1]), device=bits[0].device)
        for own, size in zip(bits, sizes, strict=False):
            f_hat = self.add_codes(f_hat, own, size)
        return self.decode(f_hat)
