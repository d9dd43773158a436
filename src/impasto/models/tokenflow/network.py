"""One pass of one scale of a state through TokenFlow's transformer.

    l = w_k l_prompt + (1 - w_k) l_negative
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from impasto.models.next_scale.cache import Cache
from impasto.models.next_scale.maps import to_tokens, tokens
from impasto.models.next_scale.network import ScaleNetwork, parts
from impasto.models.tokenflow.model import TokenFlowTransformer
from impasto.models.tokenflow.sampler import PromptState
from impasto.models.tokenflow.tokenizer import TokenFlowTokenizer
from impasto.sample.seeds import upload

__all__ = ["PromptNetwork"]


class PromptNetwork(ScaleNetwork):
    """opening: the pieces of `<img>`, behind the text's slots; the last of them is the first
    scale's own token, so the cache begins with what is before it."""

    def __init__(
        self, transformer: TokenFlowTransformer, vae: TokenFlowTokenizer, opening: Sequence[int]
    ) -> None:
        super().__init__(transformer, vae)
        self.opening = tuple(opening)
        self.prefix = transformer.config["text"] + len(opening) - 1

    def read(self, texts: Sequence[Sequence[int]]) -> tuple[Cache, Tensor]:
        """The caches of texts, each read by itself; and bool (B, places), where there are
        words."""
        device, caches, seen = self.transformer.device, [], []
        for text in texts:
            ids = torch.tensor([*text, *self.opening[:-1]], device=device)
            caches.append(self.transformer.read(ids, self.prefix))
            seen.append(torch.arange(self.prefix, device=device) >= self.prefix - len(ids))
        return Cache.joined(caches), torch.stack(seen)

    def logits(self, state: PromptState, rows: range, past: Cache, into: Cache | None) -> Tensor:
        """Guided logits (B, L, K) of the codes of the next scale of some rows."""
        k, w, both = state.step, state.guidance[state.step], state.paired
        negative = len(state.seen) - 1
        pairs = [(state.prompt_of[i], negative)[: 1 + both] for i in rows]
        at = upload(torch.tensor(pairs).flatten(), state.f_hat.device)
        own_past, own_into = parts(state, rows, past, into)
        start = self.prefix + tokens(state.sizes[:k])

        def network(told: Tensor, seen: Tensor) -> Tensor:
            model, image = self.transformer, start - self.prefix + told.shape[1]
            mask = torch.cat([seen, seen.new_ones(len(seen), image)], dim=1)[:, None, None]
            h = model(model.embed(k, told), start, mask=mask, past=own_past, into=own_into)
            return model.code_logits(h)

        logits = self._called(state, network, (self._told(state, rows), state.seen[at]),
                              into or past, into is None)  # fmt: skip
        if not both:
            return logits
        return logits[0::2] if w == 1 else w * logits[0::2] + (1 - w) * logits[1::2]

    def _told(self, state: PromptState, rows: range) -> Tensor:  # type: ignore[override]
        """f_k, or the last piece of `<img>`, of both branches of each row."""
        branches = 1 + state.paired
        if state.step == 0:
            last = torch.tensor([[self.opening[-1]]], device=state.f_hat.device)
            return last.expand(branches * len(rows), 1)
        codes = to_tokens(state.running[rows.start : rows.stop])
        return codes.repeat_interleave(branches, dim=0)
