"""TokenFlow's tokenizer: what a picture means and how it looks, under one index.

    h = [task(semantic(x)), quant_conv(pixel encoder(x))]            (B, 32 + 8, S, S)
    rest = h,  f = 0;  for every scale s, coarse to fine:
        i = argmin of the sum of both distances, of area(rest, s)    `models.codebooks`
        u = bicubic(z_q(i), S);   f <- f + u;   rest <- rest - sg(u)
    picture  = pixel decoder(post_quant_conv(f's pixel half))
    meaning  = task'(semantic decoder(f's semantic half))            trained towards the teacher

f is a sum of vectors of length sqrt(2) and is not normalised again. Module names are the published
file's. Where a patch of the semantic tower is no power of two (384 px by 27 x 27), the pixel side
works on the picture enlarged to 16 px a place, and its result is shrunk again.

Source: Qu et al. 2024 (arXiv 2412.03069), section 3.1; the released code where they differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from impasto.models.codebooks import Codebook
from impasto.models.convolutional import Decoder, Encoder
from impasto.models.discrete import DiscreteTokenizer
from impasto.models.next_scale.maps import Sizes, area, bicubic, from_tokens, to_tokens
from impasto.models.tokenflow.semantic import SemanticDecoder, SemanticEncoder

__all__ = ["TokenFlowTokenizer"]


def _task(width: int, outside: int) -> nn.Sequential:
    first, last = nn.Linear(width, width), nn.Linear(width, outside)
    for layer in (first, last):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.Tanh(), last)


class TokenFlowTokenizer(DiscreteTokenizer):
    """Pictures of `image` x `image` <-> ids of several maps; see `config.TokenizerConfig`."""

    @register_to_config
    def __init__(
        self, *, image: int, scales: Sequence[int], tower: str, vision: Mapping[str, Any],
        tower_width: int, tower_side: int, target: int, vocabulary: int,
        semantic_channels: int = 32, pixel_channels: int = 8,
        weights: Sequence[float] = (1.0, 1.0), mean: Sequence[float] = (0.5,) * 3,
        std: Sequence[float] = (0.5,) * 3, widths: Sequence[int] = (128, 128, 256, 256, 512),
        z: int = 256, blocks: int = 2, groups: int = 32,
        decoder_widths: Sequence[int] | None = None, decoder_blocks: int | None = None,
        semantic_blocks: int = 3, semantic_heads: int = 12,
    ) -> None:  # fmt: skip
        super().__init__()
        self.factor, self.image = 2 ** (len(widths) - 1), image
        self.scales: Sizes = tuple((side, side) for side in scales)
        self.encoder_vqkd = SemanticEncoder(tower, vision, mean, std)
        self.encode_task_layer = _task(tower_width, semantic_channels)
        self.decoder_vqkd = SemanticDecoder(semantic_channels, tower_width, semantic_blocks,
                                            semantic_heads, tower_side)  # fmt: skip
        self.decode_task_layer = _task(tower_width, target)
        parts = {"embedding_vqkd": semantic_channels}
        if pixel_channels:
            parts["embedding_vqgan"] = pixel_channels
            self.encoder = Encoder(z, widths, blocks, groups, attention=True)
            self.quant_conv = nn.Conv2d(z, pixel_channels, 1)
        self.quantize = Codebook(vocabulary, parts, tuple(weights)[: len(parts)])
        self.vocabulary, self.channels = vocabulary, self.quantize.channels
        self.semantic_channels = semantic_channels
        self.post_quant_conv = nn.Conv2d(pixel_channels or semantic_channels, z, 1)
        self.decoder = Decoder(z, decoder_widths or widths, decoder_blocks or blocks, groups,
                               attention=True)  # fmt: skip

    # ---------------------------------------------------------------- pictures to ids

    @property
    def token_parts(self) -> tuple[nn.Module, ...]:
        pixel = (self.encoder, self.quant_conv) if hasattr(self, "encoder") else ()
        return self.encoder_vqkd, self.encode_task_layer, *pixel, self.quantize

    def sizes_of(self, height: int, width: int) -> Sizes:
        if (height, width) != (self.image, self.image):
            raise ValueError(f"this tokenizer takes pictures of {self.image} x {self.image} "
                             f"pixels, not {width} x {height}; crop or resize them")  # fmt: skip
        return self.scales

    def features(self, images: Tensor) -> Tensor:
        self.sizes_of(images.shape[2], images.shape[3])
        full = self.scales[-1]
        meaning = self.encode_task_layer(self.encoder_vqkd(images)).float()
        halves = [from_tokens(meaning, full)]
        if hasattr(self, "encoder"):
            large = bicubic(2 * images - 1, (full[0] * self.factor, full[1] * self.factor))
            halves.append(self.quant_conv(self.encoder(large.to(self.dtype))).float())
        return torch.cat(halves, dim=1)

    @torch.no_grad()
    def encode(self, images: Tensor, sizes: Sizes | None = None) -> list[Tensor]:
        """sizes: any of the scales; the last is that of the features."""
        rest, found = self.features(images), []
        for size in sizes or self.scales:
            found.append(self.quantize.nearest(area(rest, size)))
            rest = rest - self.summand(found[-1], size)
        return found

    # ---------------------------------------------------------------- ids to pictures

    def codes(self, ids: Tensor) -> Tensor:
        return self.quantize.codes(ids)

    def summand(self, ids: Tensor, size: tuple[int, int]) -> Tensor:
        """u (B, C, S, S), float32, of one scale's ids (B, h w)."""
        return self.enlarged(from_tokens(self.codes(ids), size))

    def enlarged(self, codes: Tensor) -> Tensor:
        """Codes (B, C, h, w) at the size of the features."""
        # Channels last: CUDA's interpolation in the other layout runs over the places alone.
        return bicubic(codes.contiguous(memory_format=torch.channels_last), self.scales[-1])

    def features_of(self, ids: Sequence[Tensor], sizes: Sizes) -> Tensor:
        parts = [self.summand(own, size) for own, size in zip(ids, sizes, strict=False)]
        return torch.stack(parts).sum(0)

    def picture(self, z: Tensor) -> Tensor:
        half = z[:, self.semantic_channels :] if hasattr(self, "encoder") else z
        y = self.decoder(self.post_quant_conv(half.to(self.dtype))).float()
        return bicubic(y, (self.image, self.image))

    def meaning(self, z: Tensor) -> Tensor:
        """What the codes say of the teacher's features: (B, S^2, T), float32."""
        half = z[:, : self.semantic_channels].to(self.dtype)
        return self.decode_task_layer(self.decoder_vqkd(half)).float()

    def tokens_of(self, z: Tensor) -> Tensor:
        """What a language model is given to read: all channels, (B, S^2, C), row by row."""
        return to_tokens(z)
