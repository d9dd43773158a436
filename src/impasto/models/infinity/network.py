"""One scale of a state through Infinity's transformer.

    l = (g l_with + (1 - g) l_without) / tau,      on logits or on the states after a block
"""

from __future__ import annotations

from torch import Tensor

from impasto.models.infinity.model import Condition, InfinityTransformer, mixed
from impasto.models.infinity.sampler import TextState
from impasto.models.infinity.tokenizer import InfinityTokenizer
from impasto.models.next_scale.cache import Cache
from impasto.models.next_scale.network import ScaleNetwork, parts

__all__ = ["TextNetwork"]


class TextNetwork(ScaleNetwork):
    """guidance_layer: 0 for guidance on logits, -n for after block depth - n."""

    def __init__(
        self, transformer: InfinityTransformer, vae: InfinityTokenizer, guidance_layer: int
    ) -> None:
        super().__init__(transformer, vae)
        self.guidance_layer = guidance_layer

    def logits(self, state: TextState, rows: range, past: Cache, into: Cache | None) -> Tensor:
        """Guided, tempered logits (B, L, d, 2) of the next scale of some rows."""
        k, g, plan = state.step, state.guidance[state.step], state.schedule
        inside = state.paired and g != 1 and self.guidance_layer < 0
        mix = (len(self.transformer.blocks) + self.guidance_layer, g) if inside else None
        padded = len({state.lengths[state.prompt_of[i]] for i in rows}) > 1
        own_past, own_into = parts(state, rows, past, into)

        def network(codes: Tensor | None, cos: Tensor, sin: Tensor, *text: Tensor) -> Tensor:
            own, model = Condition(*text), self.transformer
            return model(model.embed(k, own, codes), own, level=model.level(plan, k),
                         turn=(cos, sin), past=own_past, into=own_into, padded=padded, mix=mix)

        given = (self._told(state, rows) if k else None, *self.transformer.turn(plan, k),
                 *self._text(state, rows))  # fmt: skip
        logits = self._called(state, network, given, into or past, plan.grid, padded, mix)
        logits = logits / state.temperature[k]
        if not state.paired:
            return logits
        return logits[0::2] if inside or g == 1 else mixed(logits, g)

    def _text(self, state: TextState, rows: range) -> Condition:
        """The condition of each row's branches, as long as the longest prompt among them."""
        prompts = [state.prompt_of[i] for i in rows]
        length = max(state.lengths[p] for p in prompts)
        at = [2 * p + j for p in prompts for j in range(1 + state.paired)]
        return state.text.cut(length).rows(at)
