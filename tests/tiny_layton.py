"""Layton's tokenizer with random weights in which everything matters."""

from __future__ import annotations

from dataclasses import asdict

import torch
import torch.nn.functional as F
from diffusers.models import AutoencoderKL, UNet2DConditionModel

from impasto.models.layton import TOKENIZERS, LaytonTokenizer
from impasto.models.layton.config import SDXL_UNET, SDXL_VAE
from impasto.models.layton.convert import official_tokenizer, ours_of
from impasto.models.vq import VQTokenizer
from tests.random_weights import named_random

PUBLISHED = {
    "vq": {"widths": (32, 32, 64), "z": 16, "vocabulary": 64, "channels": 8, "blocks": 2,
           "groups": 32},
    "unet": SDXL_UNET | {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "block_out_channels": (32, 64),
        "layers_per_block": 1, "transformer_layers_per_block": (1, 2),
        "attention_head_dim": (1, 1)},
    "vae": SDXL_VAE | {
        "down_block_types": ("DownEncoderBlock2D",) * 2, "layers_per_block": 1,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "block_out_channels": (32, 64)},
    "image": 32, "images": (32,), "tokens_side": 16, "sides": (16,), "stem": (8, 16, 24),
    "lora_rank": 16, "lora_alpha": 8,
}  # fmt: skip
"""The small model that the official code was run at: only widths and depths are not SDXL's."""


@torch.no_grad()
def official_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Weights for the official names, each from its own name; norms around 1."""
    return {key: named_random(key, shape) + ("norm" in key and key.endswith("weight"))
            for key, shape in shapes.items()}  # fmt: skip


def published() -> LaytonTokenizer:
    """The small model of the figures, under our names."""
    model = LaytonTokenizer(**PUBLISHED)
    shapes = {key: tuple(x.shape) for key, x in official_tokenizer(model).items()}
    state = official_state(shapes)
    del state["quantize.codebook_used"]
    model.load_state_dict(ours_of(state)[0])
    return model.eval()


def parts(seed: int = 0) -> dict:
    """A frozen front, autoencoder and plain UNet of the tiny sizes, at random."""
    config = TOKENIZERS["tiny"]()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = {"vq": VQTokenizer(**config.vq), "vae": AutoencoderKL(**config.vae),
                "unet": UNet2DConditionModel(**config.unet)}  # fmt: skip
    # Frozen as in the tokenizer: torch may take another kernel for weights that can learn.
    return {name: network.eval().requires_grad_(False) for name, network in made.items()}


def fresh(seed: int = 0, **changes) -> LaytonTokenizer:
    """Tiny, as training starts: zero convolutions and an accelerator that does nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LaytonTokenizer(**asdict(TOKENIZERS["tiny"]()) | changes).eval()


@torch.no_grad()
def tokenizer(seed: int = 0, **changes) -> LaytonTokenizer:
    """Tiny, with all that starts at zero at random too."""
    model = fresh(seed, **changes)
    generator = torch.Generator().manual_seed(seed + 1)
    for name, parameter in model.decoder.named_parameters():
        if "lora_B" in name or not parameter.any():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def pictures(count: int = 2, side: int = 32) -> torch.Tensor:
    """In [0, 1]: the sine of 7 t, t from -1 to 1 over all values."""
    x = torch.linspace(-1, 1, count * 3 * side * side).reshape(count, 3, side, side).mul(7).sin()
    return (x + 1) / 2


def codes(count=2, channels=4, side=2, seed=0) -> torch.Tensor:
    """Unit vectors (B, channels, side, side)."""
    z = torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))
    return F.normalize(z, dim=1)


def latents(count=2, side=4, seed=1) -> torch.Tensor:
    return torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(seed))


def distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Stands for a perceptual distance: differences of neighbours."""
    return (x.diff(dim=-1) - y.diff(dim=-1)).square().flatten(1).mean(1)
