"""`VARGenerator`: the sampling protocol over VAR, one step a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor

from impasto.models.classes import read_class
from impasto.models.next_scale.maps import Sizes
from impasto.models.next_scale.pipeline import NextScaleGenerator, check_sampling
from impasto.models.storage import Layout
from impasto.models.var.config import VARConfig
from impasto.models.var.costs import decoder_flops, scale_flops, summand_flops
from impasto.models.var.initialise import initialise
from impasto.models.var.model import Condition, VARTransformer
from impasto.models.var.network import ClassNetwork
from impasto.models.var.sampler import ClassState, Defaults, draw_tokens, ramp
from impasto.models.var.tokenizer import VARTokenizer
from impasto.sample.protocol import Request, Sampling, one_text
from impasto.sample.rowwise import in_rows
from impasto.sample.seeds import check_seeds
from impasto.sample.settings import check_size

__all__ = ["VARGenerator"]

NUMBERS = 2**25
"""Logits that are sorted at once: a quarter of a gigabyte in float64, and a few times as much."""


class VARGenerator(NextScaleGenerator):
    """Classes to pictures scale by scale, by tokens of a codebook.

    A request's text is the name or the index of a class (`classes.read_class`); its condition,
    with all modulation, is computed once and held by the state.
    """

    LAYOUT = Layout("VARGenerator", {"transformer": VARTransformer, "vae": VARTokenizer},
                    tokenizer=False)  # fmt: skip
    DEFAULTS = Defaults
    sampler = "next scale, one uniform number a token"

    def __init__(
        self, *, transformer: VARTransformer, vae: VARTokenizer, defaults: Defaults
    ) -> None:
        wanted = {key: transformer.config[key] for key in ("vocabulary", "channels")}
        made = {key: vae.config[key] for key in wanted}
        if made != wanted:
            raise ValueError(f"the transformer takes tokens of {wanted}; the tokenizer makes "
                             f"{made}")  # fmt: skip
        defaults.check(transformer.config["classes"], len(transformer.sizes))
        self.transformer, self.vae, self.defaults = transformer, vae, defaults
        self._scale = ClassNetwork(transformer, vae)
        self._decoder: int | None = None

    @classmethod
    def from_config(cls, config: VARConfig, seed: int = 0) -> VARGenerator:
        """A generator with random weights from `seed`, on the CPU, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(
                transformer=initialise(VARTransformer(**asdict(config.transformer))).eval(),
                vae=VARTokenizer(**asdict(config.tokenizer)).eval(),
                defaults=Defaults(classes=config.classes),
            )

    # ---------------------------------------------------------------- the sampling protocol

    @torch.inference_mode()
    def start(
        self, requests: Sequence[Request], seeds: Sequence[int], sampling: Sampling
    ) -> ClassState:
        """Read each text as a class and compute each class's condition once. Raises ValueError for
        settings that this family cannot draw, and for texts that name no class or several."""
        texts, sizes = one_text(requests, seeds), self.transformer.sizes
        guidance = self._guidance(sampling)
        own = check_seeds(seeds)
        count = self.transformer.null_class
        labels = [read_class(text, self.defaults.classes, count) for text in texts]
        distinct = list(dict.fromkeys(labels))
        return ClassState(
            step=0,
            steps=len(sizes),
            seeds=own,
            f_hat=torch.zeros(len(own), self.vae.channels, *sizes[-1], device=self.device),
            cache=None,
            classes=self._conditions([*distinct, count]),
            prompt_of=tuple(distinct.index(label) for label in labels),
            sizes=sizes,
            guidance=guidance,
        )

    def _conditions(self, labels: Sequence[int]) -> Condition:
        """One class at a time, so that none depends on the others."""
        parts = [self.transformer.condition(torch.tensor([label], device=self.device))
                 for label in labels]  # fmt: skip
        return Condition(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def _add_tokens(self, state: ClassState, logits: Tensor) -> ClassState:
        def added(at: slice) -> Tensor:
            ids = draw_tokens(logits[at], state.seeds[at], state.step,
                              top_k=self.defaults.top_k, top_p=self.defaults.top_p)  # fmt: skip
            return self.vae.add_codes(state.f_hat[at], ids, state.step, self.transformer.sizes)

        at_once = self.rows_at_once or max(1, NUMBERS // logits[0].numel())
        return replace(state, f_hat=in_rows(added, len(logits), at_once))

    # ---------------------------------------------------------------- settings, cost

    @property
    def square_sizes(self) -> Sizes:
        return self.transformer.sizes

    def default_size(self) -> tuple[int, int]:
        h, w = self.transformer.sizes[-1]
        return h * self.vae.stride, w * self.vae.stride

    def _guidance(self, sampling: Sampling) -> tuple[float, ...]:
        """The guidance at each scale, the default filled in. Raises ValueError for settings out of
        range."""
        scales = len(self.transformer.sizes)
        check_sampling(sampling, scales)
        check_size(sampling, self.default_size())
        given = self.defaults.guidance if sampling.guidance is None else sampling.guidance
        return ramp(given, scales)

    def _scale_flops(self, state: ClassState, row: int) -> int:
        branches = 1 + state.paired
        own = scale_flops(self.transformer, state.step)
        return branches * own + summand_flops(self.vae, self.transformer)

    def _decoder_flops(self, state: ClassState) -> int:
        if self._decoder is None:
            self._decoder = decoder_flops(self.vae, self.transformer)
        return self._decoder
