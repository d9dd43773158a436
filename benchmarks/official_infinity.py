"""Infinity's published sampler, and TTS-VAR's loop around it, over the weights of a generator.

Written anew from what they do, one prompt at a time, as what ours is measured against:

    cache      grown by concatenation at every scale and in every block; keys in float32, cast to
               the weights' type for every attention; the last scale stored too
    text       every row encoded by itself, padded to the tokenizer's longest; keys and values
               made of the states again in every block of every scale, for every row
    guidance   both halves at every scale
    bits       top-k, sort, top-p, softmax on two classes
    selection  keys and values cloned, indexed, cloned again
    decoding   (TTS-VAR) all rows at full size after every scale, all pictures kept, and once more
               at the end

It is spared what would slow it further: the collection of garbage and the emptying of the
allocator's cache before every block (`released=True` puts them in), the models' moves between host
and device for every picture, autocast (casts are written out), `torch.multinomial` (it cannot take
given numbers; the probabilities are compared with them instead). stream: type of the residual
stream; float32 is what ours computes in, bfloat16 is what the published script comes to where the
whole model is cast.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.models.infinity.attention import rotary_angles
from impasto.models.infinity.model import Block
from impasto.models.infinity.pipeline import InfinityGenerator
from impasto.models.infinity.schedules import schedule
from impasto.models.next_scale.state import per_scale

__all__ = ["Drawn", "OfficialLoop", "Selection"]

Uniforms = Callable[[Sequence[int], int, int], Tensor]
"""(seeds, scale, n) -> float64 (rows, n): the numbers that decide the bits of a scale."""


class Selection(NamedTuple):
    """After a scale: which rows go on, and by which seeds."""

    rows: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass
class Drawn:
    """bits: bool (B, L, d) a scale. margins: of each bit, see `_margin`. sums: f^ after each
    scale. text: states (L, D) of the prompt. pictures: uint8 (B, H, W, 3)."""

    bits: list[Tensor] = field(default_factory=list)
    margins: list[Tensor] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)
    text: Tensor | None = None
    pictures: Tensor | None = None


class OfficialLoop:
    """See the module. The generator's networks are used as they are; nothing is compiled."""

    def __init__(
        self, generator: InfinityGenerator, uniforms: Uniforms, *,
        stream: torch.dtype = torch.float32, released: bool = False,
    ) -> None:  # fmt: skip
        self.generator, self.uniforms = generator, uniforms
        self.net, self.vae = generator.transformer, generator.vae
        self.stream, self.released = stream, released
        self.dtype = self.net.word_embed.weight.dtype
        self.blocks = [cast(Block, block) for block in self.net.blocks]
        self.cached: list[tuple[Tensor, Tensor] | None] = [None] * len(self.blocks)

    @torch.inference_mode()
    def draw(
        self, prompt: str, seeds: Sequence[int], *, every_scale: bool = False,
        selections: Mapping[int, Selection] | None = None, keep: bool = False,
    ) -> Drawn:  # fmt: skip
        """Rows of one prompt. every_scale: decode after each, as TTS-VAR does. keep: all that
        is compared."""
        defaults = self.generator.defaults
        plan = schedule(1.0, defaults.scales)
        guidance = per_scale("guidance", defaults.guidance, defaults.scales)
        temperature = per_scale("temperature", defaults.temperature, defaults.scales)
        angles = rotary_angles(plan.sizes, plan.grid, self.net.head_width)
        turn = torch.stack([angles.cos(), angles.sin()]).to(self.net.device)
        states = [self._encode(prompt) for _ in seeds]
        text, pooled, modulation = self._text(states)
        x = (pooled[:, None].float() + self.net.pos_start.float()).to(self.stream)
        self.cached = [None] * len(self.blocks)
        drawn, sums, start, pictures = Drawn(text=states[0]), None, 0, {}
        for k, (h, w) in enumerate(plan.sizes):
            b = len(seeds)
            x = x + self.net.lvl_embed.weight[k].to(self.stream)
            part = turn[:, start : start + h * w]
            for i in range(len(self.blocks)):
                if self.released:
                    gc.collect()
                    torch.cuda.empty_cache()
                x = self._block(i, x, modulation, text, part)
            logits = self._logits(x, pooled) / temperature[k]
            g = guidance[k]
            logits = g * logits[:b] + (1 - g) * logits[b:]
            u = self.uniforms(seeds, k, logits[0].numel() // 2)
            bits = self._sample(logits, u)
            codes = (2 * bits.float() - 1) / bits.shape[-1] ** 0.5
            codes = codes.transpose(1, 2).unflatten(2, (h, w))[:, :, None]
            full = (1, *plan.sizes[-1])
            up = codes if codes.shape[2:] == full else F.interpolate(codes, full, mode="trilinear")
            sums = up if sums is None else sums + up
            start += h * w
            if keep:
                drawn.bits.append(bits)
                drawn.margins.append(self._margin(logits, u).view(bits.shape))
                drawn.sums.append(sums[:, :, 0])
            if every_scale:
                pictures[k] = self._decode(sums)
            if selections and k in selections:
                rows, seeds = selections[k]
                at = torch.tensor(rows, device=sums.device)
                both = torch.cat([at, b + at])
                sums, text, pooled = sums[at], text[both], pooled[both]
                modulation = modulation[both]
                self._select(both)
            if k + 1 < len(plan.sizes):
                resized = F.interpolate(sums, (1, *plan.sizes[k + 1]), mode="trilinear")
                resized = resized.flatten(2).transpose(1, 2).to(self.dtype)
                x = self.net.word_embed(resized).to(self.stream).repeat(2, 1, 1)
        assert sums is not None
        drawn.pictures = self._decode(sums)
        self.cached = [None] * len(self.blocks)
        return drawn

    # ---------------------------------------------------------------- text

    def _encode(self, prompt: str) -> Tensor:
        """States (L, D) of a prompt that was encoded padded to the longest."""
        tokenizer: Any = self.generator.tokenizer
        encoder = self.generator.text_encoder
        given = tokenizer([prompt], padding="max_length", truncation=True, return_tensors="pt",
                          max_length=tokenizer.model_max_length)  # fmt: skip
        ids, mask = (given[name].to(encoder.device) for name in ("input_ids", "attention_mask"))
        states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return states[0, : int(mask.sum())]

    def _text(self, states: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(2 B, L, C) for the blocks, (2 B, C) pooled, (2 B, 1, 6, C) modulation."""
        net, length = self.net, len(states[0])
        null = net.cfg_uncond[:length].float()
        both = torch.stack([*states, *[null] * len(states)])
        t = both * both.square().mean(-1, keepdim=True).add(1e-6).rsqrt()
        t = (t * net.text_norm.weight.float()).to(self.dtype)
        pool = net.text_proj_for_sos.ca
        k, v = self._keys(pool, t)
        q = pool.mat_q[:, :, None].expand(len(t), -1, -1, -1).to(k.dtype)
        heard = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        pooled = pool.proj(heard[:, 0])
        modulation = net.shared_ada_lin(pooled).float().unflatten(-1, (1, 6, -1))
        return net.text_proj_for_ca(t), pooled, modulation

    @staticmethod
    def _keys(attention: Any, text: Tensor) -> tuple[Tensor, Tensor]:
        bias = torch.cat([attention.zero_k_bias, attention.v_bias])
        both = F.linear(text, attention.mat_kv.weight, bias)
        both = both.unflatten(-1, (2, attention.heads, -1)).permute(2, 0, 3, 1, 4)
        return both[0], both[1]

    # ---------------------------------------------------------------- a block

    def _block(self, i: int, x: Tensor, modulation: Tensor, text: Tensor, turn: Tensor) -> Tensor:
        block = self.blocks[i]
        g1, g2, s1, s2, b1, b2 = (block.ada_gss.float() + modulation).unbind(2)
        x = x + (self._self_attention(i, self._norm(x, s1, b1), turn) * g1).to(self.stream)
        affine = (block.ca_norm.weight.float(), block.ca_norm.bias.float())
        h = F.layer_norm(x.float(), x.shape[-1:], *affine, 1e-6).to(self.dtype)
        q = block.ca.mat_q(h).unflatten(-1, (block.ca.heads, -1)).transpose(1, 2)
        k, v = self._keys(block.ca, text)
        heard = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + block.ca.proj(heard).to(self.stream)
        h = F.gelu(block.ffn.fc1(self._norm(x, s2, b2)), approximate="tanh")
        return x + (block.ffn.fc2(h) * g2).to(self.stream)

    def _norm(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        h = F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)
        return h.mul(scale.add(1)).add_(shift).to(self.dtype)

    def _self_attention(self, i: int, h: Tensor, turn: Tensor) -> Tensor:
        own = self.blocks[i].sa
        bias = torch.cat([own.q_bias, own.zero_k_bias, own.v_bias])
        qkv = F.linear(h, own.mat_qkv.weight, bias).unflatten(-1, (3, own.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scale = own.scale_mul_1H11.float().clamp(max=4.605170185988092).exp()
        q = F.normalize(q.float(), dim=-1).mul(scale).contiguous()
        k, v = F.normalize(k.float(), dim=-1).contiguous(), v.contiguous()
        q, k = self._turned(torch.stack([q, k]), turn).unbind(0)
        before = self.cached[i]
        if before is not None:
            k, v = torch.cat([before[0], k], dim=2), torch.cat([before[1], v], dim=2)
        self.cached[i] = (k, v)
        q, k = q.to(v.dtype), k.to(v.dtype)
        out = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return own.proj(out.transpose(1, 2).reshape(h.shape))

    @staticmethod
    def _turned(x: Tensor, turn: Tensor) -> Tensor:
        cos, sin = turn
        pairs = x.unflatten(-1, (-1, 2))
        a, b = pairs[..., 0], pairs[..., 1]
        return torch.stack([cos * a - sin * b, sin * a + cos * b], dim=-1).flatten(-2)

    # ---------------------------------------------------------------- after the blocks

    def _logits(self, x: Tensor, pooled: Tensor) -> Tensor:
        modulation = self.net.head_nm.ada_lin(pooled).float().unflatten(-1, (1, 2, -1))
        scale, shift = modulation.unbind(2)
        h = F.layer_norm(x.float(), x.shape[-1:], eps=1e-6).mul(scale.add(1)).add_(shift)
        head = self.net.head
        return F.linear(h, head.weight.float(), head.bias.float())

    def _sample(self, logits: Tensor, u: Tensor) -> Tensor:
        """Bits (B, L, d) of logits (B, L, 2 d) by top-k, top-p and given numbers."""
        shape = (*logits.shape[:2], logits.shape[2] // 2)
        logits = logits.reshape(len(logits), -1, 2)
        top_k, top_p = self.generator.defaults.top_k, self.generator.defaults.top_p
        if top_k:
            least = logits.topk(min(top_k, 2), sorted=False).values.amin(-1, keepdim=True)
            logits = logits.masked_fill(logits < least, -torch.inf)
        if 0 < top_p < 1:
            ordered, order = logits.sort(dim=-1)
            unlikely = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
            unlikely[..., -1] = False
            logits = logits.masked_fill(unlikely.scatter(-1, order, unlikely), -torch.inf)
        p = logits.softmax(-1)
        return (u >= p[..., 0].double()).view(shape)

    def _margin(self, logits: Tensor, u: Tensor) -> Tensor:
        """How far a bit is from being the other one: its number from its probability, or that
        probability from where top-p drops it, whichever is nearer."""
        p = logits.reshape(len(logits), -1, 2).softmax(-1).double()
        margin, top_p = (u - p[..., 0]).abs(), self.generator.defaults.top_p
        if 0 < top_p < 1:
            margin = torch.minimum(margin, (p.amin(-1) - (1 - top_p)).abs())
        return margin

    def _decode(self, sums: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) of sums (B, d, 1, h, w). Four at a time: sixteen are too many for
        kernels that count in 32 bits."""
        pictures = []
        for part in sums[:, :, 0].to(self.vae.dtype).split(4):
            picture = self.vae.decoder(part).float().clamp(-1, 1)
            pictures.append(((picture + 1) / 2).permute(0, 2, 3, 1).mul(255).to(torch.uint8))
        return torch.cat(pictures)

    def _select(self, rows: Tensor) -> None:
        for i, pair in enumerate(self.cached):
            assert pair is not None
            k, v = (part.clone()[rows].clone() for part in pair)
            self.cached[i] = (k, v)
        if self.released:
            gc.collect()
            torch.cuda.empty_cache()
