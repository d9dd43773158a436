"""Cosines of picture and prompt: CLIPScore, PickScore and HPS by transformers' CLIP class.

    c     = <f(picture), g(prefix + prompt)>      f, g: projected features, L2-normalised
    value = the variant's function of c and of s, the model's own scale (100 in OpenAI's)

A variant is all of it: architecture, activation, prefix, square and function. `VARIANTS` has those
of the published scorers, each with its source. Prompts are cut at 77 tokens, before <eos>, with a
warning; the original tokenizers repair broken Unicode (ftfy), the ones here do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPModel, PreTrainedTokenizerFast

from impasto.score.clip import OPENAI, image_features, text_features, token_ids
from impasto.score.preference.base import PreferenceScorer
from impasto.score.preference.pictures import SQUARES
from impasto.score.preference.variants import Variant

__all__ = ["FUNCTIONS", "ClipPreference"]


FUNCTIONS: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "2.5 max(c, 0)": lambda c, s: 2.5 * c.clamp(min=0),
    "100 c": lambda c, s: 100 * c,
    "s c / 100": lambda c, s: s * c / 100,
    "s c": lambda c, s: s * c,
    "s c / 26": lambda c, s: s * c / 26,
    "c": lambda c, s: c,
}
"""The functions of `VARIANTS`, by the way they are written."""


class ClipPreference(PreferenceScorer):
    """A cosine score of one of `VARIANTS`, or of one like it."""

    model: CLIPModel

    def __init__(
        self, variant: Variant, model: CLIPModel, tokenizer: PreTrainedTokenizerFast,
        record: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(model, name=variant.name, record=record)
        self.variant, self.tokenizer = variant, tokenizer
        self.size: int = model.config.vision_config.image_size
        self.length: int = model.config.text_config.max_position_embeddings
        self.scale = float(model.logit_scale.detach().exp())

    def look(self, images: Sequence[Tensor]) -> Tensor:
        """(B, D) unit features, on the CPU."""
        return self.in_rows(lambda rows: image_features(self.model, self._inputs(images[rows])),
                            len(images))  # fmt: skip

    def _inputs(self, images: Sequence[Tensor]) -> Tensor:
        square = SQUARES[self.variant.square]
        return OPENAI(torch.stack([square(image.cpu().float(), self.size) for image in images]))

    def rate(self, seen: Tensor, prompts: Sequence[str]) -> Tensor:
        """Each prompt goes through the network once."""
        of = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        ids = token_ids(self.tokenizer, [self.variant.prefix + one for one in of], self.length)
        meant = self.in_rows(lambda rows: text_features(self.model, ids[rows]), len(ids))
        cosines = (seen * meant[[of[prompt] for prompt in prompts]]).sum(-1)
        return FUNCTIONS[self.variant.function](cosines, self.scale)

    def provenance(self) -> dict[str, Any]:
        one = self.variant
        return super().provenance() | {
            "model": one.architecture, "value": one.function, "prefix": one.prefix,
            "preprocessing": {"square": one.square, "size": self.size, "tokens": self.length,
                              "mean": list(OPENAI.mean), "std": list(OPENAI.std)},
        }  # fmt: skip
