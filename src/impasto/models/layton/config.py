"""Sizes of the "layton" family.

    transformer   what draws the tokenizer's ids: LlamaGen's GPT after a text   `TRANSFORMERS`
    generator     the transformer with a text encoder                          `GENERATORS`

Source: Xie et al. 2025 (arXiv 2503.08377) and the authors' released inference code; the
transformer is LlamaGen's (Sun et al. 2024, arXiv 2406.06525), table 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["GENERATORS", "TRANSFORMERS", "GeneratorConfig", "TransformerConfig"]


# ---------------------------------------------------------------- the transformer


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """depth: blocks. width: C. inside: of the gated feed-forward network. vocabulary: K of the
    tokenizer. side: of the map of ids. text: slots for the prompt, text_width: D of the text
    encoder's states. eps: of the norms. theta: of rotary positions. dropout: in training, of
    tokens, of what attentions and of what feed-forward networks add.
    """

    depth: int
    width: int
    heads: int
    inside: int
    vocabulary: int
    side: int
    text: int = 120
    text_width: int = 2048
    eps: float = 1e-5
    theta: float = 10000.0
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """A transformer, and settings of transformers' T5Config, whose d_model is text_width. The
    tokenizer of pictures is another model's."""

    transformer: TransformerConfig
    text: dict[str, Any] = field(hash=False)


def xl() -> TransformerConfig:
    """Published: `LaCTokGen-T.pth`, LlamaGen's GPT-XL after flan-t5-xl."""
    return TransformerConfig(depth=36, width=1280, heads=20, inside=3584, vocabulary=16384,
                             side=16)  # fmt: skip


def transformer_sticker() -> TransformerConfig:
    """8 blocks of width 384 over 8 x 8 of 4,096 ids: 17.5 million parameters."""
    return TransformerConfig(depth=8, width=384, heads=6, inside=1024, vocabulary=4096, side=8,
                             text=32, text_width=192)  # fmt: skip


def transformer_tiny() -> TransformerConfig:
    """For tests: 2 blocks of width 32 over 2 x 2 of 32 ids, 16 slots for text."""
    return TransformerConfig(depth=2, width=32, heads=2, inside=48, vocabulary=32, side=2, text=16,
                             text_width=16)  # fmt: skip


TRANSFORMERS = {"xl": xl, "sticker": transformer_sticker, "tiny": transformer_tiny}


def _with_t5(transformer: TransformerConfig, layers: int, heads: int) -> GeneratorConfig:
    """flan-T5's kind of encoder (gated GELU), twice the width inside."""
    width = transformer.text_width
    return GeneratorConfig(transformer=transformer, text={
        "d_model": width, "d_kv": width // heads, "d_ff": 2 * width, "num_layers": layers,
        "num_heads": heads, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0,
    })  # fmt: skip


GENERATORS = {"sticker": lambda: _with_t5(transformer_sticker(), 3, 4),
              "tiny": lambda: _with_t5(transformer_tiny(), 1, 2)}  # fmt: skip
