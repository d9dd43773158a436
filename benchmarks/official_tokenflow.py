"""TokenFlow's published quantiser and sampler, over the weights of our models.

Written anew from what they do, as what ours is measured against:

    quantiser  both matrices of distances, their squares summed (for a log), the sum of both, its
               argmin; then a one-hot of tokens by codes, in whole numbers and in float, and the
               entropies of a softmax over the distances, whose weight in the loss is 0
    drawing    for every scale and pass the whole sequence anew through the network: the text's
               slots, all scales before; a dense mask a row; nothing is cached

It is spared masks made in Python a row and step, and `torch.multinomial` (it cannot take given
numbers; ours are used).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.models.codebooks import Codebook
from impasto.models.next_scale.maps import area, bicubic, from_tokens, to_tokens
from impasto.models.tokenflow import TokenFlowGenerator, TokenFlowTokenizer
from impasto.models.tokenflow.model import seen
from impasto.models.tokenflow.text import slots
from impasto.models.var.sampler import draw_tokens, ramp

__all__ = ["Drawn", "official_draw", "official_encode", "official_ids"]


def official_ids(book: Codebook, z: Tensor) -> Tensor:
    """Ids (B, h w) of features (B, C, h, w), by all that the released forward computes."""
    flat = to_tokens(z.float()).flatten(0, 1)
    total, log = torch.zeros((), device=z.device), []
    for part, embedding in zip(flat.split(book.widths, 1), book.embeddings, strict=True):
        s, e = F.normalize(part, dim=1), F.normalize(embedding.weight.float(), dim=1)
        d = s.square().sum(1, keepdim=True) + e.square().sum(1) - 2 * s @ e.t()
        log.append(d.square().sum(-1).mean())
        total = total + d
    ids = total.argmin(1)
    hits = F.one_hot(ids, book.vocabulary).to(flat.dtype)
    sharp = -total / 0.01
    entropy = (sharp.softmax(-1).mean(0) * (sharp.softmax(-1).mean(0) + 1e-5).log()).sum()
    entropy = entropy - (sharp.softmax(-1) * (sharp + 1e-5).log_softmax(-1)).sum(-1).mean()
    # What is computed is used, so that nothing can be left out.
    return ids.view(len(z), -1) + (0 * (hits[0, 0] + 0 * entropy.nan_to_num() + log[0])).long()


@torch.no_grad()
def official_encode(vae: TokenFlowTokenizer, images: Tensor) -> list[Tensor]:
    """`encode` with the released quantiser."""
    rest, found = vae.features(images), []
    for size in vae.scales:
        found.append(official_ids(vae.quantize, area(rest, size)))
        rest = rest - vae.summand(found[-1], size)
    return found


class Drawn(NamedTuple):
    """ids: (B, h_k w_k) a scale. places: tokens of one row that went through the network."""

    ids: list[Tensor]
    places: int


@torch.no_grad()
def official_draw(
    pipe: TokenFlowGenerator, prompts: Sequence[str], seeds: Sequence[int],
    guidance: float | None = None,
) -> Drawn:  # fmt: skip
    """A picture's ids a prompt and seed. guidance: of the ramp; None for the model's own."""
    model, vae, own = pipe.transformer, pipe.vae, pipe.defaults
    sizes, device, text = model.sizes, pipe.device, model.config["text"]
    words, there = slots(pipe.tokenizer, [*prompts, own.negative], text, model.words)
    rows = [i for p in range(len(prompts)) for i in (p, len(prompts))]
    words, there = words[rows].to(device), there[rows].to(device)
    weights = ramp(own.guidance if guidance is None else guidance, len(sizes))
    first, count = words.shape[1] - 1, 0
    f = torch.zeros(len(prompts), vae.channels, 1, 1, device=device)
    told: list[Tensor] = []
    kept: list[Tensor] = []
    ids = torch.empty(0)
    for k, (h, w) in enumerate(sizes):
        for j in range(own.passes if k else 1):
            now = f if j == 0 else f + from_tokens(vae.codes(ids), (h, w))
            inputs = [*told, to_tokens(now).repeat_interleave(2, 0)] if k else []
            x = torch.cat([model.embed_text(words[:, :-1]), model.embed(0, words[:, -1:]),
                           *(model.embed(i + 1, part) for i, part in enumerate(inputs))], dim=1)
            mask = seen(there, first, sizes[: k + 1], 0)
            logits = model.code_logits(model(x, 0, mask=mask)[:, -h * w :])
            count += x.shape[1]
            mixed = weights[k] * logits[0::2] + (1 - weights[k]) * logits[1::2]
            ids = draw_tokens(mixed, seeds, k, refinement=j, top_k=own.top_k[j],
                              top_p=own.top_p[j])  # fmt: skip
        kept.append(ids)
        if k:
            told.append(to_tokens(f).repeat_interleave(2, 0))
        if k + 1 < len(sizes):
            f = bicubic(f + from_tokens(vae.codes(ids), (h, w)), sizes[k + 1])
    return Drawn(kept, count)
