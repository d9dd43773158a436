"""`MMDiTGenerator`: the sampling protocol over SD3's transformer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from diffusers.models import AutoencoderKL, SD3Transformer2DModel
from torch import Tensor
from transformers import PreTrainedTokenizerFast, SiglipTextModel

from impasto.models.latents import LatentGenerator
from impasto.models.mmdit.config import Defaults, MMDiTConfig
from impasto.models.mmdit.sampler import (
    FlowState,
    euler,
    guided_velocity,
    predict_x_0,
    shifted_times,
)
from impasto.models.mmdit.text import Encoding, encode, null_ids, token_ids
from impasto.models.storage import Layout
from impasto.sample.flops import count_flops
from impasto.sample.protocol import Request, Sampling, one_text
from impasto.sample.seeds import check_seeds, row_noise

__all__ = ["MMDiTGenerator"]


class MMDiTGenerator(LatentGenerator):
    """Text to pictures by flow matching with `SD3Transformer2DModel`.

    On a CPU prompts go through the encoder one at a time, as pictures through the decoder.
    """

    LAYOUT = Layout("MMDiTGenerator", {"transformer": SD3Transformer2DModel, "vae": AutoencoderKL,
                                       "text_encoder": SiglipTextModel})  # fmt: skip
    DEFAULTS = Defaults
    sampler = "flow-matching Euler"

    def __init__(
        self, *, transformer: SD3Transformer2DModel, vae: AutoencoderKL,
        text_encoder: SiglipTextModel, tokenizer: PreTrainedTokenizerFast, defaults: Defaults,
    ) -> None:  # fmt: skip
        super().__init__(transformer, vae, defaults)
        self.text_encoder, self.tokenizer = text_encoder, tokenizer

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

    def _moved(self, state: FlowState) -> tuple[Tensor, Tensor]:
        """By one Euler step."""
        t, t_next = state.times[state.step : state.step + 2]
        v = guided_velocity(self.transformer, state.x, t, text=state.text.rows(state.prompt_of),
                            null=state.text.rows([0]), guidance=state.guidance)  # fmt: skip
        return euler(state.x, v, t, t_next), predict_x_0(state.x, v, t)

    # ---------------------------------------------------------------- settings, cost

    def _check_size(self, height: int, width: int) -> None:
        config = self.transformer.config
        unit = self.downscale * config["patch_size"]
        most = unit * config["pos_embed_max_size"]
        for name, value in (("height", height), ("width", width)):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or value % unit or not unit <= value <= most:
                raise ValueError(f"{name} must be a multiple of {unit} from {unit} to {most} "
                                 f"pixels, given {value!r}")  # fmt: skip

    def _network_flops(self, height: int, width: int) -> int:
        config, length = self.transformer.config, self.tokenizer.model_max_length
        empty = partial(torch.empty, device="meta", dtype=self.dtype)
        return count_flops(self.transformer, empty(1, config["in_channels"], height, width),
                           empty(1, length, config["joint_attention_dim"]),
                           empty(1, config["pooled_projection_dim"]), empty(1))  # fmt: skip
