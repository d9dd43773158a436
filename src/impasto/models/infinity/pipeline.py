"""`InfinityGenerator`: the sampling protocol over Infinity, one step a scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from impasto.images import quantise
from impasto.models.infinity.config import InfinityConfig
from impasto.models.infinity.costs import decoder_flops, scale_flops
from impasto.models.infinity.initialise import initialise
from impasto.models.infinity.model import Condition, InfinityTransformer
from impasto.models.infinity.sampler import (
    Defaults,
    ScaleState,
    draw_bits,
    per_scale,
    select_rows,
)
from impasto.models.infinity.scale import ScaleNetwork
from impasto.models.infinity.schedules import Schedule, nearest_ratio
from impasto.models.infinity.tokenizer import InfinityTokenizer
from impasto.models.mmdit.text import token_ids
from impasto.models.networks import NetworkGenerator
from impasto.models.storage import Layout
from impasto.sample.protocol import Cost, Request, Sampling, one_text
from impasto.sample.rowwise import in_rows
from impasto.sample.seeds import check_seeds

__all__ = ["InfinityGenerator"]

MEGAPIXEL = 2**20


class InfinityGenerator(NetworkGenerator):
    """Text to pictures scale by scale, by bits.

    A prompt goes through the text encoder by itself and without padding, once; its condition, with
    the text's keys and values in every block, is held by the state. On a CPU each row's networks
    run by themselves, so a row's bytes do not depend on its batch; elsewhere all rows go in one
    batch and agree to rounding.
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
        self._scale = ScaleNetwork(transformer, vae, defaults.guidance_layer)

    def compile(self, **options: Any) -> Self:
        """Trade a slow start (a minute, say) for speed; bits stay the same to rounding.

        The transformer's blocks and the decoder go through torch.compile, whose `options` these
        are; on a GPU of compute capability 9 cuDNN's attention comes first. Returns itself.
        """
        self._scale.compile(**options)
        return self

    def use_graphs(self, on: bool = True) -> Self:
        """Run small scales as CUDA graphs, recorded when the same number of rows and length of
        text come a second time. Returns itself.

        Graphs are of the weights where they lie now: call again after a network was moved or cast.
        Raises ValueError off a GPU.
        """
        if on and self.device.type != "cuda":
            raise ValueError(f"CUDA graphs need the model on a GPU; it is on {self.device}")
        self._scale.use_graphs(on)
        return self

    def to(self, device: torch.device | str) -> Self:
        """Move the networks. Graphs stay behind: `use_graphs` after moving."""
        return super().to(device).use_graphs(False)

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
    ) -> ScaleState:
        """Encode each distinct prompt once. Raises ValueError for settings or requests that this
        family cannot draw."""
        prompts = one_text(requests, seeds)
        plan, guidance = self._settings(sampling)
        distinct = list(dict.fromkeys(prompts))
        own = check_seeds(seeds)
        text, lengths = self._conditions(distinct)
        channels = self.vae.token_bits // self.vae.patch**2
        return ScaleState(
            step=0,
            steps=len(plan.sizes),
            seeds=own,
            f_hat=torch.zeros(len(own), channels, *self.vae.map_size(plan.sizes[-1]),
                              device=self.device),
            cache=None,
            text=text,
            lengths=lengths,
            prompt_of=tuple(distinct.index(prompt) for prompt in prompts),
            schedule=plan,
            guidance=guidance,
            temperature=per_scale("temperature", self.defaults.temperature, len(plan.sizes)),
        )  # fmt: skip

    @torch.inference_mode()
    def advance(self, state: ScaleState) -> ScaleState:
        """Draw the next scale's bits of all rows. Raises ValueError when the state is done."""
        if state.done:
            raise ValueError(f"all {state.steps} scales are drawn; call finish")
        k, n = state.step, len(state.seeds)
        size, last = self.rows_at_once or n, k + 1 == state.steps
        past = state.cache or self.transformer.no_past(n * (1 + state.paired))
        into = None if last else self._scale.extended(state, past)
        logits = [self._scale.logits(state, range(i, min(i + size, n)), past, into)
                  for i in range(0, n, size)]  # fmt: skip
        bits = draw_bits(torch.cat(logits), state.seeds, k,
                         top_k=self.defaults.top_k, top_p=self.defaults.top_p)  # fmt: skip
        after = replace(
            state,
            step=k + 1,
            f_hat=self.vae.add_codes(state.f_hat, bits, state.schedule.sizes[k]),
            cache=into,
            costs=state.charged(self._step_costs(state)),
        )
        if into is not None and state.paired and not after.paired:
            with_text = torch.arange(0, 2 * n, 2, device=self.device)
            return replace(after, cache=into.selected(with_text))
        return after

    @torch.inference_mode()
    def preview(self, state: ScaleState) -> Tensor:
        """Pictures of the scales so far, at full size; of no codes before the first."""
        return self.decode(state.f_hat)

    def select(self, state: ScaleState, rows: Sequence[int]) -> ScaleState:
        """The state whose row i is row `rows[i]`; rows may repeat, and differ from then on where
        the result is given other seeds."""
        return select_rows(state, rows)

    @torch.inference_mode()
    def finish(self, state: ScaleState) -> Tensor:
        """The pictures (B, 3, H, W) on the 8-bit grid. Raises ValueError before the last scale."""
        if not state.done:
            raise ValueError(f"only {state.step} of {state.steps} scales are drawn; call preview")
        return quantise(self.decode(state.f_hat))

    def decode(self, f_hat: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of summed codes (B, d, h, w), as many at once as make a
        megapixel: more would not be faster, only larger."""
        h, w = f_hat.shape[-2] * self.vae.stride, f_hat.shape[-1] * self.vae.stride
        at_once = self.rows_at_once or max(1, MEGAPIXEL * self.vae.patch**2 // (h * w))
        return in_rows(lambda at: self.vae.decode(f_hat[at]), len(f_hat), at_once)

    # ---------------------------------------------------------------- settings, cost

    def default_size(self) -> tuple[int, int]:
        return self._pixels(next(iter(self.defaults.plans().values())))

    def _pixels(self, plan: Schedule) -> tuple[int, int]:
        h, w = plan.sizes[-1]
        return h * self.vae.stride, w * self.vae.stride

    def _settings(self, sampling: Sampling) -> tuple[Schedule, tuple[float, ...]]:
        """The schedule and the guidance at each scale, defaults filled in. Raises ValueError."""
        scales = self.defaults.scales
        if sampling.steps not in (None, scales) or isinstance(sampling.steps, bool):
            raise ValueError(f"this model draws in {scales} scales, so steps must be {scales} or "
                             f"left out, given {sampling.steps!r}")  # fmt: skip
        guidance = sampling.guidance
        if guidance is not None and not (math.isfinite(guidance) and guidance >= 0):
            raise ValueError(f"guidance must be a finite number >= 0, given {guidance!r}; 1 "
                             f"leaves the unconditional branch out")  # fmt: skip
        own = self.defaults.guidance if guidance is None else guidance
        default = self.default_size()
        asked = (default[0] if sampling.height is None else sampling.height,
                 default[1] if sampling.width is None else sampling.width)  # fmt: skip
        return self._plan(*asked), per_scale("guidance", own, scales)

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

    def _step_costs(self, state: ScaleState) -> list[Cost]:
        """Of one scale of each row. The last is charged with the decoding after it.

        The text encoder and the conditions are left out: their share depends on how many rows
        share a prompt.
        """
        tokens = math.prod(state.schedule.sizes[state.step])
        after = self.preview_cost(state) if state.step + 1 == state.steps else Cost()
        flops = [(1 + state.paired) * self._row_flops(state.schedule, state.step, length)
                 for length in state.lengths]  # fmt: skip
        return [Cost(flops=float(flops[p]), row_steps=1, tokens=tokens) + after
                for p in state.prompt_of]  # fmt: skip

    def preview_cost(self, state: ScaleState) -> Cost:
        """A preview is decoded at full size, as the finished picture is."""
        return Cost(flops=float(self._decoder_flops(state.schedule)), decodes=1)

    def _row_flops(self, plan: Schedule, k: int, length: int) -> int:
        key = (plan, k, length)
        if key not in self._flops:
            self._flops[key] = scale_flops(self.transformer, plan, k, length)
        return self._flops[key]

    def _decoder_flops(self, plan: Schedule) -> int:
        if plan not in self._flops:
            self._flops[plan] = decoder_flops(self.vae, plan)
        return self._flops[plan]


def _padded(parts: Sequence[Condition], length: int) -> Condition:
    """Conditions of texts of different lengths as one, the shorter ones padded with zeros."""
    def stretch(x: Tensor, dim: int) -> Tensor:
        missing = list(x.shape)
        missing[dim] = length - x.shape[dim]
        return torch.cat([x, x.new_zeros(missing)], dim=dim)

    whole = [part._replace(keys=stretch(part.keys, 3), values=stretch(part.values, 3),
                           seen=stretch(part.seen, 1)) for part in parts]  # fmt: skip
    return Condition(*(torch.cat(tensors) for tensors in zip(*whole, strict=True)))

