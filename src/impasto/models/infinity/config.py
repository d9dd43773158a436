"""Sizes of the "infinity" family, by the names of the paper's models.

    tokenizer     bits a place, channels a level, patch        `TOKENIZERS`
    transformer   depth, width, heads, bits a token            `TRANSFORMERS`
    whole         both, with a text encoder                    `PRESETS`: sticker, tiny

Published tokenizers and transformers belong together by their bits: the 2B model goes with
d32reg, the 8B model with d56_f8_14_patchify. Text encoder of all published: google/flan-t5-xl.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from impasto.models.infinity.schedules import Schedule, Sizes, own_schedule, schedule

__all__ = ["PRESETS", "TOKENIZERS", "TRANSFORMERS", "InfinityConfig", "TokenizerConfig",
           "TransformerConfig", "sticker", "tiny"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """bits: d. widths: channels a level, each but the first half the size of the one before.
    blocks: residual blocks a level. groups: of GroupNorm. patch: places a side in one token.
    decoder_widths: of the decoder, where they are others."""

    bits: int
    widths: tuple[int, ...] = (128, 256, 512, 512, 512)
    blocks: int = 2
    groups: int = 32
    patch: int = 1
    decoder_widths: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """depth: blocks. width: C. bits: of a token. text_width: of the text encoder's states.

    pool_heads: of the attentive pool; None is the published rule, text_width / 128 (/ 64 for a
    width over 4096). null_rows: states of the learned unconditional text, at least a prompt's
    tokens. levels: most scales. level_every: blocks after which the level embedding is added
    again; 0 adds it once, before the first. drop_path: share of branches left out in training, of
    the last block; linear in depth.
    """

    depth: int
    width: int
    heads: int
    bits: int
    text_width: int = 2048
    pool_heads: int | None = None
    mlp_ratio: float = 4.0
    null_rows: int = 512
    levels: int = 15
    level_every: int = 0
    drop_path: float = 0.1


@dataclass(frozen=True, kw_only=True)
class InfinityConfig:
    """A whole generator. scales: entries of a schedule that pictures have. text: settings of
    transformers' T5Config; its width is the transformer's text_width. max_tokens: of a prompt.
    sizes: of the scales, where they are not a template's."""

    tokenizer: TokenizerConfig
    transformer: TransformerConfig
    text: dict[str, Any]
    scales: int
    max_tokens: int
    sizes: Sizes | None = None

    @property
    def schedule(self) -> Schedule:
        """Of a square picture."""
        return schedule(1.0, self.scales) if self.sizes is None else own_schedule(self.sizes)


TOKENIZERS = {f"d{bits}": TokenizerConfig(bits=bits) for bits in (16, 24, 32, 64)} | {
    "d32reg": TokenizerConfig(bits=32),
    "d56_f8_14_patchify": TokenizerConfig(bits=14, widths=(128, 256, 512, 512), patch=2),
}
"""Published tokenizers: `infinity_vae_….pth`."""


def _transformer(depth: int, width: int, heads: int, bits: int = 32) -> TransformerConfig:
    return TransformerConfig(depth=depth, width=width, heads=heads, bits=bits)


TRANSFORMERS = {
    "125M": _transformer(12, 768, 8, bits=16),
    "layer16": _transformer(16, 1152, 12),
    "layer24": _transformer(24, 1536, 16),
    "2B": _transformer(32, 2048, 16),
    "layer32": _transformer(32, 2080, 20),
    "layer40": _transformer(40, 2688, 24),
    "layer48": _transformer(48, 3360, 28),
    "8B": _transformer(40, 3584, 28, bits=56),
    "20B": _transformer(58, 4608, 36),
}
"""Published transformers, and those of the scaling study (layer16 to layer48)."""


def _t5(width: int, layers: int, heads: int) -> dict[str, Any]:
    """flan-T5's kind of encoder (gated GELU), twice the width inside."""
    return {"d_model": width, "d_kv": width // heads, "d_ff": 2 * width, "num_layers": layers,
            "num_heads": heads, "feed_forward_proj": "gated-gelu",
            "dropout_rate": 0.0}  # fmt: skip


def sticker() -> InfinityConfig:
    """128 px, 7 scales, 155 tokens of 96 bits: patches of 2 x 2 of f8 features, as the 8B model
    has them. The decoder costs 8 % of what the transformer does, as the 2B model's at 1024 px, so
    that a search's previews weigh as much. 8.3 M + 1.8 M + 1.3 M parameters."""
    return InfinityConfig(
        tokenizer=TokenizerConfig(bits=24, widths=(32, 64, 128, 128), blocks=1, groups=16,
                                  patch=2, decoder_widths=(32, 64)),
        transformer=TransformerConfig(depth=7, width=256, heads=8, bits=96, text_width=192,
                                      pool_heads=4, null_rows=32, levels=7, drop_path=0.0),
        text=_t5(192, 3, 4), scales=7, max_tokens=32,
        sizes=tuple((n, n) for n in (1, 2, 3, 4, 5, 6, 8)),
    )  # fmt: skip


def tiny() -> InfinityConfig:
    """For tests: 32 px, stride 8, 3 scales (21 tokens) of 4 bits; built in no time."""
    return InfinityConfig(
        tokenizer=TokenizerConfig(bits=4, widths=(8, 8, 16, 16), blocks=1, groups=4),
        transformer=TransformerConfig(depth=3, width=32, heads=2, bits=4, text_width=32,
                                      pool_heads=2, null_rows=16),
        text=_t5(32, 1, 2), scales=3, max_tokens=16,
    )  # fmt: skip


PRESETS = {"sticker": sticker, "tiny": tiny}
