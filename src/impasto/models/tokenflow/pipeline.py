"""`TokenFlowGenerator`: the sampling protocol over TokenFlow, one step a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from impasto.models.bound import BoundGenerator
from impasto.models.discrete import check_digest
from impasto.models.next_scale.cache import Cache
from impasto.models.next_scale.maps import Sizes, bicubic, from_tokens
from impasto.models.next_scale.pipeline import NextScaleGenerator, check_sampling
from impasto.models.storage import Layout
from impasto.models.tokenflow.config import TokenFlowConfig
from impasto.models.tokenflow.costs import decoder_flops, scale_flops
from impasto.models.tokenflow.initialise import initialise
from impasto.models.tokenflow.model import TokenFlowTransformer
from impasto.models.tokenflow.network import PromptNetwork
from impasto.models.tokenflow.sampler import Defaults, PromptState
from impasto.models.tokenflow.text import OPENING, pieces, prompt_ids
from impasto.models.tokenflow.tokenizer import TokenFlowTokenizer
from impasto.models.var.sampler import draw_tokens, ramp
from impasto.sample.protocol import Request, Sampling, one_text
from impasto.sample.rowwise import in_rows
from impasto.sample.seeds import check_seeds, upload
from impasto.sample.settings import check_size

__all__ = ["TokenFlowGenerator"]

NUMBERS = 2**25
"""Logits that are sorted at once: a quarter of a gigabyte in float64, and a few times as much."""


class TokenFlowGenerator(BoundGenerator, NextScaleGenerator):
    """Text to pictures scale by scale, by the shared index of two codebooks.

    A prompt is read once, whoever draws from it; its keys and values are where each row's cache
    begins. The model is bound to its tokenizer by `Defaults.tokens`.
    """

    LAYOUT = Layout("TokenFlowGenerator", {"transformer": TokenFlowTransformer,
                                           "vae": TokenFlowTokenizer})  # fmt: skip
    DEFAULTS = Defaults
    sampler = "next scale, one uniform number a token and pass"
    _scale: PromptNetwork

    def __init__(
        self, *, transformer: TokenFlowTransformer, vae: TokenFlowTokenizer,
        tokenizer: PreTrainedTokenizerFast, defaults: Defaults,
    ) -> None:  # fmt: skip
        config = transformer.config
        wanted = (config["vocabulary"], config["channels"], transformer.sizes)
        if wanted != (made := (vae.vocabulary, vae.channels, vae.scales)):
            words = ("{} codes of {} channels on maps of {}".format(
                *own[:2], [h for h, _ in own[2]]) for own in (wanted, made))  # fmt: skip
            raise ValueError("the transformer takes {}; the tokenizer makes {}".format(*words))
        check_digest(defaults.tokens, vae, "this transformer")
        defaults.check(len(transformer.sizes))
        self.transformer, self.vae, self.tokenizer = transformer, vae, tokenizer
        self.defaults = replace(defaults, tokens=defaults.tokens or vae.token_digest())
        self._scale = PromptNetwork(transformer, vae, pieces(tokenizer, OPENING))
        self._text_ids(defaults.negative)
        self._decoder: int | None = None

    @classmethod
    def from_config(
        cls, config: TokenFlowConfig, tokenizer: PreTrainedTokenizerFast, seed: int = 0
    ) -> TokenFlowGenerator:
        """A generator with random weights from `seed`, on the CPU, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(
                transformer=initialise(TokenFlowTransformer(**asdict(config.transformer))).eval(),
                vae=TokenFlowTokenizer(**asdict(config.tokenizer)).eval(),
                tokenizer=tokenizer, defaults=Defaults(),
            )  # fmt: skip

    # ---------------------------------------------------------------- the sampling protocol

    @torch.inference_mode()
    def start(
        self, requests: Sequence[Request], seeds: Sequence[int], sampling: Sampling
    ) -> PromptState:
        """Read each distinct prompt once, and the negative one. Raises ValueError for settings or
        requests that this family cannot draw."""
        prompts, sizes = one_text(requests, seeds), self.transformer.sizes
        guidance, own = self._guidance(sampling), check_seeds(seeds)
        distinct = list(dict.fromkeys(prompts))
        texts, seen = self._scale.read([self._text_ids(text)
                                        for text in (*distinct, self.defaults.negative)]
                                       )  # fmt: skip
        prompt_of = tuple(distinct.index(prompt) for prompt in prompts)
        both = any(weight != 1 for weight in guidance)
        at = torch.tensor([(i, len(distinct))[: 1 + both] for i in prompt_of]).flatten()
        zeros = torch.zeros(len(own), self.vae.channels, *sizes[-1], device=self.device)
        return PromptState(
            step=0,
            steps=len(sizes),
            seeds=own,
            f_hat=zeros,
            running=zeros[..., :1, :1],
            cache=texts.selected(upload(at, self.device)),
            seen=seen,
            prompt_of=prompt_of,
            sizes=sizes,
            guidance=guidance,
        )

    def _text_ids(self, text: str) -> list[int]:
        return prompt_ids(self.tokenizer, text, self.transformer.config["text"],
                          self.transformer.words)  # fmt: skip

    def _passes(self, state: PromptState) -> int:
        return self.defaults.passes if state.step else 1

    def _logits(self, state: PromptState, past: Cache, into: Cache | None) -> Tensor:
        """Of the last pass. Passes but the first leave nothing in the cache."""
        logits = super()._logits(state, past, into)
        for j in range(self._passes(state) - 1):
            refined = self._with_codes(state, self._drawn(state, logits, j))
            logits = super()._logits(replace(state, running=refined), past, None)
        return logits

    def _add_tokens(self, state: PromptState, logits: Tensor) -> PromptState:
        ids, k = self._drawn(state, logits, self._passes(state) - 1), state.step
        summed, following = self._with_codes(state, ids), state.sizes[k + 1 : k + 2]

        def f_hat(at: slice) -> Tensor:
            return state.f_hat[at] + self.vae.summand(ids[at], state.sizes[k])

        def running(at: slice) -> Tensor:
            return bicubic(summed[at], following[0]) if following else summed[at]

        n = len(ids)
        return replace(state, f_hat=in_rows(f_hat, n, self.rows_at_once),
                       running=in_rows(running, n, self.rows_at_once))  # fmt: skip

    def _drawn(self, state: PromptState, logits: Tensor, j: int) -> Tensor:
        """Ids (B, L) of the next scale in pass j."""
        def drawn(at: slice) -> Tensor:
            return draw_tokens(logits[at], state.seeds[at], state.step, refinement=j,
                               top_k=self.defaults.top_k[j], top_p=self.defaults.top_p[j]
                               )  # fmt: skip

        at_once = self.rows_at_once or max(1, NUMBERS // logits[0].numel())
        return in_rows(drawn, len(logits), at_once)

    def _with_codes(self, state: PromptState, ids: Tensor) -> Tensor:
        """f_k + codes(ids), (B, C, h_k, w_k), float32."""
        return state.running + in_rows(
            lambda at: from_tokens(self.vae.codes(ids[at]), state.sizes[state.step]),
            len(ids), self.rows_at_once)  # fmt: skip

    # ---------------------------------------------------------------- settings, cost

    @property
    def square_sizes(self) -> Sizes:
        return self.transformer.sizes

    def default_size(self) -> tuple[int, int]:
        return self.vae.image, self.vae.image

    def _guidance(self, sampling: Sampling) -> tuple[float, ...]:
        """The guidance at each scale, the default filled in. Raises ValueError for settings out of
        range."""
        scales = len(self.transformer.sizes)
        check_sampling(sampling, scales)
        check_size(sampling, self.default_size())
        given = self.defaults.guidance if sampling.guidance is None else sampling.guidance
        return ramp(given, scales)

    def _scale_flops(self, state: PromptState, row: int) -> int:
        """The text, read once a prompt, is left out."""
        own = scale_flops(self.transformer, state.step, self._scale.prefix)
        return self._passes(state) * (1 + state.paired) * own

    def _decoder_flops(self, state: PromptState) -> int:
        if self._decoder is None:
            self._decoder = decoder_flops(self.vae)
        return self._decoder
