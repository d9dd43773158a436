"""Sizes of the "mmdit" family: SD3's joint text-image transformer over f8 latents.

Every network is a class of diffusers or transformers with these numbers:

    transformer   diffusers SD3Transformer2DModel    Esser et al. 2024, arXiv 2403.03206
    vae           diffusers AutoencoderKL            pixels in [-1, 1] <-> latents, 1/8 the size
    text_encoder  transformers SiglipTextModel       Zhai et al. 2023, arXiv 2303.15343

The text encoder is SigLIP's and not SD3's CLIP because it sees both directions: with CLIP's causal
mask the state of "red" in "a red apple left of a dog" cannot know which noun it belongs to, so
binding would be left to the transformer alone. It pads every prompt to the same length and attends
to the padding, as SD3 does with its text, so nothing depends on a batch's longest prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffusers.models import AutoencoderKL, SD3Transformer2DModel
from transformers import SiglipTextConfig, SiglipTextModel

from impasto.models.latents import LatentDefaults, adaln_zero_

__all__ = ["PRESETS", "Defaults", "MMDiTConfig", "sticker", "tiny"]


@dataclass(frozen=True, kw_only=True)
class Defaults(LatentDefaults):
    """shift: s of the time shift s t / (1 + (s-1) t)."""

    model: ClassVar[str] = "an mmdit model"
    steps: int = 20
    guidance: float = 4.0
    shift: float = 1.0

    def check(self) -> None:
        """Raises ValueError for a value that is out of range."""
        super().check()
        if self.shift <= 0:
            raise ValueError(f"shift must be positive, given {self.shift!r}")


@dataclass(frozen=True, kw_only=True)
class MMDiTConfig:
    """Sizes from which a generator is built; a saved one carries its components' own configs.

    image_size: pixels a side that it is trained for. max_grid: tokens a side that positions
    exist for; other sizes see the centre of that grid. max_tokens: text positions.
    """

    image_size: int = 128
    patch_size: int = 2
    latent_channels: int = 16
    width: int = 256
    heads: int = 8
    layers: int = 7
    max_grid: int = 16
    text_width: int = 256
    text_heads: int = 4
    text_layers: int = 3
    max_tokens: int = 32
    vae_widths: tuple[int, ...] = (32, 64, 128, 128)
    vae_groups: int = 16

    @property
    def latent_size(self) -> int:
        return self.image_size // 2 ** (len(self.vae_widths) - 1)

    def build_transformer(self) -> SD3Transformer2DModel:
        """The velocity network with AdaLN-zero weights: every block starts as the identity."""
        transformer = SD3Transformer2DModel(
            sample_size=self.latent_size,
            patch_size=self.patch_size,
            in_channels=self.latent_channels,
            out_channels=self.latent_channels,
            num_layers=self.layers,
            attention_head_dim=self.width // self.heads,
            num_attention_heads=self.heads,
            joint_attention_dim=self.text_width,
            caption_projection_dim=self.width,
            pooled_projection_dim=self.text_width,
            pos_embed_max_size=self.max_grid,
            qk_norm="rms_norm",
        )
        adaln_zero_(transformer, ("norm1.linear", "norm1_context.linear", "norm_out.linear",
                                  "proj_out"))  # fmt: skip
        return transformer

    def build_vae(self) -> AutoencoderKL:
        """The autoencoder: each of `vae_widths` after the first halves the picture."""
        n = len(self.vae_widths)
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * n,
            up_block_types=("UpDecoderBlock2D",) * n,
            block_out_channels=self.vae_widths,
            layers_per_block=1,
            latent_channels=self.latent_channels,
            norm_num_groups=self.vae_groups,
            sample_size=self.image_size,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )

    def build_text_encoder(self, vocab_size: int) -> SiglipTextModel:
        """The text encoder for a tokenizer of `vocab_size` tokens (pad 0, end 1)."""
        return SiglipTextModel(
            SiglipTextConfig(
                vocab_size=vocab_size,
                hidden_size=self.text_width,
                intermediate_size=4 * self.text_width,
                num_hidden_layers=self.text_layers,
                num_attention_heads=self.text_heads,
                max_position_embeddings=self.max_tokens,
                projection_size=self.text_width,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=1,
            )
        )

    def defaults(self) -> Defaults:
        """Sampling defaults with latents taken as they are, before their moments are known."""
        n = self.latent_channels
        return Defaults(latent_mean=(0.0,) * n, latent_std=(1.0,) * n)


def sticker() -> MMDiTConfig:
    """The default generator: 128 px, 64 image tokens, 16.2 M + 3.9 M + 2.7 M parameters."""
    return MMDiTConfig()


def tiny() -> MMDiTConfig:
    """For tests: 32 px, 4 image tokens, random weights, built in well under a second."""
    return MMDiTConfig(image_size=32, width=32, heads=2, layers=2, max_grid=4, text_width=32,
                       text_heads=2, text_layers=1, max_tokens=16, latent_channels=4,
                       vae_widths=(8, 8, 8, 8), vae_groups=4)  # fmt: skip


PRESETS = {"sticker": sticker, "tiny": tiny}
