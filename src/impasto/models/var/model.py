"""VAR's transformer: all tokens of a scale at once, given the class and the scales before.

    c      embedding of the class; the last row is the null class
    input  scale 1: c + pos_start;  scale k > 1: W area(f^_k-1, scale k), a token a place;
           each + level embedding of its scale + learned position of its place
    block  (g1, g2, s1, s2, b1, b2) = W silu(c),  or shared: ada_gss + W_shared silu(c)
           x += g1 Attention(LN(x) (1 + s1) + b1)
           x += g2 FFN(LN(x) (1 + s2) + b2)
    head   (s, b) = W silu(c);  logits = W_head (LN(x) (1 + s) + b): V classes a token

Who sees whom: `next_scale.maps.block_causal_mask` when all scales run at once (training), what the
cache holds when they run one by one (drawing). Residual stream, modulation and head are float32
whatever the weights.

Parameter names and shapes are the published files'. Source: Tian et al. 2024 (VAR, arXiv
2404.02905), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from impasto.models.next_scale.blocks import (
    CosineAttention,
    FeedForward,
    HeadNorm,
    KeysValues,
    StretchedBlock,
    drop_paths,
    full_precision,
    normalised,
)
from impasto.models.next_scale.cache import Cache
from impasto.models.next_scale.maps import Sizes, block_causal_mask, tokens

__all__ = ["Condition", "VARTransformer"]


class Condition(NamedTuple):
    """Classes as the blocks take them; all that does not change from scale to scale.

    start: c (B, C). modulation: (B, depth, 6, C), of every block. head: (B, 2, C). All float32.
    """

    start: Tensor
    modulation: Tensor
    head: Tensor


class Block(StretchedBlock):
    """shared: modulated by one matrix of all blocks, which this one's own constant is added to."""

    stretches = ("opening", "closing")

    def __init__(
        self, width: int, heads: int, inside: int, drop_path: float, shared: bool
    ) -> None:
        super().__init__(drop_path)
        self.attn = CosineAttention(width, heads)
        self.ffn = FeedForward(width, inside)
        if shared:
            self.ada_gss = nn.Parameter(torch.empty(1, 1, 6, width))
        else:
            self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def modulation(self, c: Tensor, shared: Tensor | None) -> Tensor:
        """(B, 6, C), float32, of c (B, C) or of the matrix that is shared, (B, 6, C)."""
        if shared is not None:
            return self.ada_gss[0].float() + shared
        return self.ada_lin(c).float().unflatten(-1, (6, -1))

    def opening(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the attention."""
        _, _, scale, _, shift, _ = modulation[:, None].unbind(2)
        return self.attn.split(normalised(x, scale, shift).to(self.dtype))

    def closing(self, x: Tensor, heard: Tensor, modulation: Tensor) -> Tensor:
        """x with what the attention heard, and through the feed-forward network."""
        first, second, _, scale, _, shift = modulation[:, None].unbind(2)
        x = x + self.kept(self.attn.proj(heard) * first)
        return x + self.kept(self.ffn(normalised(x, scale, shift).to(self.dtype)) * second)

    def forward(
        self, x: Tensor, modulation: Tensor, *, mask: Tensor | None = None,
        past: KeysValues | None = None, into: KeysValues | None = None,
    ) -> Tensor:  # fmt: skip
        """x: (B, L, C), float32; modulation: (B, 6, C). past, into: see `CosineAttention`."""
        q, k, v = self.opening(x, modulation)
        heard = self.attn(q, k, v, mask=mask, past=past, into=into)
        return self.closing(x, heard, modulation)


class VARTransformer(ModelMixin, ConfigMixin):
    """See `config.TransformerConfig` for the arguments. Raises ValueError where the width does not
    divide by the heads, or the patches do not grow from 1."""

    config_name = "config.json"
    _repeated_blocks = ("Block",)  # for diffusers' compile_repeated_blocks

    @register_to_config
    def __init__(
        self, *, depth: int, width: int, heads: int, vocabulary: int, channels: int, classes: int,
        patches: Sequence[int], shared: bool = False, mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} must be a multiple of the {heads} heads")
        if not patches or patches[0] != 1 or sorted(set(patches)) != list(patches):
            raise ValueError(f"patches must start with 1 and grow, given {list(patches)}")
        self.sizes: Sizes = tuple((side, side) for side in patches)
        self.pos_start = nn.Parameter(torch.empty(1, 1, width))
        self.pos_1LC = nn.Parameter(torch.empty(1, tokens(self.sizes), width))
        self.word_embed = nn.Linear(channels, width)
        self.class_emb = nn.Embedding(classes + 1, width)
        self.lvl_embed = nn.Embedding(len(patches), width)
        if shared:
            self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.inside = round(width * mlp_ratio)
        self.blocks = nn.ModuleList(Block(width, heads, self.inside, share, shared)
                                    for share in drop_paths(drop_path, depth))  # fmt: skip
        self.head_nm = HeadNorm(width)
        self.head = nn.Linear(width, vocabulary)
        self.null_class, self.shared = classes, shared

    # ---------------------------------------------------------------- classes, tokens

    def condition(self, labels: Tensor) -> Condition:
        """Of classes (B,), int64; `null_class` is the null class."""
        c = self.class_emb(labels)
        shared = self.shared_ada_lin(c).float().unflatten(-1, (6, -1)) if self.shared else None
        own = [cast(Block, block).modulation(c, shared) for block in self.blocks]
        head = self.head_nm.ada_lin(c).float().unflatten(-1, (2, -1))
        return Condition(c.float(), torch.stack(own, dim=1), head)

    def embed(self, scale: int, given: Tensor) -> Tensor:
        """Input tokens (B, L, C), float32, of one scale, from 0: of c (B, C) for the first, of
        codes (B, L, channels) for the others."""
        at = slice(tokens(self.sizes[:scale]), tokens(self.sizes[: scale + 1]))
        places = self.pos_1LC[:, at].float() + self.lvl_embed.weight[scale].float()
        if scale == 0:
            return given[:, None] + self.pos_start.float() + places
        return self.word_embed(given.to(self.word_embed.weight.dtype)).float() + places

    def forward(
        self, x: Tensor, condition: Condition, *, rows: Tensor | None = None,
        mask: Tensor | None = None, past: Cache | None = None, into: Cache | None = None,
    ) -> Tensor:  # fmt: skip
        """Logits (B, L, V), float32.

        x: `embed`ded tokens. rows: (B,), each row's place in the condition; None: one a row. past:
        keys and values of earlier scales. into: the same cache, extended by these tokens, whose
        keys and values are written to it; stands for `past`.
        """
        at = slice(None) if rows is None else rows
        for i, block in enumerate(self.blocks):
            x = block(x, condition.modulation[at, i], mask=mask,
                      past=None if past is None else past[i],
                      into=None if into is None else into[i])  # fmt: skip
        return self.logits(x, condition.head[at])

    def no_past(self, rows: int) -> Cache:
        """The cache before the first scale."""
        heads = self.config["heads"]
        return Cache.empty(len(self.blocks), rows, heads, self.config["width"] // heads,
                           self.word_embed.weight)  # fmt: skip

    def logits(self, x: Tensor, head: Tensor) -> Tensor:
        """head: (B, 2, C), of the condition."""
        scale, shift = head[:, None].unbind(2)
        with full_precision(x.device):
            h = normalised(x, scale, shift)
            return F.linear(h, self.head.weight.float(), self.head.bias.float())

    def teacher_forced(
        self, condition: Condition, inputs: Sequence[Tensor], mask: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L, V) of all scales at once, under the block-causal mask.

        inputs: codes (B, h_k w_k, channels) of scales 2 to K: f^ of the scales before, averaged.
        Fewer leave out the last scales. mask: that of these scales, made once; None makes it.
        Raises ValueError for other numbers of tokens.
        """
        sizes = self.sizes[: len(inputs) + 1]
        given, wanted = [len(part[0]) for part in inputs], [h * w for h, w in sizes[1:]]
        if given != wanted:
            raise ValueError(f"the inputs have {given} tokens, scales 2 to {len(sizes)} {wanted}")
        parts = [self.embed(k, told) for k, told in enumerate([condition.start, *inputs])]
        if mask is None:
            mask = block_causal_mask(sizes, self.pos_1LC.device)
        return self(torch.cat(parts, dim=1), condition, mask=mask)
