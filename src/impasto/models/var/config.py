"""Sizes of the "var" family, by the names of the published models.

    tokenizer     codebook, channels a place and a level       `TOKENIZERS`
    transformer   depth; width 64 depth, heads depth           `TRANSFORMERS`
    whole         both, with the names of the classes          `PRESETS`: sticker, tiny

One published tokenizer serves all: 256 px by 16 x 16 tokens, 512 px by 32 x 32.
"""

from __future__ import annotations

from dataclasses import dataclass

from impasto.models.next_scale.maps import Sizes
from impasto.spec import CLASSES

__all__ = ["PATCHES_256", "PATCHES_512", "PATCHES_1024", "PRESETS", "TOKENIZERS", "TRANSFORMERS",
           "TokenizerConfig", "TransformerConfig", "VARConfig", "sticker", "tiny"]  # fmt: skip

PATCHES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
PATCHES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
PATCHES_1024 = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)
"""Sides of the K square token maps of pictures of so many pixels a side."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """vocabulary: V codes. channels: of a place of the features, C. widths: channels a level,
    each but the first half the size of the one before. blocks: residual blocks a level. groups:
    of GroupNorm. phis: convolutions that the scales share."""

    vocabulary: int
    channels: int
    widths: tuple[int, ...]
    blocks: int = 2
    groups: int = 32
    phis: int = 4


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """depth: blocks. width: C. vocabulary, channels: the tokenizer's. classes: beside the null
    class. patches: sides of the token maps, from 1. shared: whether one matrix modulates all
    blocks, each adding its own constant. drop_path: share of branches left out in training, of the
    last block; linear in depth."""

    depth: int
    width: int
    heads: int
    vocabulary: int
    channels: int
    classes: int
    patches: tuple[int, ...]
    shared: bool = False
    mlp_ratio: float = 4.0
    drop_path: float = 0.0


@dataclass(frozen=True, kw_only=True)
class VARConfig:
    """A whole generator. classes: their names, in order."""

    tokenizer: TokenizerConfig
    transformer: TransformerConfig
    classes: tuple[str, ...]

    @property
    def sizes(self) -> Sizes:
        """Of all token maps."""
        return tuple((side, side) for side in self.transformer.patches)


TOKENIZERS = {
    "ch160v4096z32": TokenizerConfig(vocabulary=4096, channels=32,
                                     widths=(160, 160, 320, 320, 640)),
}  # fmt: skip
"""Published: `vae_ch160v4096z32.pth`."""


def _transformer(
    depth: int, patches: tuple[int, ...] = PATCHES_256, shared: bool = False
) -> TransformerConfig:
    return TransformerConfig(depth=depth, width=64 * depth, heads=depth, vocabulary=4096,
                             channels=32, classes=1000, patches=patches, shared=shared,
                             drop_path=0.1 * depth / 24)  # fmt: skip


TRANSFORMERS = {f"d{depth}": _transformer(depth) for depth in (16, 20, 24, 30)} | {
    "d36-s": _transformer(36, PATCHES_512, shared=True)
}
"""Published: `var_d16.pth` to `var_d30.pth` of 256 px, `var_d36.pth` of 512 px."""


def sticker() -> VARConfig:
    """128 px pictures of the world's 80 classes, stride 8, 8 scales (530 tokens), 1,024 codes."""
    return VARConfig(
        tokenizer=TokenizerConfig(vocabulary=1024, channels=16, widths=(32, 64, 128, 128),
                                  groups=16),
        transformer=TransformerConfig(depth=8, width=256, heads=4, vocabulary=1024, channels=16,
                                      classes=len(CLASSES), patches=(1, 2, 3, 4, 6, 8, 12, 16),
                                      drop_path=0.1 * 8 / 24),
        classes=CLASSES,
    )  # fmt: skip


def tiny() -> VARConfig:
    """For tests: 32 px, stride 8, 3 scales (21 tokens) of 32 codes; built in no time."""
    return VARConfig(
        tokenizer=TokenizerConfig(vocabulary=32, channels=8, widths=(8, 8, 16, 16), blocks=1,
                                  groups=4),
        transformer=TransformerConfig(depth=3, width=32, heads=2, vocabulary=32, channels=8,
                                      classes=80, patches=(1, 2, 4)),
        classes=CLASSES,
    )  # fmt: skip


PRESETS = {"sticker": sticker, "tiny": tiny}
