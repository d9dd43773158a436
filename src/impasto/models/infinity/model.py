"""Infinity's transformer: all tokens of a scale at once, given the scales before.

    text   t = RMSNorm(T5 states);  c = pool(t);  context = W2 gelu(W1 t)
    input  scale 1: c + pos_start;  scale k > 1: W f^_k-1 resized to scale k, a token a place;
           each + level embedding of its scale
    block  (g1, g2, s1, s2, b1, b2) = ada_gss + W_shared silu(c)
           x += g1 SelfAttention(LN(x) (1 + s1) + b1)
           x += TextAttention(LN_affine(x), context)
           x += g2 FFN(LN(x) (1 + s2) + b2)
    head   (s, b) = W silu(c);  logits = W_head (LN(x) (1 + s) + b): two classes a bit

A token sees those of its own scale and of earlier ones: by a mask when all scales run at once
(training), by what the cache holds when they run one by one (drawing). Residual stream,
modulation and head are float32 whatever the weights. The unconditional text is learned
(`cfg_uncond`): its first L rows for a prompt of L tokens.

Parameter names and shapes are those of the published files with blocks in one list. Source:
Infinity (arXiv 2412.04431), section 3.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from impasto.models.infinity.attention import (
    KeysValues,
    SelfAttention,
    TextAttention,
    TextPool,
    rotary_tables,
)
from impasto.models.infinity.cache import Cache
from impasto.models.infinity.schedules import Schedule, tokens
from impasto.sample.seeds import upload

__all__ = ["Condition", "InfinityTransformer", "block_causal_mask", "mixed", "normalised"]

EPS = 1e-6

class Condition(NamedTuple):
    """A text as the blocks take it; all that does not change from scale to scale.

    pooled: c (B, C). modulation: W_shared silu(c), (B, 1, 6, C). head: (B, 1, 2, C). keys, values:
    of the text in every block, (B, depth, heads, L, d_head). seen: bool (B, L), False on padding.
    """

    pooled: Tensor
    modulation: Tensor
    head: Tensor
    keys: Tensor
    values: Tensor
    seen: Tensor

    def rows(self, at: Sequence[int]) -> Condition:
        """Row i of the result is row `at[i]`."""
        if list(at) == list(range(len(self.pooled))):
            return self
        index = upload(torch.tensor(at), self.pooled.device)
        return Condition(*(part[index] for part in self))

    def cut(self, length: int) -> Condition:
        """The first `length` states of the text."""
        return self._replace(keys=self.keys[..., :length, :], values=self.values[..., :length, :],
                             seen=self.seen[:, :length])  # fmt: skip


def normalised(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift, float32."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift


def block_causal_mask(schedule: Schedule, device: torch.device | str = "cpu") -> Tensor:
    """bool (L, L): whether a token (row) sees another (column), of its own or an earlier scale."""
    level = torch.cat([torch.full((h * w,), k, device=device)
                       for k, (h, w) in enumerate(schedule.sizes)])  # fmt: skip
    return level[:, None] >= level[None]


class FeedForward(nn.Module):
    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inside), nn.Linear(inside, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """drop_path: share of rows whose branches are left out in training, the rest scaled up."""

    def __init__(self, width: int, heads: int, inside: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.ada_gss = nn.Parameter(torch.empty(1, 1, 6, width))
        self.sa = SelfAttention(width, heads)
        self.ca = TextAttention(width, heads, width)
        self.ffn = FeedForward(width, inside)
        self.ca_norm = nn.LayerNorm(width, eps=EPS)

    def _kept(self, branch: Tensor) -> Tensor:
        branch = branch.float()
        if not self.training or not self.drop_path:
            return branch
        keep = 1 - self.drop_path
        return branch * branch.new_empty(len(branch), 1, 1).bernoulli_(keep) / keep

    def _modulation(self, shared: Tensor) -> tuple[Tensor, ...]:
        """(g1, g2, s1, s2, b1, b2), each (B, 1, C)."""
        return (self.ada_gss.float() + shared).unbind(2)

    def opening(
        self, x: Tensor, modulation: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the self-attention."""
        _, _, scale, _, shift, _ = self._modulation(modulation)
        return self.sa.split(normalised(x, scale, shift).to(self.dtype), cos, sin)

    def middle(self, x: Tensor, heard: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
        """x with what the self-attention heard, and queries to the text."""
        x = x + self._kept(self.sa.proj(heard) * self._modulation(modulation)[0])
        affine = (self.ca_norm.weight.float(), self.ca_norm.bias.float())
        h = F.layer_norm(x, x.shape[-1:], *affine, EPS).to(self.dtype)
        return x, self.ca.split(h)

    def closing(self, x: Tensor, heard: Tensor, modulation: Tensor) -> Tensor:
        """x with what was heard of the text, and through the feed-forward network."""
        _, gate, _, scale, _, shift = self._modulation(modulation)
        x = x + self._kept(self.ca.proj(heard))
        return x + self._kept(self.ffn(normalised(x, scale, shift).to(self.dtype)) * gate)

    @property
    def dtype(self) -> torch.dtype:
        return self.ffn.fc1.weight.dtype

    def forward(
        self, x: Tensor, *, modulation: Tensor, text: KeysValues, seen: Tensor | None,
        turn: tuple[Tensor, Tensor], mask: Tensor | None = None, past: KeysValues | None = None,
        into: KeysValues | None = None,
    ) -> Tensor:  # fmt: skip
        """Three stretches of arithmetic around two attentions; see the module for the equations.

        turn: cosines and sines of the rotation. past, into: see `SelfAttention`.
        """
        q, k, v = self.opening(x, modulation, *turn)
        x, q = self.middle(x, self.sa(q, k, v, mask=mask, past=past, into=into),
                           modulation)  # fmt: skip
        return self.closing(x, self.ca(q, text, seen), modulation)

    def compile(self, **options: Any) -> None:  # type: ignore[override]
        """Compile the three stretches, in place. Blocks of one size share what is compiled."""
        for name in ("opening", "middle", "closing"):
            plain = getattr(type(self), name).__get__(self)
            setattr(self, name, torch.compile(plain, **options))


class HeadNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))


class SosPool(nn.Module):
    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.ca = TextPool(width, heads, text_width)


class InfinityTransformer(ModelMixin, ConfigMixin):
    """See `config.TransformerConfig` for the arguments. Raises ValueError where widths do not
    divide by heads or a head's width by 4."""

    config_name = "config.json"
    _repeated_blocks = ("Block",)  # for diffusers' compile_repeated_blocks

    @register_to_config
    def __init__(
        self, *, depth: int, width: int, heads: int, bits: int, text_width: int = 2048,
        pool_heads: int | None = None, mlp_ratio: float = 4.0, null_rows: int = 512,
        levels: int = 15, level_every: int = 0, drop_path: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        pool_heads = pool_heads or text_width // (64 if width > 4096 else 128)
        if width % heads or width // heads % 4 or not pool_heads or width % pool_heads:
            raise ValueError(f"width {width} must be a multiple of 4 heads = {4 * heads}, and of "
                             f"the pool's {pool_heads} heads")  # fmt: skip
        self.cfg_uncond = nn.Parameter(torch.empty(null_rows, text_width))
        self.pos_start = nn.Parameter(torch.empty(1, 1, width))
        self.text_norm = nn.RMSNorm(text_width, eps=EPS)
        self.text_proj_for_sos = SosPool(width, pool_heads, text_width)
        self.text_proj_for_ca = nn.Sequential(
            nn.Linear(text_width, width), nn.GELU(approximate="tanh"), nn.Linear(width, width)
        )
        self.lvl_embed = nn.Embedding(levels, width)
        self.word_embed = nn.Linear(bits, width)
        self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        share = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        # In steps of 256; below one step, as small models have it, exactly the ratio.
        self.inside = round(width * mlp_ratio / 256) * 256 or int(width * mlp_ratio)
        self.blocks = nn.ModuleList(Block(width, heads, self.inside, p) for p in share)
        self.head_nm = HeadNorm(width)
        self.head = nn.Linear(width, 2 * bits)
        self.head_width, self.level_every = width // heads, level_every

    # ---------------------------------------------------------------- text

    def condition(self, states: Tensor, seen: Tensor) -> Condition:
        """The text encoder's states (B, L, text_width) as the blocks take them.

        seen: bool (B, L), False on padding, of which nothing depends.
        """
        dtype = self.word_embed.weight.dtype
        t = F.rms_norm(states.float(), states.shape[-1:], self.text_norm.weight.float(), EPS)
        t, at = t.to(dtype), seen[:, None, None]
        pooled = self.text_proj_for_sos.ca(t, at).float()
        context = self.text_proj_for_ca(t)
        c = pooled.to(dtype)
        attentions: list[TextAttention] = [cast(Block, block).ca for block in self.blocks]
        keys, values = zip(*(own.keys(context) for own in attentions), strict=True)
        return Condition(
            pooled, self.shared_ada_lin(c).float().unflatten(-1, (1, 6, -1)),
            self.head_nm.ada_lin(c).float().unflatten(-1, (1, 2, -1)),
            torch.stack(keys, dim=1), torch.stack(values, dim=1), seen,
        )  # fmt: skip

    def null_text(self, length: int) -> Tensor:
        """States (1, L, text_width) of the unconditional text beside a prompt of L tokens.

        Raises ValueError for more than there are rows.
        """
        if length > len(self.cfg_uncond):
            raise ValueError(f"the unconditional text has {len(self.cfg_uncond)} rows, a prompt "
                             f"{length} tokens")  # fmt: skip
        return self.cfg_uncond[None, :length]

    # ---------------------------------------------------------------- tokens

    def embed(self, scale: int, condition: Condition, codes: Tensor | None) -> Tensor:
        """Input tokens (B, L, C), float32, of one scale, from 0; codes (B, L, bits) but for the
        first."""
        if scale == 0:
            return condition.pooled[:, None] + self.pos_start.float()
        assert codes is not None
        return self.word_embed(codes.to(self.word_embed.weight.dtype)).float()

    def turn(self, schedule: Schedule, scale: int | None = None) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotation of one scale's tokens, or of all."""
        sizes = schedule.sizes if scale is None else schedule.sizes[scale : scale + 1]
        return rotary_tables(sizes, schedule.grid, self.head_width, self.pos_start.device)

    def level(self, schedule: Schedule, scale: int | None = None) -> Tensor:
        """Level embeddings (L, C) of one scale's tokens, or of all."""
        table = self.lvl_embed.weight.float()
        if scale is not None:
            return table[scale : scale + 1]
        return torch.cat([table[k : k + 1].expand(h * w, -1)
                          for k, (h, w) in enumerate(schedule.sizes)])  # fmt: skip

    def forward(
        self, x: Tensor, condition: Condition, *, level: Tensor, turn: tuple[Tensor, Tensor],
        mask: Tensor | None = None, past: Cache | None = None, into: Cache | None = None,
        padded: bool = True, mix: tuple[int, float] | None = None,
    ) -> Tensor:  # fmt: skip
        """Logits (B, L, bits, 2), float32.

        x: `embed`ded tokens. past: keys and values of earlier scales. into: the same cache,
        extended by these tokens, whose keys and values are written to it; stands for `past`.
        padded: whether the text's `seen` has any False. mix: (block, g): rows in pairs (with the
        prompt, without); after that block both become g x_with + (1 - g) x_without.
        """
        seen = condition.seen[:, None, None] if padded else None
        for i, block in enumerate(self.blocks):
            if i == 0 or (self.level_every and i % self.level_every == 0):
                x = x + level
            x = block(x, modulation=condition.modulation, seen=seen, turn=turn, mask=mask,
                      text=(condition.keys[:, i], condition.values[:, i]),
                      past=None if past is None else past[i],
                      into=None if into is None else into[i])  # fmt: skip
            if mix is not None and i == mix[0]:
                x = mixed(x, mix[1]).repeat_interleave(2, dim=0)
        return self.logits(x, condition)

    def no_past(self, rows: int) -> Cache:
        """The cache before the first scale."""
        block = cast(Block, self.blocks[0])
        return Cache.empty(len(self.blocks), rows, block.sa.heads, self.head_width,
                           self.word_embed.weight)  # fmt: skip

    def logits(self, x: Tensor, condition: Condition) -> Tensor:
        scale, shift = condition.head.unbind(2)
        with _full_precision(x.device):
            h = normalised(x, scale, shift)
            out = F.linear(h, self.head.weight.float(), self.head.bias.float())
        return out.unflatten(-1, (-1, 2))

    def teacher_forced(
        self, condition: Condition, inputs: Sequence[Tensor], schedule: Schedule, *,
        mask: Tensor | None = None, turn: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """Logits (B, L, bits, 2) of all scales at once, under the block-causal mask.

        inputs: codes (B, h_k w_k, bits) of scales 2 to K: f^ of the scales before, resized.
        mask, turn: `block_causal_mask` and `turn` of the schedule, where they are at hand.
        """
        if len(inputs) != len(schedule.sizes) - 1:
            raise ValueError(f"{len(schedule.sizes)} scales need {len(schedule.sizes) - 1} "
                             f"inputs, given {len(inputs)}")  # fmt: skip
        x = torch.cat([self.embed(k, condition, codes)
                       for k, codes in enumerate([None, *inputs])], dim=1)  # fmt: skip
        if x.shape[1] != tokens(schedule.sizes):
            raise ValueError(f"the inputs make {x.shape[1]} tokens, the schedule has "
                             f"{tokens(schedule.sizes)}")  # fmt: skip
        mask = block_causal_mask(schedule, x.device) if mask is None else mask
        turn = self.turn(schedule) if turn is None else turn
        return self(x, condition, level=self.level(schedule), turn=turn, mask=mask)


def _full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """No autocast in the block; the meta device knows none."""
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def mixed(x: Tensor, guidance: float) -> Tensor:
    """g x_with + (1 - g) x_without of rows in pairs (2 B, ...): (B, ...)."""
    return guidance * x[0::2] + (1 - guidance) * x[1::2]
