"""TokenFlow's semantic side: an encoder that starts from a frozen teacher, and a small decoder.

    encoder   the vision tower of a text-aligned model, every layer trained on; patches (B, N, D)
                clip     tokens of CLIP's tower after ln_post, the class token left out
                siglip   states after all layers but the last
                vitamin  forward_features of timm's ViTamin
    teacher   the same tower, frozen; clip's tokens go through its projection to the text's space
    decoder   BEiT-type blocks over the quantised map, to what the teacher says

A tower at another size than its own has its positions interpolated (bicubic, the grid enlarged by
0.1, as DINO does it). Source: Qu et al. 2024 (arXiv 2412.03069), section 3.1, and the released
code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from impasto.models.next_scale.maps import to_tokens

__all__ = ["KINDS", "SemanticDecoder", "SemanticEncoder", "Teacher", "positions_at"]

EPS = 1e-6


def positions_at(table: Tensor, side: int) -> Tensor:
    """(1, 1 + side^2, D): a position table (1 + n, D), the first of the class token, for a grid of
    side x side places."""
    own = math.isqrt(len(table) - 1)
    if own == side:
        return table[None]
    grid = table[1:].float().view(1, own, own, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(side + 0.1) / own, mode="bicubic")
    grid = grid.flatten(2).transpose(1, 2).to(table.dtype)
    return torch.cat([table[None, :1], grid], dim=1)


def _clip(vision: Any, x: Tensor) -> Tensor:
    embeddings = vision.embeddings
    h = to_tokens(embeddings.patch_embedding(x))
    h = torch.cat([embeddings.class_embedding.expand(len(h), 1, -1), h], dim=1)
    side = math.isqrt(h.shape[1] - 1)
    h = vision.pre_layrnorm(h + positions_at(embeddings.position_embedding.weight, side))
    h = vision.encoder(inputs_embeds=h).last_hidden_state
    return vision.post_layernorm(h)[:, 1:]


def _siglip(vision: Any, x: Tensor) -> Tensor:
    h = vision.embeddings(x, interpolate_pos_encoding=x.shape[-1] != vision.config.image_size)
    for layer in vision.encoder.layers[:-1]:
        h = layer(h, attention_mask=None)
    return h


def _vitamin(vision: Any, x: Tensor) -> Tensor:
    return vision.forward_features(x)


def _timm(name: str) -> nn.Module:
    """Raises ValueError where timm is not installed."""
    try:
        import timm
    except ImportError as error:
        raise ValueError("the tower is timm's: pip install 'impasto[vitamin]'") from error
    tower: Any = timm.create_model(name, pretrained=False)
    del tower.head, tower.fc_norm
    return tower


def _built(kind: str, vision: Mapping[str, Any]) -> nn.Module:
    if kind == "clip":
        return CLIPVisionModel(CLIPVisionConfig(**vision))
    if kind == "siglip":
        return SiglipVisionModel(SiglipVisionConfig(**vision))
    return _timm(vision["name"])


KINDS = {"clip": _clip, "siglip": _siglip, "vitamin": _vitamin}
"""How each kind of tower gives its patches."""


class SemanticEncoder(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] -> patches (B, N, D).

    kind: of `KINDS`. vision: of the tower's config (timm: its name). mean, std: of the pictures.
    """

    def __init__(
        self, kind: str, vision: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"unknown kind of tower {kind!r}; allowed: {', '.join(KINDS)}")
        self.kind, self.mean, self.std = kind, tuple(mean), tuple(std)
        self.vision: Any = _built(kind, vision)
        for parameter in self._unused():
            parameter.requires_grad_(False)

    def _unused(self) -> list[nn.Parameter]:
        """What the patches do not depend on: it is in the published files, and stays as it is."""
        if self.kind != "siglip":
            return []
        parts = [self.vision.encoder.layers[-1], self.vision.post_layernorm]
        parts += [self.vision.head] if hasattr(self.vision, "head") else []
        return [parameter for part in parts for parameter in part.parameters()]

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (images.new_tensor(v)[:, None, None] for v in (self.mean, self.std))
        dtype = next(self.vision.parameters()).dtype
        return KINDS[self.kind](self.vision, ((images - mean) / std).to(dtype))


class Teacher(nn.Module):
    """A frozen tower: what the semantic decoder is to say, (B, N, T).

    projection: (D, T), to the space that pictures share with texts; None where there is none.
    """

    projection: Tensor | None

    def __init__(self, tower: SemanticEncoder, projection: Tensor | None = None) -> None:
        super().__init__()
        self.tower = tower
        self.register_buffer("projection", projection)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        patches = self.tower(images).float()
        return patches if self.projection is None else patches @ self.projection.float()


class _Attention(nn.Module):
    """Queries and values have a bias, keys none."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for part in F.linear(x, self.qkv.weight, bias).chunk(3, dim=-1))  # fmt: skip
        seen = F.scaled_dot_product_attention(q, k, v)
        return self.proj(seen.transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=EPS), _Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=EPS), _MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _PatchEmbed(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, 1)

    def forward(self, z: Tensor) -> Tensor:
        return to_tokens(self.proj(z))


class SemanticDecoder(nn.Module):
    """Quantised maps (B, C, S, S) -> (B, S^2, D). side: of the grid of the position table."""

    def __init__(self, channels: int, width: int, blocks: int, heads: int, side: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, side**2 + 1, width))
        self.patch_embed = _PatchEmbed(channels, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.fc_norm = nn.LayerNorm(width, eps=EPS)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Truncated normal of std .02; what ends a branch of block i, from 1, / sqrt(2 i)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for table in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(table, std=0.02)
        blocks: Any = self.blocks
        for i, block in enumerate(blocks, 1):
            for ending in (block.attn.proj, block.mlp.fc2):
                ending.weight.div_((2 * i) ** 0.5)

    def forward(self, z: Tensor) -> Tensor:
        x = self.patch_embed(z)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + positions_at(self.pos_embed[0], z.shape[-1])
        for block in self.blocks:
            x = block(x)
        return self.fc_norm(x[:, 1:])
