"""`InfinityGenerator`: the sampling protocol over Infinity, one step a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from impasto.models.infinity.config import InfinityConfig
from impasto.models.infinity.costs import decoder_flops, scale_flops
from impasto.models.infinity.initialise import initialise
from impasto.models.infinity.model import Condition, InfinityTransformer
from impasto.models.infinity.network import TextNetwork
from impasto.models.infinity.sampler import Defaults, TextState, draw_bits
from impasto.models.infinity.schedules import Schedule, nearest_ratio
from impasto.models.infinity.tokenizer import InfinityTokenizer
from impasto.models.mmdit.text import token_ids
from impasto.models.next_scale.maps import Sizes
from impasto.models.next_scale.pipeline import NextScaleGenerator, check_sampling
from impasto.models.next_scale.state import per_scale
from impasto.models.storage import Layout
from impasto.sample.protocol import Request, Sampling, one_text
from impasto.sample.seeds import check_seeds
from impasto.sample.settings import size_of

__all__ = ["InfinityGenerator"]

class InfinityGenerator(NextScaleGenerator):
    """Text to pictures scale by scale, by bits.

    A prompt goes through the text encoder by itself and without padding, once; its condition, with
    the text's keys and values in every block, is held by the state.
    """

    LAYOUT = Layout("InfinityGenerator", {"transformer": InfinityTransformer,
                                          "vae": InfinityTokenizer,
                                          "text_encoder": T5EncoderModel})  # fmt: skip
    DEFAULTS = Defaults
    sampler = "next scale, one uniform number a bit"

    def __init__(
        self, *, transformer: InfinityTransformer, vae: InfinityTokenizer,
        text_encoder: T5EncoderModel, tokenizer: PreTrainedTokenizerFast, defaults: Defaults,
    ) -> None:  # fmt: skip
        bits, width = transformer.config["bits"], transformer.config["text_width"]
        if vae.token_bits != bits or text_encoder.config.d_model != width:
            raise ValueError(f"the transformer takes {bits} bits a token and text states of width "
                             f"{width}; the tokenizer makes {vae.token_bits}, the text encoder "
                             f"{text_encoder.config.d_model}")  # fmt: skip
        if tokenizer.model_max_length > transformer.config["null_rows"]:
            raise ValueError(f"prompts of up to {tokenizer.model_max_length} tokens need as many "
                             f"rows of the unconditional text, not "
                             f"{transformer.config['null_rows']}")  # fmt: skip
        if defaults.scales > transformer.config["levels"]:
            raise ValueError(f"the transformer knows {transformer.config['levels']} scales, "
                             f"not {defaults.scales}")  # fmt: skip
        defaults.check(transformer.config["depth"])
        self.transformer, self.vae, self.text_encoder = transformer, vae, text_encoder
        self.tokenizer, self.defaults = tokenizer, defaults
        self._flops: dict[Any, int] = {}
        self._scale = TextNetwork(transformer, vae, defaults.guidance_layer)

    @classmethod
    def from_config(
        cls, config: InfinityConfig, tokenizer: PreTrainedTokenizerFast, seed: int = 0
    ) -> InfinityGenerator:
        """A generator with random weights from `seed`, on the CPU, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            text = T5Config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
                            eos_token_id=tokenizer.eos_token_id, **config.text)  # fmt: skip
            return cls(
                transformer=initialise(InfinityTransformer(**asdict(config.transformer))).eval(),
                vae=InfinityTokenizer(**asdict(config.tokenizer)).eval(),
                text_encoder=T5EncoderModel(text).eval(),
                tokenizer=tokenizer, defaults=Defaults(scales=config.scales, sizes=config.sizes),
            )  # fmt: skip

    # ---------------------------------------------------------------- text

    def encode_text(self, prompt: str) -> Tensor:
        """The text encoder's states (1, L, D), float32, of a prompt and its end, unpadded."""
        ids = token_ids(self.tokenizer, [prompt])
        ids = ids[:, : int((ids != self.tokenizer.pad_token_id).sum())]
        return self.text_encoder(input_ids=ids.to(self.device)).last_hidden_state.float()

    def _conditions(self, prompts: Sequence[str]) -> tuple[Condition, tuple[int, ...]]:
        """Of every prompt and of the unconditional text beside it, padded to one length; and the
        prompts' lengths. One prompt at a time, so that none depends on the others."""
        parts, lengths = [], []
        for prompt in prompts:
            states = self.encode_text(prompt)
            pair = torch.cat([states, self.transformer.null_text(states.shape[1]).float()])
            seen = torch.ones(pair.shape[:2], dtype=torch.bool, device=self.device)
            parts.append(self.transformer.condition(pair, seen))
            lengths.append(states.shape[1])
        return _padded(parts, max(lengths)), tuple(lengths)

    # ---------------------------------------------------------------- the sampling protocol

    @torch.inference_mode()
    def start(
        self, requests: Sequence[Request], seeds: Sequence[int], sampling: Sampling
    ) -> TextState:
        """Encode each distinct prompt once. Raises ValueError for settings or requests that this
        family cannot draw."""
        prompts = one_text(requests, seeds)
        plan, guidance = self._settings(sampling)
        distinct = list(dict.fromkeys(prompts))
        own = check_seeds(seeds)
        text, lengths = self._conditions(distinct)
        channels = self.vae.token_bits // self.vae.patch**2
        return TextState(
            step=0,
            steps=len(plan.sizes),
            seeds=own,
            f_hat=torch.zeros(len(own), channels, *self.vae.map_size(plan.sizes[-1]),
                              device=self.device),
            cache=None,
            text=text,
            lengths=lengths,
            prompt_of=tuple(distinct.index(prompt) for prompt in prompts),
            sizes=plan.sizes,
            grid=plan.grid,
            guidance=guidance,
            temperature=per_scale("temperature", self.defaults.temperature, len(plan.sizes)),
        )  # fmt: skip

    def _add_tokens(self, state: TextState, logits: Tensor) -> TextState:
        bits = draw_bits(logits, state.seeds, state.step,
                         top_k=self.defaults.top_k, top_p=self.defaults.top_p)  # fmt: skip
        f_hat = self.vae.add_codes(state.f_hat, bits, state.sizes[state.step])
        return replace(state, f_hat=f_hat)

    # ---------------------------------------------------------------- settings, cost

    @property
    def square_sizes(self) -> Sizes:
        return self._square.sizes

    @property
    def _square(self) -> Schedule:
        return next(iter(self.defaults.plans().values()))

    def default_size(self) -> tuple[int, int]:
        return self._pixels(self._square)

    def _pixels(self, plan: Schedule) -> tuple[int, int]:
        h, w = plan.sizes[-1]
        return h * self.vae.stride, w * self.vae.stride

    def _settings(self, sampling: Sampling) -> tuple[Schedule, tuple[float, ...]]:
        """The schedule and the guidance at each scale, defaults filled in. Raises ValueError."""
        check_sampling(sampling, self.defaults.scales)
        own = self.defaults.guidance if sampling.guidance is None else sampling.guidance
        plan = self._plan(*size_of(sampling, self.default_size()))
        return plan, per_scale("guidance", own, self.defaults.scales)

    def _plan(self, height: int, width: int) -> Schedule:
        """The schedule whose pictures have this size. Raises ValueError, naming the nearest."""
        plans = self.defaults.plans()
        if all(isinstance(side, int) and not isinstance(side, bool) and side > 0
               for side in (height, width)):  # fmt: skip
            # The nearest first: short schedules of different shapes end in the same size.
            nearest = nearest_ratio(height / width, plans)
            for plan in (plans[nearest], *plans.values()):
                if self._pixels(plan) == (height, width):
                    return plan
            hint = " x ".join(map(str, self._pixels(plans[nearest])))
            hint = f"; nearest in shape: {hint}"
        else:
            hint = ""
        known = sorted({self._pixels(plan) for plan in plans.values()})
        sizes = ", ".join(f"{h} x {w}" for h, w in known)
        raise ValueError(f"height x width must be one of {sizes}, given {height!r} x {width!r}"
                         f"{hint}")  # fmt: skip

    def _scale_flops(self, state: TextState, row: int) -> int:
        """The text encoder and the conditions are left out."""
        key = (state.sizes, state.step, state.lengths[state.prompt_of[row]])
        if key not in self._flops:
            self._flops[key] = scale_flops(self.transformer, *key)
        return (1 + state.paired) * self._flops[key]

    def _decoder_flops(self, state: TextState) -> int:
        if state.sizes not in self._flops:
            self._flops[state.sizes] = decoder_flops(self.vae, state.sizes)
        return self._flops[state.sizes]


def _padded(parts: Sequence[Condition], length: int) -> Condition:
    """Conditions of texts of different lengths as one, the shorter ones padded with zeros."""
    def stretch(x: Tensor, dim: int) -> Tensor:
        missing = list(x.shape)
        missing[dim] = length - x.shape[dim]
        return torch.cat([x, x.new_zeros(missing)], dim=dim)

    whole = [part._replace(keys=stretch(part.keys, 3), values=stretch(part.values, 3),
                           seen=stretch(part.seen, 1)) for part in parts]  # fmt: skip
    return Condition(*(torch.cat(tensors) for tensors in zip(*whole, strict=True)))

