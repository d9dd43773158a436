"""Sizes of the "layton" family.

    tokenizer     codes of a small copy, latent diffusion decoder, autoencoder     `TOKENIZERS`
    transformer   what draws the tokenizer's ids: LlamaGen's GPT after a text      `TRANSFORMERS`
    generator     the transformer with a text encoder                              `GENERATORS`

Source: Xie et al. 2025 (arXiv 2503.08377) and the authors' released inference code; its base is
SDXL 1.0 (Podell et al. 2023, arXiv 2307.01952), its front LlamaGen's VQ-16; the transformer is
LlamaGen's (Sun et al. 2024, arXiv 2406.06525), table 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from impasto.models.mmdit import config as mmdit
from impasto.models.vq import config as vq

__all__ = ["GENERATORS", "SDXL_UNET", "SDXL_VAE", "TOKENIZERS", "TRANSFORMERS", "GeneratorConfig",
           "TokenizerConfig", "TransformerConfig"]  # fmt: skip


# ---------------------------------------------------------------- the tokenizer


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """vq: `vq.config.TokenizerConfig`'s values, of the front; its decoder is left out. unet, vae:
    values of diffusers' UNet2DConditionModel and AutoencoderKL. image: pixels a side that are
    decoded, one of `images`. tokens_side: pixels a side of the copy that the front reads, one of
    `sides`; it alone decides how many tokens there are. stem: widths of the condition's stem.
    lora_rank, lora_alpha: of the accelerator; its product is scaled by alpha / rank. latent_mean,
    latent_std: a channel of the latents; None for the autoencoder's scaling_factor.
    """

    vq: Mapping[str, Any] = field(hash=False)
    unet: Mapping[str, Any] = field(hash=False)
    vae: Mapping[str, Any] = field(hash=False)
    image: int
    images: tuple[int, ...]
    tokens_side: int
    sides: tuple[int, ...]
    stem: tuple[int, ...] = (8, 32, 96, 256)
    lora_rank: int = 64
    lora_alpha: float = 8.0
    latent_mean: tuple[float, ...] | None = None
    latent_std: tuple[float, ...] | None = None


SDXL_UNET = {
    "sample_size": 128, "in_channels": 4, "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048, "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
SDXL_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "sample_size": 1024, "scaling_factor": 0.13025,
}  # fmt: skip


def published() -> TokenizerConfig:
    """Published: `LaCTok-T.pth`, over SDXL; 1024 px by 256 tokens of a copy of 256 px. Trained
    from 512 px upwards; 196, 256 and 324 tokens."""
    return TokenizerConfig(vq=asdict(vq.ds16()), unet=SDXL_UNET, vae=SDXL_VAE, image=1024,
                           images=(512, 768, 1024), tokens_side=256,
                           sides=(224, 256, 288))  # fmt: skip


def _small_vae(sizes: mmdit.MMDiTConfig) -> dict[str, Any]:
    """The autoencoder of a small generator, by diffusers' names."""
    n = len(sizes.vae_widths)
    return {"down_block_types": ("DownEncoderBlock2D",) * n,
            "up_block_types": ("UpDecoderBlock2D",) * n, "block_out_channels": sizes.vae_widths,
            "layers_per_block": 1, "latent_channels": sizes.latent_channels,
            "norm_num_groups": sizes.vae_groups, "sample_size": sizes.image_size,
            "use_quant_conv": False, "use_post_quant_conv": False}  # fmt: skip


def _small_unet(latent: int, channels: int, widths: tuple[int, int], **others: Any
                ) -> dict[str, Any]:  # fmt: skip
    """SDXL's kind of UNet on two levels, the second with transformers; a text's state is `words`
    wide and nobody reads it."""
    words, time = 16, 32
    return {"sample_size": latent, "in_channels": channels, "out_channels": channels,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "block_out_channels": widths,
            "cross_attention_dim": words, "use_linear_projection": True,
            "addition_embed_type": "text_time", "addition_time_embed_dim": time,
            "projection_class_embeddings_input_dim": words + 6 * time, **others}  # fmt: skip


def sticker() -> TokenizerConfig:
    """128 px by 64 tokens of a copy of 64 px (16, 36, 144 of 32, 48, 96 px); latents of the
    sticker-mmdit generator's autoencoder, whose moments that generator tells. UNet 6.7 M."""
    latents = mmdit.sticker()
    unet = _small_unet(latents.latent_size, latents.latent_channels, (96, 160),
                       layers_per_block=1, attention_head_dim=(3, 5))  # fmt: skip
    n = latents.latent_channels
    return TokenizerConfig(
        vq=asdict(vq.sticker()), unet=unet, vae=_small_vae(latents), image=128, images=(64, 128),
        tokens_side=64, sides=(32, 48, 64, 96), stem=(8, 32, 64, 96), lora_rank=16,
        latent_mean=(0.0,) * n, latent_std=(1.0,) * n,
    )  # fmt: skip


def tiny() -> TokenizerConfig:
    """For tests: 32 px by 4 tokens of a copy of 16 px (1, 9, 16 of 8, 24, 32 px); built in no
    time."""
    latents = mmdit.tiny()
    unet = _small_unet(latents.latent_size, latents.latent_channels, (8, 16), layers_per_block=1,
                       attention_head_dim=(1, 2), norm_num_groups=4)  # fmt: skip
    return TokenizerConfig(
        vq=asdict(vq.tiny()), unet=unet, vae=_small_vae(latents), image=32, images=(16, 32),
        tokens_side=16, sides=(8, 16, 24, 32), stem=(4, 4, 8), lora_rank=2, lora_alpha=1.0,
        latent_mean=(0.1, -0.2, 0.0, 0.3), latent_std=(1.5, 0.5, 1.0, 2.0),
    )  # fmt: skip


TOKENIZERS = {"published": published, "sticker": sticker, "tiny": tiny}


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
