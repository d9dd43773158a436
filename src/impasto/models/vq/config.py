"""Sizes of the "vq" tokenizers, by the names of the published ones.

    codes    LlamaGen's: convolutions around one codebook of unit vectors
    levels   finite scalar quantisation instead: every channel rounded to one of so many values

What each newer tokenizer is compared with. LlamaGen: Sun et al. 2024 (arXiv 2406.06525), table 1;
FSQ: Mentzer et al. 2023 (arXiv 2309.15505).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRESETS", "TokenizerConfig", "sticker", "sticker_fsq", "tiny"]


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """vocabulary: K codes of `channels` each; or levels: of each channel, then K is their product
    and channels their number. z: channels between convolutions and codes. widths: channels a
    level, each but the first half the size of the one before. blocks: residual blocks a level.
    groups: of GroupNorm."""

    widths: tuple[int, ...] = (128, 128, 256, 256, 512)
    z: int = 256
    vocabulary: int | None = 16384
    channels: int | None = 8
    levels: tuple[int, ...] | None = None
    blocks: int = 2
    groups: int = 32


def ds16() -> TokenizerConfig:
    """Published: `vq_ds16_c2i.pt`, `vq_ds16_t2i.pt`; 16 px a token."""
    return TokenizerConfig()


def ds8() -> TokenizerConfig:
    """Published: `vq_ds8_c2i.pt`; 8 px a token."""
    return TokenizerConfig(widths=(128, 256, 256, 512))


def sticker() -> TokenizerConfig:
    """128 px pictures as 16 x 16 of 4,096 codes."""
    return TokenizerConfig(widths=(32, 64, 128, 128), z=64, vocabulary=4096, blocks=1, groups=16)


def sticker_fsq() -> TokenizerConfig:
    """The same with 8 x 8 x 8 x 8 levels."""
    return TokenizerConfig(widths=(32, 64, 128, 128), z=64, vocabulary=None, channels=None,
                           levels=(8, 8, 8, 8), blocks=1, groups=16)  # fmt: skip


def tiny() -> TokenizerConfig:
    """For tests: 8 px a token, 32 codes; built in no time."""
    return TokenizerConfig(widths=(8, 8, 16, 16), z=8, vocabulary=32, channels=4, blocks=1,
                           groups=4)  # fmt: skip


PRESETS = {"ds16": ds16, "ds8": ds8, "sticker": sticker, "sticker-fsq": sticker_fsq,
           "tiny": tiny}  # fmt: skip
