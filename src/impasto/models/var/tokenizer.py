"""VAR's tokenizer: `models.convolutional` with attention, around `quantiser`.

Parameter names are the published file's (`vae_ch160v4096z32.pth`). Its moving averages of how
often each code is hit (`quantize.ema_vocab_hit_SV`) are not kept; `train.codes_used` counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from impasto.models.convolutional import Decoder, Encoder
from impasto.models.next_scale.maps import Size, Sizes, area, to_tokens
from impasto.models.var.quantiser import Quantiser

__all__ = ["VARTokenizer"]


class VARTokenizer(ModelMixin, ConfigMixin):
    """Pictures <-> tokens of K scales; see `config.TokenizerConfig` for the arguments.

    The sizes of the scales are not the tokenizer's: it is given them, (height, width) each, the
    last being the picture's sides over `stride`.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self, *, vocabulary: int, channels: int, widths: Sequence[int], blocks: int = 2,
        groups: int = 32, phis: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = Encoder(channels, widths, blocks, groups, attention=True)
        self.decoder = Decoder(channels, widths, blocks, groups, attention=True)
        self.quantize = Quantiser(vocabulary, channels, phis)
        self.quant_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.channels, self.factor = channels, 2 ** (len(widths) - 1)
        self.stride = self.factor

    @property
    def token_parts(self) -> tuple[nn.Module, ...]:
        """What tokens depend on."""
        return self.encoder, self.quant_conv, self.quantize

    def features(self, images: Tensor) -> Tensor:
        """f (B, C, H, W), float32, of pictures (B, 3, H_pixels, W_pixels) in [0, 1]."""
        return self.quant_conv(self.encoder((2 * images - 1).to(self.dtype))).float()

    def encode(self, images: Tensor, sizes: Sizes) -> list[Tensor]:
        """Tokens (B, h_k w_k), int64, a scale, of pictures (B, 3, H, W) in [0, 1].

        Raises ValueError when the last size is not that of the pictures.
        """
        return self.quantize.residual_tokens(self.features(images), sizes)[0]

    def add_codes(self, f_hat: Tensor, ids: Tensor, scale: int, sizes: Sizes) -> Tensor:
        """f^ (B, C, H, W) with the codes of one more scale, from 0: tokens (B, h_k w_k)."""
        return f_hat + self.quantize.summand(ids, scale, sizes)

    def next_input(self, f_hat: Tensor, size: Size) -> Tensor:
        """What the transformer is told before a scale: f^ averaged to it, (B, h w, C)."""
        return to_tokens(area(f_hat, size))

    def picture(self, f_hat: Tensor) -> Tensor:
        """What the decoder makes of summed codes: (B, 3, H, W), float32, about [-1, 1]."""
        return self.decoder(self.post_quant_conv(f_hat.to(self.dtype))).float()

    def decode(self, f_hat: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of summed codes, of however many scales."""
        return (self.picture(f_hat) / 2 + 0.5).clamp(0, 1)

    def decode_tokens(self, ids: Sequence[Tensor], sizes: Sizes) -> Tensor:
        """Pictures in [0, 1] from the tokens of the first len(ids) scales of `sizes`.

        Raises ValueError for no scale or more than there are.
        """
        if not 1 <= len(ids) <= len(sizes):
            raise ValueError(f"there must be tokens of 1 to {len(sizes)} scales, given {len(ids)}")
        f_hat = torch.zeros(len(ids[0]), self.channels, *sizes[-1], device=ids[0].device)
        for k, own in enumerate(ids):
            f_hat = self.add_codes(f_hat, own, k, sizes)
        return self.decode(f_hat)
