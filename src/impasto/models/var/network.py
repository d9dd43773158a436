"""One scale of a state through VAR's transformer.

    l = w_k l_with + (1 - w_k) l_without
"""

from __future__ import annotations

import torch
from torch import Tensor

from impasto.models.next_scale.cache import Cache
from impasto.models.next_scale.network import ScaleNetwork, parts
from impasto.models.var.model import Condition
from impasto.models.var.sampler import ClassState
from impasto.sample.seeds import upload

__all__ = ["ClassNetwork"]


class ClassNetwork(ScaleNetwork):
    def logits(self, state: ClassState, rows: range, past: Cache, into: Cache | None) -> Tensor:
        """Guided logits (B, L, V) of the next scale of some rows."""
        k, w, both = state.step, state.guidance[state.step], state.paired
        null = len(state.classes.start) - 1
        pairs = [(state.prompt_of[i], null)[: 1 + both] for i in rows]
        at = upload(torch.tensor(pairs).flatten(), state.f_hat.device)
        told = self._told(state, rows) if k else state.classes.start[at]
        own_past, own_into = parts(state, rows, past, into)

        def network(told: Tensor, at: Tensor, *classes: Tensor) -> Tensor:
            x = self.transformer.embed(k, told)
            return self.transformer(x, Condition(*classes), rows=at, past=own_past, into=own_into)

        logits = self._called(state, network, (told, at, *state.classes), into or past)
        if not both:
            return logits
        return logits[0::2] if w == 1 else w * logits[0::2] + (1 - w) * logits[1::2]
