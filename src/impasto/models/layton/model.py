"""LaytonGen's transformer: a text, then the ids of a picture one after another, row by row.

    text     e = W2 gelu_tanh(W1 s): a slot for each state s of the text encoder, at the end of
             the slots; or of the learned text that stands for none
    picture  embedding of the id before; the last slot predicts the first id
    block    h <- h + W_o Attention(RMSNorm(h));  h <- h + SwiGLU(RMSNorm(h))     norms come first
    SwiGLU   w2 (silu(w1 x) * w3 x)
    head     W RMSNorm(h), not tied to the embedding

No layer has a bias. Of the d/2 pairs (x_2j, x_2j+1) of a head the first half is turned by the row,
the second by the column of the id's place, at base 10000. A slot of the text has cosine and sine
0, so its query and its key are zero:

    logit of any token to a slot = 0,    logit of a slot to any = 0

and a text acts through its values alone, all of the same weight. The published weights were
trained so. Slots before a short text are seen by themselves and by nobody else.

Places 0 … `text` - 1 are the slots, `text` + i the i-th id's. The residual stream is float32
whatever the weights. Parameter names and shapes are the published file's; there the learned text
is a buffer, which its training's optimizer does not see, and here it learns. Source: Xie et al.
2025 (arXiv 2503.08377); Sun et al. 2024 (LlamaGen, arXiv 2406.06525), section 3; RoPE: Su et al.
2021 (arXiv 2104.09864).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from impasto.models.next_scale.blocks import KeysValues, StretchedBlock, join_heads
from impasto.models.next_scale.cache import Buffers, Cache
from impasto.models.tokenflow.model import normed

__all__ = ["LaytonTransformer", "rotary", "seen", "turned"]


def rotary(at: Tensor, text: int, side: int, head_width: int, theta: float) -> tuple[
    Tensor, Tensor]:  # fmt: skip
    """Cosines and sines (L, 1, d_head / 2), float32, of places (L,); zeros for slots of the
    text."""
    half, place = head_width // 2, (at - text).clamp(min=0)
    exponents = torch.arange(0, half, 2, device=at.device, dtype=torch.float32) / half
    row_column = torch.stack([place // side, place % side], dim=-1).float()
    angles = (row_column[..., None] * theta**-exponents).flatten(1)[:, None]
    picture = (at >= text)[:, None, None]
    return angles.cos() * picture, angles.sin() * picture


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, L, heads, d_head), float32: pairs (x_2j, x_2j+1) turned by their angles; zero where
    cosine and sine are."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


def seen(there: Tensor, count: int) -> Tensor:
    """bool (B, 1, N, N): who sees whom in a text and the first `count` ids.

    there: bool (B, text), False before a short text. Such slots see themselves, so that no row is
    without a key; nobody else sees them.
    """
    places = there.shape[1] + count
    keys = F.pad(there, (0, count), value=True)
    before = torch.ones(places, places, dtype=torch.bool, device=there.device).tril()
    itself = torch.eye(places, dtype=torch.bool, device=there.device)
    return (before & keys[:, None] | itself)[:, None]


class Attention(nn.Module):
    """`split`, then the call, then `wo`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wqkv = nn.Linear(width, 3 * width, bias=False)
        self.wo = nn.Linear(width, width, bias=False)

    def split(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turned queries and keys, and values: each (B, heads, L, d_head)."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.wqkv(x).chunk(3, -1))
        q, k = (turned(part, cos, sin).to(v.dtype) for part in (q, k))
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, at: Tensor, mask: Tensor,
        held: KeysValues | None = None,
    ) -> Tensor:  # fmt: skip
        """What tokens hear of each other: (B, L, C).

        mask: bool, True may see; broadcastable to (B, heads, L, all keys). held: keys and values
        of all places, of which those of these tokens are written at `at` (L,).
        """
        if held is not None:
            k, v = held[0].index_copy_(2, at, k), held[1].index_copy_(2, at, v)
        return join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


class FeedForward(nn.Module):
    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.w1, self.w3 = (nn.Linear(width, inside, bias=False) for _ in range(2))
        self.w2 = nn.Linear(inside, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(StretchedBlock):
    stretches = ("opening", "closing")

    def __init__(self, width: int, heads: int, inside: int, eps: float, dropout: float) -> None:
        super().__init__(drop_path=0.0)
        self.attention = Attention(width, heads)
        self.feed_forward = FeedForward(width, inside)
        self.attention_norm = nn.RMSNorm(width, eps)
        self.ffn_norm = nn.RMSNorm(width, eps)
        self.dropout = dropout

    @property
    def dtype(self) -> torch.dtype:
        return self.feed_forward.w2.weight.dtype

    def _added(self, x: Tensor, branch: Tensor) -> Tensor:
        return x + F.dropout(branch, self.dropout, self.training).float()

    def opening(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the attention."""
        return self.attention.split(normed(x, self.attention_norm).to(self.dtype), cos, sin)

    def closing(self, x: Tensor, heard: Tensor) -> Tensor:
        """x with what the attention heard, and through the feed-forward network."""
        x = self._added(x, self.attention.wo(heard))
        return self._added(x, self.feed_forward(normed(x, self.ffn_norm).to(self.dtype)))

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, *, at: Tensor, mask: Tensor,
        held: KeysValues | None = None,
    ) -> Tensor:  # fmt: skip
        """x: (B, L, C), float32. at, mask, held: see `Attention`."""
        q, k, v = self.opening(x, cos, sin)
        return self.closing(x, self.attention(q, k, v, at=at, mask=mask, held=held))


class Projection(nn.Module):
    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(text_width, width, bias=False)
        self.fc2 = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Caption(nn.Module):
    """What texts become, and the learned one that stands for none."""

    def __init__(self, text: int, text_width: int, width: int) -> None:
        super().__init__()
        self.cap_proj = Projection(text_width, width)
        self.uncond_embedding = nn.Parameter(torch.randn(text, text_width) * text_width**-0.5)


class LaytonTransformer(ModelMixin, ConfigMixin):
    """See `config.TransformerConfig` for the arguments. Raises ValueError where the width does not
    divide by the heads into a multiple of 4."""

    config_name = "config.json"
    _repeated_blocks = ("Block",)  # for diffusers' compile_repeated_blocks

    @register_to_config
    def __init__(
        self, *, depth: int, width: int, heads: int, inside: int, vocabulary: int, side: int,
        text: int = 120, text_width: int = 2048, eps: float = 1e-5, theta: float = 10000.0,
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % (4 * heads):
            raise ValueError(f"width {width} must be a multiple of 4 times the {heads} heads")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be from 0 to 1 and below 1, given {dropout!r}")
        self.cls_embedding = Caption(text, text_width, width)
        self.tok_embeddings = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Block(width, heads, inside, eps, dropout)
                                    for _ in range(depth))  # fmt: skip
        self.norm = nn.RMSNorm(width, eps)
        self.output = nn.Linear(width, vocabulary, bias=False)
        self.text, self.side, self.head_width = text, side, width // heads
        self.theta, self.dropout = theta, dropout

    @property
    def count(self) -> int:
        """Ids of a picture."""
        return self.side**2

    # ---------------------------------------------------------------- tokens

    def embed_text(self, states: Tensor) -> Tensor:
        """States (B, n, D) of the text encoder as input tokens (B, n, C), float32."""
        return self.cls_embedding.cap_proj(states.to(self.output.weight.dtype)).float()

    def embed(self, ids: Tensor) -> Tensor:
        """Ids (B, n) as input tokens (B, n, C), float32."""
        return self.tok_embeddings(ids).float()

    def null_text(self, length: int) -> Tensor:
        """States (1, n, D), float32, that stand for no text, beside one of n states: those of the
        last n slots."""
        return self.cls_embedding.uncond_embedding[None, self.text - length :].float()

    def forward(
        self, x: Tensor, at: Tensor, mask: Tensor, held: Cache | None = None
    ) -> Tensor:
        """States (B, L, C), float32, before the head. x: input tokens at places `at` (L,). held:
        keys and values of all places, to which these tokens' are written. mask: see `Attention`.
        """
        cos, sin = rotary(at, self.text, self.side, self.head_width, self.theta)
        x = F.dropout(x, self.dropout, self.training)
        for i, block in enumerate(self.layers):
            x = block(x, cos, sin, at=at, mask=mask, held=None if held is None else held[i])
        return normed(x, self.norm)

    def logits(self, h: Tensor) -> Tensor:
        """Logits (B, L, K), float32."""
        return self.output(h.to(self.output.weight.dtype)).float()

    # ---------------------------------------------------------------- text

    def read(self, x: Tensor) -> Cache:
        """The cache (B, all slots but the last) of texts x (B, n, C) of `embed_text`, whose last
        token is left to whoever draws: it predicts the first id. Zeros before the text."""
        places, count = self.text - 1, x.shape[1] - 1
        shape = (len(self.layers), len(x), places, self.config["heads"], self.head_width)
        like = self.output.weight
        cache = Cache(Buffers(like.new_zeros(shape), like.new_zeros(shape), places), places)
        if count:
            at = torch.arange(places - count, places, device=x.device)
            mask = torch.ones(count, places, dtype=torch.bool, device=x.device)
            mask = mask.tril(places - count)
            mask[:, : places - count] = False
            self(x[:, :-1], at, mask, cache)
        return cache

    # ---------------------------------------------------------------- training

    def teacher_forced(self, states: Tensor, there: Tensor, ids: Tensor) -> Tensor:
        """Logits (B, N, K) of a picture's ids (B, N), all at once.

        states: (B, text, D), texts at the end of their slots. there: bool (B, text), where there
        is one. Raises ValueError for other numbers of slots or ids.
        """
        if states.shape[1] != self.text or ids.shape[1] != self.count:
            raise ValueError(f"there are {self.text} slots for text and {self.count} ids a "
                             f"picture, given {states.shape[1]} and {ids.shape[1]}")  # fmt: skip
        x = torch.cat([self.embed_text(states), self.embed(ids[:, :-1])], dim=1)
        at = torch.arange(x.shape[1], device=x.device)
        h = self(x, at, seen(there, self.count - 1))
        return self.logits(h[:, self.text - 1 :])
