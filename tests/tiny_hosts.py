"""Tiny transformers of every family of hosts, with random weights, and inputs for them."""

from __future__ import annotations

import torch
from diffusers import (
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
)

WIDTH = 16
SIZES = {"num_attention_heads": 2, "attention_head_dim": 8}


def sd3(layers: int = 4, dual: tuple[int, ...] = (1,)):
    return SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=layers, joint_attention_dim=12,
        caption_projection_dim=WIDTH, pooled_projection_dim=10, pos_embed_max_size=8,
        qk_norm="rms_norm", dual_attention_layers=dual, **SIZES)  # fmt: skip


def flux(layers: int = 2, singles: int = 3):
    return FluxTransformer2DModel(
        in_channels=4, num_layers=layers, num_single_layers=singles, joint_attention_dim=12,
        pooled_projection_dim=10, axes_dims_rope=(2, 2, 4), **SIZES)  # fmt: skip


def dit(layers: int = 3):
    return DiTTransformer2DModel(sample_size=8, num_layers=layers, num_embeds_ada_norm=10,
                                 **SIZES)  # fmt: skip


def pixart(layers: int = 3):
    return PixArtTransformer2DModel(sample_size=8, num_layers=layers, cross_attention_dim=WIDTH,
                                    caption_channels=12, norm_type="ada_norm_single",
                                    **SIZES)  # fmt: skip


def sana(layers: int = 3):
    return SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=layers, cross_attention_dim=WIDTH,
        num_cross_attention_heads=2, cross_attention_head_dim=8, caption_channels=12,
        sample_size=8, **SIZES)  # fmt: skip


BUILD = {"sd3": sd3, "flux": flux, "dit": dit, "pixart": pixart, "sana": sana}


@torch.no_grad()
def tiny(family: str, seed: int = 0, **options):
    """Every tensor random: nothing is switched off by a zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BUILD[family](**options).eval()
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def inputs(family: str, rows: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(rows, *shape, generator=rng)

    t = torch.arange(rows) * 3 + 1
    if family == "dit":
        return {"hidden_states": noise(4, 8, 8), "timestep": t, "class_labels": t}
    words = {"encoder_hidden_states": noise(5, 12)}
    if family == "flux":
        return words | {"hidden_states": noise(9, 4), "pooled_projections": noise(10),
                        "timestep": t / 9, "img_ids": torch.randn(9, 3, generator=rng),
                        "txt_ids": torch.zeros(5, 3)}  # fmt: skip
    pooled = {"pooled_projections": noise(10)} if family == "sd3" else {}
    return words | pooled | {"hidden_states": noise(4, 8, 8), "timestep": t}


@torch.no_grad()
def output(model, family: str, **options):
    return model(**inputs(family, **options), return_dict=False)[0]
