"""Infinity's tokenizer: a convolutional autoencoder without attention around `quantiser`.

Encoder and decoder are those of VQGAN (Esser et al. 2021, arXiv 2012.09841) without attention:
GroupNorm (eps 1e-6), SiLU, 3 x 3 convolutions, two residual blocks a level (three in the decoder),
halved by a strided convolution padded right and below, doubled by nearest neighbours. Parameter
names are the published files' (`…conv1.conv.weight`, `…norm1.norm.weight`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from impasto.models.infinity import quantiser
from impasto.models.infinity.schedules import Size, Sizes

__all__ = ["Decoder", "Encoder", "InfinityTokenizer"]


class Conv(nn.Module):
    def __init__(self, inside: int, outside: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        padding = 0 if stride == 2 else kernel // 2
        self.conv = nn.Conv2d(inside, outside, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Norm(nn.Module):
    """GroupNorm, then SiLU."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(x))


class Residual(nn.Module):
    def __init__(self, inside: int, outside: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = Norm(inside, groups), Conv(inside, outside)
        self.norm2, self.conv2 = Norm(outside, groups), Conv(outside, outside)
        if inside != outside:
            self.nin_shortcut = Conv(inside, outside, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one resolution, and the way to the next."""

    def __init__(self, inside: int, outside: int, blocks: int, groups: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            Residual(inside if i == 0 else outside, outside, groups) for i in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class Middle(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = Residual(channels, channels, groups)
        self.block_2 = Residual(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.block_1(x))


class Encoder(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] -> features (B, d, H / s, W / s), s = 2^(levels - 1)."""

    def __init__(self, bits: int, widths: Sequence[int], blocks: int, groups: int) -> None:
        super().__init__()
        self.conv_in = Conv(3, widths[0])
        self.down = nn.ModuleList()
        for i, (inside, outside) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            level = Level(inside, outside, blocks, groups)
            if i < len(widths) - 1:
                level.downsample = Downsample(outside)
            self.down.append(level)
        self.mid = Middle(widths[-1], groups)
        self.norm_out, self.conv_out = Norm(widths[-1], groups), Conv(widths[-1], bits)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(self.norm_out(self.mid(x)))


class Decoder(nn.Module):
    """The encoder's mirror, one residual block a level more. `up` is in order of resolution,
    finest first, and runs backwards."""

    def __init__(self, bits: int, widths: Sequence[int], blocks: int, groups: int) -> None:
        super().__init__()
        self.conv_in = Conv(bits, widths[-1])
        self.mid = Middle(widths[-1], groups)
        self.up = nn.ModuleList()
        for i, (outside, inside) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True)):
            level = Level(inside, outside, blocks + 1, groups)
            if i:
                level.upsample = Upsample(outside)
            self.up.append(level)
        self.norm_out, self.conv_out = Norm(widths[0], groups), Conv(widths[0], 3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(self.norm_out(x))


class InfinityTokenizer(ModelMixin, ConfigMixin):
    """Pictures <-> bits of K scales. Sizes are (height, width) in the transformer's tokens.

    bits: d, of one place of the features. widths: channels a level; each but the first halves.
    patch: places a side that make one token (2 for the 8B model), so a token has d patch^2 bits.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self, bits: int, widths: Sequence[int], blocks: int = 2, groups: int = 32, patch: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = Encoder(bits, widths, blocks, groups)
        self.decoder = Decoder(bits, widths, blocks, groups)
        self.patch = patch
        self.token_bits: int = bits * patch**2
        self.stride: int = 2 ** (len(widths) - 1) * patch

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

    def decode(self, f_hat: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of summed codes, of however many scales."""
        out = self.decoder(f_hat.to(self.dtype)).float()
        return (out / 2 + 0.5).clamp(0, 1)

    def decode_bits(self, bits: Sequence[Tensor], sizes: Sizes) -> Tensor:
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
