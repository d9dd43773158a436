"""The convolutional autoencoder of tokenizers: VQGAN's, with or without attention.

GroupNorm (eps 1e-6), SiLU, 3 x 3 convolutions; residual blocks a level (one more in the decoder),
halved by a strided convolution padded right and below, doubled by nearest neighbours. With
attention, every block of the coarsest level is followed by one head over all places, and the
middle has one:

    x + W_o softmax(q k^T / sqrt(C)) v,      q, k, v = W GroupNorm(x)

Published files name the same weights in two ways: `conv1.weight`, `norm1.weight` (VAR), and
wrapped, `conv1.conv.weight`, `norm1.norm.weight` (Infinity). Source: Esser et al. 2021
(arXiv 2012.09841), appendix A.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Decoder", "Encoder"]


class Conv(nn.Conv2d):
    def __init__(self, inside: int, outside: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(inside, outside, kernel, stride, 0 if stride == 2 else kernel // 2)


class Norm(nn.GroupNorm):
    """GroupNorm, then SiLU."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class WrappedConv(nn.Module):
    def __init__(self, *args: int, **kwargs: int) -> None:
        super().__init__()
        self.conv = Conv(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class WrappedNorm(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = Norm(channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Layers(NamedTuple):
    """What a network is made of. attention: whether there is any."""

    conv: Callable[..., Any]
    norm: Callable[..., Any]
    groups: int
    attention: bool


def _layers(groups: int, attention: bool, wrapped: bool) -> Layers:
    if wrapped:
        return Layers(WrappedConv, WrappedNorm, groups, attention)
    return Layers(Conv, Norm, groups, attention)


class Residual(nn.Module):
    def __init__(self, inside: int, outside: int, of: Layers) -> None:
        super().__init__()
        self.norm1, self.conv1 = of.norm(inside, of.groups), of.conv(inside, outside)
        self.norm2, self.conv2 = of.norm(outside, of.groups), of.conv(outside, outside)
        if inside != outside:
            self.nin_shortcut = of.conv(inside, outside, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    """One head, of all places to all."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.qkv = Conv(channels, 3 * channels, kernel=1)
        self.proj_out = Conv(channels, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)
        q, k, v = (part[:, None] for part in qkv.chunk(3, dim=-1))
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.proj_out(seen.transpose(1, 2).unflatten(2, x.shape[-2:]))


class Downsample(nn.Module):
    def __init__(self, channels: int, of: Layers) -> None:
        super().__init__()
        self.conv = of.conv(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int, of: Layers) -> None:
        super().__init__()
        self.conv = of.conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one resolution, and the way to the next."""

    def __init__(
        self, inside: int, outside: int, blocks: int, of: Layers, *, attention: bool
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            Residual(inside if i == 0 else outside, outside, of) for i in range(blocks)
        )
        own = range(blocks if attention else 0)
        self.attn = nn.ModuleList(Attention(outside, of.groups) for _ in own)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class Middle(nn.Module):
    def __init__(self, channels: int, of: Layers) -> None:
        super().__init__()
        self.block_1 = Residual(channels, channels, of)
        if of.attention:
            self.attn_1 = Attention(channels, of.groups)
        self.block_2 = Residual(channels, channels, of)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block_1(x)
        return self.block_2(self.attn_1(x) if hasattr(self, "attn_1") else x)


class Encoder(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] -> features (B, d, H / s, W / s), s = 2^(levels - 1).

    channels: d. widths: channels a level. blocks: a level. groups: of GroupNorm. wrapped: names.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], blocks: int, groups: int, *,
        attention: bool = False, wrapped: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        of, last = _layers(groups, attention, wrapped), len(widths) - 1
        self.conv_in = of.conv(3, widths[0])
        self.down = nn.ModuleList()
        for i, (inside, outside) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            level = Level(inside, outside, blocks, of, attention=attention and i == last)
            if i < last:
                level.downsample = Downsample(outside, of)
            self.down.append(level)
        self.mid = Middle(widths[-1], of)
        self.norm_out, self.conv_out = of.norm(widths[-1], groups), of.conv(widths[-1], channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(self.norm_out(self.mid(x)))


class Decoder(nn.Module):
    """The encoder's mirror, one residual block a level more. `up` is in order of resolution,
    finest first, and runs backwards.

    pixels: a side, that the last convolution makes at each place of the finest level (sub-pixel
    convolution, Shi et al. 2016, arXiv 1609.05158); 1 in the published ones.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], blocks: int, groups: int, *,
        attention: bool = False, wrapped: bool = False, pixels: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        of, last = _layers(groups, attention, wrapped), len(widths) - 1
        self.conv_in = of.conv(channels, widths[-1])
        self.mid = Middle(widths[-1], of)
        self.up = nn.ModuleList()
        for i, (outside, inside) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True)):
            level = Level(inside, outside, blocks + 1, of, attention=attention and i == last)
            if i:
                level.upsample = Upsample(outside, of)
            self.up.append(level)
        self.pixels = pixels
        self.norm_out = of.norm(widths[0], groups)
        self.conv_out = of.conv(widths[0], 3 * pixels**2)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return F.pixel_shuffle(self.conv_out(self.norm_out(x)), self.pixels)
