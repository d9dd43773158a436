"""`DiTGenerator`: the sampling protocol over DiT, by class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models import AutoencoderKL, DiTTransformer2DModel
from diffusers.models.embeddings import LabelEmbedding
from torch import Tensor

from impasto.models.classes import read_class
from impasto.models.dit.config import Defaults, DiTConfig
from impasto.models.dit.sampler import (
    DiffusionState,
    ddim,
    ddpm,
    guided_output,
    step_noise,
    times_of,
)
from impasto.models.latents import LatentGenerator
from impasto.models.storage import Layout
from impasto.sample.flops import count_flops
from impasto.sample.protocol import Request, Sampling, one_text
from impasto.sample.seeds import check_seeds, row_noise
from impasto.sample.settings import check_size

__all__ = ["DiTGenerator"]


class DiTGenerator(LatentGenerator):
    """Classes to pictures with `DiTTransformer2DModel`.

    A request's text is the name or the index of a class (`models.classes.read_class`). Of ddpm
    each step's noise is drawn from the row's seed, so copies of a row part when they are given
    other seeds.
    """

    LAYOUT = Layout("DiTGenerator", {"transformer": DiTTransformer2DModel, "vae": AutoencoderKL},
                    tokenizer=False)  # fmt: skip
    DEFAULTS = Defaults

    def __init__(
        self, *, transformer: DiTTransformer2DModel, vae: AutoencoderKL, defaults: Defaults
    ) -> None:
        super().__init__(transformer, vae, defaults)
        config = transformer.config
        if config["out_channels"] != 2 * config["in_channels"]:
            raise ValueError(f"a dit model predicts noise and variance, {config['in_channels']} "
                             f"channels each; this transformer gives {config['out_channels']}"
                             )  # fmt: skip
        if defaults.classes and len(defaults.classes) != self.null:
            raise ValueError(f"{len(defaults.classes)} names were given for {self.null} classes")
        self.sampler = {"ddpm": "DDPM, learned variance", "ddim": "DDIM"}[defaults.sampler]
        for module in transformer.modules():
            if isinstance(module, LabelEmbedding):
                # In training mode every block would drop labels by itself: `train` drops them
                # once for all.
                module.dropout_prob = 0.0

    @classmethod
    def from_config(cls, config: DiTConfig, seed: int = 0) -> DiTGenerator:
        """A generator with random weights from `seed`, on the CPU, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(transformer=config.build_transformer().eval(), vae=config.vae().eval(),
                       defaults=config.defaults)  # fmt: skip

    @property
    def null(self) -> int:
        """The null class's index, which is how many classes there are beside it."""
        return self.transformer.config["num_embeds_ada_norm"]

    # ---------------------------------------------------------------- the sampling protocol

    @torch.inference_mode()
    def start(
        self, requests: Sequence[Request], seeds: Sequence[int], sampling: Sampling
    ) -> DiffusionState:
        """Read each text as a class and draw each row's noise from its own seed.

        Raises ValueError for settings that this family cannot draw, and for texts that name no
        class or several.
        """
        texts = one_text(requests, seeds)
        steps, guidance, height, width = self._settings(sampling)
        times = times_of(self.defaults.sampler, steps)
        labels = [read_class(text, self.defaults.classes, self.null) for text in texts]
        distinct = tuple(dict.fromkeys(labels))
        size = (height // self.downscale, width // self.downscale)
        x = row_noise(check_seeds(seeds), (len(self.defaults.latent_mean), *size), self.device)
        return DiffusionState(
            step=0,
            steps=steps,
            seeds=tuple(seeds),
            x=x,
            x_0=torch.zeros_like(x),
            classes=distinct,
            prompt_of=tuple(distinct.index(label) for label in labels),
            times=times,
            guidance=guidance,
        )

    def _moved(self, state: DiffusionState) -> tuple[Tensor, Tensor]:
        t, s = map(int, state.times[state.step : state.step + 2])
        out = guided_output(self.transformer, state.x, t,
                            [state.classes[i] for i in state.prompt_of], self.null,
                            guidance=state.guidance, guided=self.defaults.guided)  # fmt: skip
        if self.defaults.sampler == "ddim":
            return ddim(state.x, out, t, s)
        return ddpm(state.x, out, t, s, step_noise(state))

    # ---------------------------------------------------------------- settings, cost

    def _check_size(self, height: int, width: int) -> None:
        check_size(Sampling(height=height, width=width), self.default_size())

    def _network_flops(self, height: int, width: int) -> int:
        x = torch.empty(1, len(self.defaults.latent_mean), height, width, device="meta",
                        dtype=self.dtype)  # fmt: skip
        one = torch.zeros(1, dtype=torch.long)
        return count_flops(self.transformer, x, timestep=one, class_labels=one)
