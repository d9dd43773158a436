"""`MMDiTGenerator`: the sampling protocol over SD3's transformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from diffusers.models import AutoencoderKL, SD3Transformer2DModel
from torch import Tensor
from transformers import PreTrainedTokenizerFast, SiglipTextModel

from impasto.images import quantise
from impasto.models.mmdit.config import Defaults, MMDiTConfig
from impasto.models.mmdit.sampler import (
    FlowState,
    euler,
    guided_velocity,
    predict_x_0,
    select_rows,
    shifted_times,
)
from impasto.models.mmdit.text import Encoding, encode, null_ids, token_ids
from impasto.models.networks import NetworkGenerator
from impasto.models.storage import Layout
from impasto.sample.flops import count_flops
from impasto.sample.protocol import Cost, Request, Sampling, one_text
from impasto.sample.rowwise import in_rows, rowwise_products
from impasto.sample.seeds import check_seeds, row_noise
from impasto.sample.settings import check_guidance, size_of

__all__ = ["MMDiTGenerator"]


class MMDiTGenerator(NetworkGenerator):
    """Text to pictures by flow matching with `SD3Transformer2DModel`.

    On a CPU a row's bytes do not depend on its batch: the transformer's products are made row by
    row (`impasto.sample.rowwise`), and text and pictures go through encoder and decoder one at a
    time, which costs nothing there. Elsewhere all goes in one batch and rows agree to rounding.
    """

    LAYOUT = Layout("MMDiTGenerator", {"transformer": SD3Transformer2DModel, "vae": AutoencoderKL,
                                       "text_encoder": SiglipTextModel})  # fmt: skip
    DEFAULTS = Defaults
    sampler = "flow-matching Euler"

    def __init__(
        self, *, transformer: SD3Transformer2DModel, vae: AutoencoderKL,
        text_encoder: SiglipTextModel, tokenizer: PreTrainedTokenizerFast, defaults: Defaults,
    ) -> None:  # fmt: skip
        channels = transformer.config["in_channels"]
        if len(defaults.latent_mean) != channels or vae.config["latent_channels"] != channels:
            raise ValueError(f"the transformer works on {channels} latent channels, the "
                             f"autoencoder has {vae.config['latent_channels']}, and there are "
                             f"moments of {len(defaults.latent_mean)}")  # fmt: skip
        self.transformer, self.vae, self.text_encoder = transformer, vae, text_encoder
        self.tokenizer, self.defaults = tokenizer, defaults
        self._flops: dict[tuple[int, int], tuple[int, int]] = {}

    @classmethod
    def from_config(
        cls, config: MMDiTConfig, tokenizer: PreTrainedTokenizerFast, seed: int = 0
    ) -> MMDiTGenerator:
        """A generator with random weights from `seed`, on the CPU, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = {
                "transformer": config.build_transformer().eval(),
                "vae": config.build_vae().eval(),
                "text_encoder": config.build_text_encoder(len(tokenizer)).eval(),
            }
        return cls(**networks, tokenizer=tokenizer, defaults=config.defaults())

    # ---------------------------------------------------------------- pixels and latents

    @property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Latent mean and deviation, each (C, 1, 1)."""
        values = (self.defaults.latent_mean, self.defaults.latent_std)
        mean, std = (torch.tensor(v, device=self.device)[:, None, None] for v in values)
        return mean, std

    @property
    def downscale(self) -> int:
        """Pixels per latent, along a side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    def encode(self, images: Tensor) -> Tensor:
        """Normalised latents (B, C, H/8, W/8), float32, of pictures (B, 3, H, W) in [0, 1]."""
        mean, std = self._moments
        z = self.vae.encode((2 * images - 1).to(self.vae.dtype)).latent_dist.mode()
        return (z.float() - mean) / std

    def decode(self, x_0: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of normalised latents (B, C, h, w)."""
        mean, std = self._moments

        def rows(at: slice) -> Tensor:
            z = (x_0[at] * std + mean).to(self.vae.dtype)
            return self.vae.decode(z).sample.float()

        return (in_rows(rows, len(x_0), self.rows_at_once) / 2 + 0.5).clamp(0, 1)

    def encode_text(self, ids: Tensor) -> Encoding:
        """Encodings of token ids (P, L), each row by itself on a CPU."""
        size = self.rows_at_once or len(ids)
        parts = [encode(self.text_encoder, part.to(self.device)) for part in ids.split(size)]
        return Encoding(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    # ---------------------------------------------------------------- the sampling protocol

    @torch.inference_mode()
    def start(
        self, requests: Sequence[Request], seeds: Sequence[int], sampling: Sampling
    ) -> FlowState:
        """Encode each distinct prompt once and draw each row's noise from its own seed.

        Raises ValueError for settings or requests that this family cannot draw.
        """
        prompts = one_text(requests, seeds)
        steps, guidance, height, width = self._settings(sampling)
        distinct = list(dict.fromkeys(prompts))
        ids = torch.cat([null_ids(self.tokenizer), token_ids(self.tokenizer, distinct)])
        size = (height // self.downscale, width // self.downscale)
        x = row_noise(check_seeds(seeds), (self.vae.config["latent_channels"], *size), self.device)
        return FlowState(
            step=0,
            steps=steps,
            seeds=tuple(seeds),
            x=x,
            x_0=torch.zeros_like(x),
            text=self.encode_text(ids),
            prompt_of=tuple(1 + distinct.index(prompt) for prompt in prompts),
            times=shifted_times(steps, self.defaults.shift),
            guidance=guidance,
        )

    @torch.inference_mode()
    def advance(self, state: FlowState) -> FlowState:
        """One Euler step for all rows. Raises ValueError when the state is done."""
        if state.done:
            raise ValueError(f"all {state.steps} steps are done; call finish")
        t, t_next = state.times[state.step : state.step + 2]
        null = state.text.rows([0])

        text = state.text.rows(state.prompt_of)
        with rowwise_products(self.device):
            v = guided_velocity(self.transformer, state.x, t, text=text, null=null,
                                guidance=state.guidance)  # fmt: skip
        return replace(
            state,
            step=state.step + 1,
            x=euler(state.x, v, t, t_next),
            x_0=predict_x_0(state.x, v, t),
            costs=state.charged(self._step_costs(state)),
        )

    @torch.inference_mode()
    def preview(self, state: FlowState) -> Tensor:
        """Pictures of the current estimate of x_0; of the mean latent before the first step."""
        return self.decode(state.x_0)

    def select(self, state: FlowState, rows: Sequence[int]) -> FlowState:
        """The state whose row i is row `rows[i]`; rows may repeat."""
        return select_rows(state, rows)

    @torch.inference_mode()
    def finish(self, state: FlowState) -> Tensor:
        """The pictures (B, 3, H, W) on the 8-bit grid. Raises ValueError before the last step."""
        if not state.done:
            raise ValueError(f"only {state.step} of {state.steps} steps are done; call preview")
        return quantise(self.decode(state.x))

    # ---------------------------------------------------------------- settings, cost

    def _settings(self, sampling: Sampling) -> tuple[int, float, int, int]:
        """Steps, guidance, height and width with defaults filled in. Raises ValueError."""
        steps = self.defaults.steps if sampling.steps is None else sampling.steps
        guidance = self.defaults.guidance if sampling.guidance is None else sampling.guidance
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be an integer >= 1, given {steps!r}")
        check_guidance(guidance)
        height, width = size_of(sampling, self.default_size())
        self._check_size(height, width)
        return steps, float(guidance), height, width

    def _check_size(self, height: int, width: int) -> None:
        config = self.transformer.config
        unit = self.downscale * config["patch_size"]
        most = unit * config["pos_embed_max_size"]
        for name, value in (("height", height), ("width", width)):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or value % unit or not unit <= value <= most:
                raise ValueError(f"{name} must be a multiple of {unit} from {unit} to {most} "
                                 f"pixels, given {value!r}")  # fmt: skip

    def _row_flops(self, height: int, width: int) -> tuple[int, int]:
        """FLOPs of one transformer row and of one decoded row, for latents of this size."""
        if (height, width) not in self._flops:
            config, length = self.transformer.config, self.tokenizer.model_max_length
            empty = partial(torch.empty, device="meta", dtype=self.dtype)
            x = empty(1, config["in_channels"], height, width)
            states = empty(1, length, config["joint_attention_dim"])
            pooled = empty(1, config["pooled_projection_dim"])
            network = count_flops(self.transformer, x, states, pooled, empty(1))
            decoder = count_flops(self.vae.decoder, x.to(self.vae.dtype))
            self._flops[height, width] = network, decoder
        return self._flops[height, width]

    def _step_costs(self, state: FlowState) -> list[Cost]:
        """Of one step of each row. The last step is charged with the decoding after it.

        The text encoder is left out: its share depends on how many rows share a prompt.
        """
        network, _ = self._row_flops(*state.x.shape[-2:])
        branches = 1 if state.guidance in (0.0, 1.0) else 2
        after = self.preview_cost(state) if state.step + 1 == state.steps else Cost()
        return [Cost(flops=float(branches * network), row_steps=1) + after] * len(state.x)

    def preview_cost(self, state: FlowState) -> Cost:
        """A preview is decoded as the finished picture is."""
        return Cost(flops=float(self._row_flops(*state.x.shape[-2:])[1]), decodes=1)

    def default_size(self) -> tuple[int, int]:
        side = self.transformer.config["sample_size"] * self.downscale
        return side, side
