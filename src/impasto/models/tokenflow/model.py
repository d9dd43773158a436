"""TokenFlow's transformer: a Llama that draws all tokens of a scale at once, after a text.

    text     embedding of the word + level embedding 0; `<img>` ends it, in the words' own pieces
    scale 1  the last piece of `<img>` + position 0: it predicts the first token
    scale k  W2 gelu(W1 f_k) + level embedding of k + learned position of the place, where f_k is
             the sum of the codes before, enlarged step by step; never embeddings of ids
    block    h <- h + RMSNorm(Attention(h));  h <- h + RMSNorm(MLP(h))          norms come last
             q, k <- RMSNorm of each head, then rotated by the index in the sequence, whose text
             slots before a short text count
    head     W RMSNorm(h): a row for each word and each code

A token sees the text and the tokens of its own scale and of earlier ones: under one mask when all
scales run at once (`seen`, for training), by what the cache holds when they run one by one. Of the
level embeddings row 1 has no use, as in the published model. The residual stream is float32
whatever the weights.

Parameter names and shapes are the published file's. Source: Qu et al. 2024 (TokenFlow, arXiv
2412.03069), section 3.3, and the released code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from impasto.models.next_scale.blocks import CachedAttention, KeysValues, StretchedBlock
from impasto.models.next_scale.cache import Buffers, Cache
from impasto.models.next_scale.maps import Sizes, block_causal_mask, tokens

__all__ = ["TokenFlowTransformer", "rotary", "rotated", "seen"]

HEAD_EPS = 1e-6


def normed(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """x / rms(x) times the norm's weight, float32."""
    return F.rms_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.eps)


def rotary(start: int, count: int, head_width: int, theta: float, like: Tensor) -> tuple[
    Tensor, Tensor]:  # fmt: skip
    """Cosines and sines (count, 1, d_head / 2), float32, of tokens at start, start + 1, …"""
    half = torch.arange(0, head_width, 2, device=like.device, dtype=torch.float32) / head_width
    at = torch.arange(start, start + count, device=like.device, dtype=torch.float32)
    angles = (at[:, None] * theta**-half)[:, None]
    return angles.cos(), angles.sin()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, L, heads, d_head): pairs (x_j, x_j+d/2) turned by their angles."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def seen(text: Tensor, first: int, sizes: Sizes, after: int) -> Tensor:
    """bool (B, 1, N, N): who sees whom in sequences of text, all scales and `after` tokens.

    text: bool (B, `first` + 1), whether there is a token; False before a short text. first: the
    index that predicts the first token of a picture. Empty slots see themselves, so that no row is
    without a key; nobody else sees them.
    """
    count = first + tokens(sizes) + after
    sees = torch.ones(count, count, dtype=torch.bool, device=text.device).tril()
    image = slice(first, first + tokens(sizes))
    sees[image, image] = block_causal_mask(sizes, text.device)
    there = F.pad(text, (0, count - text.shape[1]), value=True)
    itself = torch.eye(count, dtype=torch.bool, device=text.device)
    return (sees & there[:, None] | itself)[:, None]


class HeadNorms(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_norm = nn.RMSNorm(width, HEAD_EPS)
        self.key_norm = nn.RMSNorm(width, HEAD_EPS)


class Attention(CachedAttention):
    """`split`, then the call, then `o_proj`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(width, width, bias=False) for _ in range(4))  # fmt: skip
        self.qknorm = HeadNorms(width // heads)

    def split(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised and rotated queries and keys, and values: each (B, heads, L, d_head)."""
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1))
                   for proj in (self.q_proj, self.k_proj, self.v_proj))  # fmt: skip
        q = rotated(normed(q, self.qknorm.query_norm), cos, sin).to(v.dtype)
        k = rotated(normed(k, self.qknorm.key_norm), cos, sin).to(v.dtype)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


class MLP(nn.Module):
    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inside, bias=False)
        self.up_proj = nn.Linear(width, inside, bias=False)
        self.down_proj = nn.Linear(inside, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(StretchedBlock):
    stretches = ("opening", "closing")

    def __init__(self, width: int, heads: int, inside: int, eps: float) -> None:
        super().__init__(drop_path=0.0)
        self.self_attn = Attention(width, heads)
        self.mlp = MLP(width, inside)
        self.input_layernorm = nn.RMSNorm(width, eps)
        self.post_attention_layernorm = nn.RMSNorm(width, eps)

    @property
    def dtype(self) -> torch.dtype:
        return self.mlp.down_proj.weight.dtype

    def opening(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the attention."""
        return self.self_attn.split(x.to(self.dtype), cos, sin)

    def closing(self, x: Tensor, heard: Tensor) -> Tensor:
        """x with what the attention heard, and through the feed-forward network."""
        x = x + normed(self.self_attn.o_proj(heard), self.input_layernorm)
        return x + normed(self.mlp(x.to(self.dtype)), self.post_attention_layernorm)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, *, mask: Tensor | None = None,
        past: KeysValues | None = None, into: KeysValues | None = None,
    ) -> Tensor:  # fmt: skip
        """x: (B, L, C), float32. mask, past, into: see `CachedAttention`."""
        q, k, v = self.opening(x, cos, sin)
        return self.closing(x, self.self_attn(q, k, v, mask=mask, past=past, into=into))


class Trunk(nn.Module):
    """All but the head, as the published names have it."""

    def __init__(
        self, *, depth: int, width: int, heads: int, inside: int, embedded: int, channels: int,
        scales: int, places: int, eps: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embed_tokens = nn.Embedding(embedded, width)
        self.layers = nn.ModuleList(Block(width, heads, inside, eps) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps)
        self.mm_projector = nn.Sequential(nn.Linear(channels, width), nn.GELU(),
                                          nn.Linear(width, width))  # fmt: skip
        self.lvl_embed = nn.Embedding(scales + 1, width)
        self.pos_1LC = nn.Parameter(torch.empty(places, width))


class TokenFlowTransformer(ModelMixin, ConfigMixin):
    """See `config.TransformerConfig` for the arguments. Raises ValueError where the width does not
    divide by the heads into an even number, or the patches do not grow from 1."""

    config_name = "config.json"
    _repeated_blocks = ("Block",)  # for diffusers' compile_repeated_blocks

    @register_to_config
    def __init__(
        self, *, depth: int, width: int, heads: int, inside: int, text_vocabulary: int,
        vocabulary: int, channels: int, patches: Sequence[int], text: int = 128,
        embedded: int | None = None, eps: float = 1e-5, theta: float = 10000.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width {width} must be a multiple of twice the {heads} heads")
        if not patches or patches[0] != 1 or sorted(set(patches)) != list(patches):
            raise ValueError(f"patches must start with 1 and grow, given {list(patches)}")
        every = text_vocabulary + vocabulary
        if embedded is not None and not text_vocabulary <= embedded <= every:
            raise ValueError(f"the embedding must have {text_vocabulary} to {every} rows, given "
                             f"{embedded}")  # fmt: skip
        self.sizes: Sizes = tuple((side, side) for side in patches)
        self.head_width, self.theta, self.words = width // heads, theta, text_vocabulary
        self.model = Trunk(depth=depth, width=width, heads=heads, inside=inside, eps=eps,
                           embedded=embedded or every, channels=channels, scales=len(patches),
                           places=tokens(self.sizes))  # fmt: skip
        self.lm_head = nn.Linear(width, every, bias=False)

    # ---------------------------------------------------------------- tokens

    def embed_text(self, ids: Tensor) -> Tensor:
        """Words (B, n) as input tokens (B, n, C), float32."""
        return self.model.embed_tokens(ids).float() + self.model.lvl_embed.weight[0].float()

    def embed(self, scale: int, told: Tensor) -> Tensor:
        """Input tokens (B, L, C), float32, of one scale, from 0: of the last piece of `<img>`,
        ids (B, 1), for the first; of f_k (B, L, channels) for the others."""
        at = slice(tokens(self.sizes[:scale]), tokens(self.sizes[: scale + 1]))
        places = self.model.pos_1LC[at].float()
        if scale == 0:
            return self.embed_text(told) + places
        projected = self.model.mm_projector(told.to(self.lm_head.weight.dtype))
        return projected.float() + self.model.lvl_embed.weight[scale + 1].float() + places

    def forward(
        self, x: Tensor, start: int, *, mask: Tensor | None = None, past: Cache | None = None,
        into: Cache | None = None,
    ) -> Tensor:  # fmt: skip
        """States (B, L, C), float32, before the head.

        x: input tokens. start: the index of the first in the sequence. past: keys and values of
        earlier tokens. into: the same cache, extended by these tokens, whose keys and values are
        written to it; stands for `past`.
        """
        cos, sin = rotary(start, x.shape[1], self.head_width, self.theta, x)
        for i, block in enumerate(self.model.layers):
            x = block(x, cos, sin, mask=mask, past=None if past is None else past[i],
                      into=None if into is None else into[i])  # fmt: skip
        return normed(x, self.model.norm)

    def code_logits(self, h: Tensor) -> Tensor:
        """Logits (B, L, K), float32, of the codes alone: no word is ever drawn."""
        return F.linear(h.to(self.lm_head.weight.dtype), self.lm_head.weight[self.words :]).float()

    def logits(self, h: Tensor) -> Tensor:
        """Logits (B, L, words + K), float32."""
        return self.lm_head(h.to(self.lm_head.weight.dtype)).float()

    # ---------------------------------------------------------------- text

    def read(self, ids: Tensor, places: int) -> Cache:
        """The cache of a text (n,) that ends at place `places` - 1; zeros where there is none."""
        shape = (len(self.model.layers), 1, places, self.config["heads"], self.head_width)
        like = self.lm_head.weight
        cache = Cache(Buffers(like.new_zeros(shape), like.new_zeros(shape), places), places)
        empty, count = places - len(ids), len(ids)
        if count:
            mask = torch.ones(count, places, dtype=torch.bool, device=ids.device).tril(empty)
            mask[:, :empty] = False
            self(self.embed_text(ids[None]), empty, mask=mask, into=cache)
        return cache

    # ---------------------------------------------------------------- training

    def teacher_forced(self, words: Tensor, told: Tensor, ending: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, L + e + 1, words + K) of a picture's L tokens, of the e pieces of `</img>`
        and of the end, all at once.

        words: ids (B, n) of text slots and `<img>`. told: f_2 … f_K one after another, (B, L - 1,
        channels). ending: ids (e,). mask: see `seen`. Raises ValueError for other numbers of
        places.
        """
        if told.shape[1] != tokens(self.sizes) - 1:
            raise ValueError(f"scales 2 to {len(self.sizes)} have {tokens(self.sizes) - 1} places "
                             f"together, given {told.shape[1]}")  # fmt: skip
        counts = [h * w for h, w in self.sizes]
        image = [self.embed(k, part) for k, part in
                 enumerate([words[:, -1:], *told.split(counts[1:], dim=1)])]  # fmt: skip
        # Nothing is said of the finished picture: its place has a level and nothing else.
        end = torch.zeros_like(image[0]) + self.model.lvl_embed.weight[0].float()
        after = self.embed_text(ending.expand(len(words), -1))
        x = torch.cat([self.embed_text(words[:, :-1]), *image, end, after], dim=1)
        return self.logits(self(x, 0, mask=mask)[:, words.shape[1] - 1 :])
