"""Layton's published encoding and decoding, over the weights of our tokenizer.

Written anew from what they do, as what ours is measured against:

    encoding   the small copy's features against all codes at once; the nearest
    decoding   accelerator beside the UNet's matrices, cross-attentions over 77 places of zeros in
               UNet and copy, and at every step anew: the codes at the latents' size, the stem, the
               embedding of the sizes; noise for a last time, which nobody reads

It is in float32 there. It is spared files, and the resizing of pictures by PIL.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.models.layton import LaytonTokenizer

__all__ = ["STEPS", "official_decode", "official_encode"]

STEPS = {1: (0, 8), 2: (0, 4, 8), 3: (0, 4, 7, 8)}
"""Number of steps -> places in nine times from 999 to 0."""
SCALE, WORDS = 0.8, 77


def alphas_bar(device: torch.device) -> Tensor:
    """abar(t), float32: of SDXL's schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32, device=device)
    return (1 - betas.square()).cumprod(0)


@torch.no_grad()
def official_encode(model: LaytonTokenizer, images: Tensor) -> Tensor:
    """Ids (B, n) of pictures (B, 3, H, W) in [0, 1]."""
    front, side = model.vq, model.tokens_side
    small = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    z = front.quant_conv(front.encoder((2 * small - 1).to(model.dtype))).float()
    flat = F.normalize(z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]), dim=-1)
    codes = F.normalize(front.quantize.embedding.weight.float(), dim=-1)
    d = (flat.square().sum(1, keepdim=True) + codes.square().sum(1)
         - 2 * torch.einsum("nc,kc->nk", flat, codes))  # fmt: skip
    return d.argmin(1).view(len(images), -1)


@torch.no_grad()
def official_decode(
    model: LaytonTokenizer, ids: Tensor, steps: int, noise: Callable[[int], Tensor]
) -> Tensor:
    """Pictures (B, 3, H, W), float32, clipped to [-1, 1], of ids (B, n).

    noise: number of the draw, from 0 -> standard normal of the latents' shape. Raises ValueError
    for a model that is lean or merged: that is not the published way.
    """
    if model.decoder.lean or model.decoder.merged:
        raise ValueError("the published way is neither lean nor merged; call use_lean(False) on a "
                         "model whose accelerator is not merged")  # fmt: skip
    unet, copy = model.decoder.unet, model.decoder.controlnet
    config, rows, dtype = unet.config, len(ids), unet.dtype
    grid = int(ids.shape[1] ** 0.5)
    codes = F.normalize(model.vq.quantize.embedding(ids).float(), dim=-1)
    C = codes.transpose(1, 2).reshape(rows, -1, grid, grid)
    text = C.new_zeros(rows, WORDS, config["cross_attention_dim"])
    pooled = (config["projection_class_embeddings_input_dim"]
              - 6 * config["addition_time_embed_dim"])  # fmt: skip
    side = float(model.image)
    sizes = torch.tensor([[side, side, 0, 0, side, side]], device=C.device)
    added = {"text_embeds": C.new_zeros(rows, pooled).to(dtype),
             "time_ids": sizes.expand(rows, -1)}  # fmt: skip
    abar, x_0 = alphas_bar(C.device), None
    times = torch.linspace(999, 0, 9).int().tolist()
    z = noise(0)
    for k, (t, following) in enumerate(pairwise(times[i] for i in STEPS[steps]), start=1):
        large = F.interpolate(C, z.shape[2:], mode="nearest").to(dtype)
        down, middle = copy(
            z.to(dtype), t, encoder_hidden_states=text.to(dtype), controlnet_cond=large,
            conditioning_scale=SCALE, added_cond_kwargs=added, return_dict=False,
        )  # fmt: skip
        eps = unet(
            z.to(dtype), t, encoder_hidden_states=text.to(dtype), added_cond_kwargs=added,
            down_block_additional_residuals=down, mid_block_additional_residual=middle,
            return_dict=False,
        )[0].float()  # fmt: skip
        x_0 = (z - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt()
        z = abar[following].sqrt() * x_0 + (1 - abar[following]).sqrt() * noise(k)
    return model.pixels(x_0).clamp(-1, 1)
