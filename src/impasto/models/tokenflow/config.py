"""Sizes of the "tokenflow" family, by the names of the paper's models.

    tokenizer     semantic tower, pixel convolutions, codebooks, scales   `TOKENIZERS`
    transformer   the language model that draws                           `TRANSFORMERS`
    whole         both                                                    `PRESETS`: sticker, tiny
    reader        the language model that answers                         `READERS`

TokenFlow-B, -L and -XL differ in the teacher (CLIP ViT-B/16 at 224 px, ViTamin-XL at 256,
SigLIP-so400m at 384) and so in size and grid; "b-256" is B with interpolated positions and one
scale more, the tokenizer of the published text-to-image model, whose pixel decoder is the enhanced
one. Source: Qu et al. 2024 (arXiv 2412.03069), table 2, and the released code (whose L has 9
scales, as the table; the paper's text lists 10).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["CLIP_MEAN", "CLIP_STD", "PRESETS", "READERS", "TOKENIZERS", "TRANSFORMERS",
           "ReaderConfig", "TokenFlowConfig", "TokenizerConfig", "TransformerConfig"]  # fmt: skip

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """image: pixels a side. scales: sides of the maps. tower: kind of the semantic encoder, and
    vision its config; tower_width: D, tower_side: of the grid it was made for. target: T, channels
    of the teacher's features. vocabulary: K. weights: of the two distances; w_dis is the second
    over the first. pixel_channels: 0 for semantic codes alone, from which the picture is decoded
    too. mean, std: of the pictures that the tower is shown. widths, z, blocks, groups: as
    `vq.config`; decoder_widths, decoder_blocks: of the pixel decoder, where they are others.
    """

    image: int
    scales: tuple[int, ...]
    tower: str
    vision: Mapping[str, Any] = field(hash=False)
    tower_width: int
    tower_side: int
    target: int
    vocabulary: int = 32768
    semantic_channels: int = 32
    pixel_channels: int = 8
    weights: tuple[float, float] = (1.0, 1.0)
    mean: tuple[float, ...] = (0.5,) * 3
    std: tuple[float, ...] = (0.5,) * 3
    widths: tuple[int, ...] = (128, 128, 256, 256, 512)
    z: int = 256
    blocks: int = 2
    groups: int = 32
    decoder_widths: tuple[int, ...] | None = None
    decoder_blocks: int | None = None
    semantic_blocks: int = 3
    semantic_heads: int = 12


CLIP_B16 = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "image_size": 224, "patch_size": 16,
            "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}  # fmt: skip
SIGLIP_SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
                 "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
                 "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}  # fmt: skip


def b() -> TokenizerConfig:
    """CLIP ViT-B/16 at 224 px: 14 x 14, 8 scales (561 ids). Its pictures enter as x in [-1, 1],
    not with CLIP's own mean and deviation."""
    return TokenizerConfig(image=224, scales=(1, 2, 4, 6, 8, 10, 12, 14), tower="clip",
                           vision=CLIP_B16, tower_width=768, tower_side=14,
                           target=512)  # fmt: skip


def b_enhanced() -> TokenizerConfig:
    """Published: `tokenflow_clipb_32k_enhanced.pt`."""
    return replace(b(), decoder_widths=(256, 256, 512, 512, 1024), decoder_blocks=4)


def b_256() -> TokenizerConfig:
    """The same weights at 256 px: 16 x 16, 9 scales (817 ids)."""
    return replace(b_enhanced(), image=256, scales=(*b().scales, 16))


def large() -> TokenizerConfig:
    """ViTamin-XL at 256 px: 16 x 16, 9 scales (817 ids). Never published."""
    return TokenizerConfig(image=256, scales=(1, 2, 4, 6, 8, 10, 12, 14, 16), tower="vitamin",
                           vision={"name": "vitamin_xlarge_256"}, tower_width=1152, tower_side=16,
                           target=1152, mean=CLIP_MEAN, std=CLIP_STD)  # fmt: skip


def extra_large() -> TokenizerConfig:
    """Published: `tokenflow_siglip_32k.pt`. SigLIP-so400m at 384 px: 27 x 27, 15 scales (2,227
    ids); its pixel side sees 432 px."""
    return TokenizerConfig(
        image=384, scales=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 17, 22, 27), tower="siglip",
        vision=SIGLIP_SO400M, tower_width=1152, tower_side=27, target=1152,
    )  # fmt: skip


def sticker() -> TokenizerConfig:
    """128 px by 16 x 16, 8 scales (530 ids), 4,096 codes; the tower is that of the world's CLIP
    "patches" (`score.clip`)."""
    return TokenizerConfig(
        image=128, scales=(1, 2, 3, 4, 6, 8, 12, 16), tower="clip",
        vision={"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6,
                "num_attention_heads": 6, "image_size": 128, "patch_size": 8,
                "hidden_act": "quick_gelu"},
        tower_width=192, tower_side=16, target=128, vocabulary=4096, semantic_channels=24,
        widths=(32, 64, 128, 128), z=64, blocks=1, groups=16, semantic_blocks=2, semantic_heads=6,
    )  # fmt: skip


def tiny() -> TokenizerConfig:
    """For tests: 32 px by 4 x 4, 3 scales (21 ids) of 32 codes; built in no time."""
    return TokenizerConfig(
        image=32, scales=(1, 2, 4), tower="clip",
        vision={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
                "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
                "hidden_act": "quick_gelu"},
        tower_width=16, tower_side=4, target=12, vocabulary=32, semantic_channels=6,
        pixel_channels=4, widths=(8, 8, 16, 16), z=8, blocks=1, groups=4, semantic_blocks=1,
        semantic_heads=2,
    )  # fmt: skip


TOKENIZERS = {"b": b, "b-enhanced": b_enhanced, "b-256": b_256, "l": large, "xl": extra_large,
              "sticker": sticker, "tiny": tiny}  # fmt: skip


# ---------------------------------------------------------------- what draws


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """depth: blocks. width: C. inside: of the gated feed-forward network. text_vocabulary: ids
    below the picture's. vocabulary, channels, patches: the tokenizer's K, channels of a code and
    sides of the maps. text: slots for the prompt and its BOS. embedded: rows of the embedding,
    None for one for every id; pictures' ids are never looked up in it. eps: of the norms of width
    C. theta: of rotary positions.
    """

    depth: int
    width: int
    heads: int
    inside: int
    text_vocabulary: int
    vocabulary: int
    channels: int
    patches: tuple[int, ...]
    text: int = 128
    embedded: int | None = None
    eps: float = 1e-5
    theta: float = 10000.0


@dataclass(frozen=True, kw_only=True)
class TokenFlowConfig:
    """A whole generator."""

    tokenizer: TokenizerConfig
    transformer: TransformerConfig


def _of(tokenizer: TokenizerConfig, **sizes: Any) -> TransformerConfig:
    """A transformer for the ids of a tokenizer."""
    return TransformerConfig(vocabulary=tokenizer.vocabulary, patches=tokenizer.scales,
                             channels=tokenizer.semantic_channels + tokenizer.pixel_channels,
                             **sizes)  # fmt: skip


def t2i_7b() -> TransformerConfig:
    """Published: `TokenFlow-t2i`, Llama-2-7B with 32,000 words, [PAD] and 32,768 codes."""
    return _of(b_256(), depth=32, width=4096, heads=32, inside=11008, text_vocabulary=32001)


WORDS = 1024
"""Of the sticker world's tokenizer; BOS, <img> and </img> come on top."""


def t2i_sticker() -> TransformerConfig:
    """8 blocks of width 384: 17 million parameters."""
    return _of(sticker(), depth=8, width=384, heads=6, inside=1024, text_vocabulary=WORDS + 3,
               embedded=WORDS + 3, text=48)  # fmt: skip


def t2i_tiny() -> TransformerConfig:
    """For tests: 2 blocks of width 32, 8 slots for text."""
    return _of(tiny(), depth=2, width=32, heads=2, inside=48, text_vocabulary=323, text=8)


TRANSFORMERS = {"7b": t2i_7b, "sticker": t2i_sticker, "tiny": t2i_tiny}
PRESETS = {"sticker": lambda: TokenFlowConfig(tokenizer=sticker(), transformer=t2i_sticker()),
           "tiny": lambda: TokenFlowConfig(tokenizer=tiny(), transformer=t2i_tiny())}  # fmt: skip


# ---------------------------------------------------------------- what reads


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """channels: of the features. lm: transformers' name of a kind of language model. sizes: its
    config's values. chat: a name of `reader.CHATS`."""

    channels: int
    lm: str
    sizes: Mapping[str, Any] = field(hash=False)
    chat: str = "plain"


def reads_14b() -> ReaderConfig:
    """Published: Qwen2.5-14B-Instruct over TokenFlow-XL's 729 places."""
    return ReaderConfig(channels=40, lm="qwen2", chat="qwen_2_5", sizes={
        "vocab_size": 152064, "hidden_size": 5120, "intermediate_size": 13824,
        "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "tie_word_embeddings": False,
    })  # fmt: skip


def _llama(words: int, width: int, depth: int, heads: int, channels: int) -> ReaderConfig:
    """A small Llama over the learnt words, whose 0 and 1 are padding and the end."""
    return ReaderConfig(channels=channels, lm="llama", sizes={
        "vocab_size": words, "hidden_size": width, "intermediate_size": 8 * width // 3,
        "num_hidden_layers": depth, "num_attention_heads": heads, "num_key_value_heads": heads,
        "max_position_embeddings": 1024, "tie_word_embeddings": True, "pad_token_id": 0,
        "bos_token_id": WORDS, "eos_token_id": 1,
    })  # fmt: skip


def reads_sticker() -> ReaderConfig:
    """8 blocks of width 384 over the sticker tokenizer's 256 places."""
    return _llama(WORDS + 3, 384, 8, 6, 32)


def reads_tiny() -> ReaderConfig:
    """For tests: 2 blocks of width 24 over the tiny tokenizer's 16 places."""
    return _llama(WORDS + 3, 24, 2, 2, 10)


READERS = {"xl-qwen-14b": reads_14b, "sticker": reads_sticker, "tiny": reads_tiny}
