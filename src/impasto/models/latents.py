"""What families share that denoise the latents of a KL autoencoder, a step at a time.

A family says how its condition and times come about (`start`) and what one step does to x
(`_moved`). On a CPU a row's bytes do not depend on its batch: the transformer's products are made
row by row (`impasto.sample.rowwise`), and pictures go through the decoder one at a time, which
costs nothing there. Elsewhere all goes in one batch and rows agree to rounding.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self, TypeVar

import torch
from diffusers.models import AutoencoderKL
from torch import Tensor, nn

from impasto.images import quantise
from impasto.models.networks import NetworkGenerator
from impasto.models.storage import checked_fields
from impasto.sample.flops import count_flops
from impasto.sample.protocol import Cost, Sampling, State
from impasto.sample.rowwise import in_rows, rowwise_products
from impasto.sample.settings import check_guidance, size_of

__all__ = ["LatentDefaults", "LatentGenerator", "LatentState", "adaln_zero_", "latent_moments"]


@dataclass(frozen=True, kw_only=True)
class LatentDefaults:
    """What a model folder says about drawing with it, beside the networks' own sizes.

    steps, guidance: of a draw that names none. latent_mean, latent_std: per latent channel, of the
    autoencoder's latents; the transformer works on (z - mean) / std.
    """

    model: ClassVar[str]
    """What messages call a model of the family: "an mmdit model"."""
    steps: int
    guidance: float
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ValueError naming unknown or missing keys."""
        values = checked_fields(cls, values, cls.model)
        mean, std = (tuple(map(float, values[f"latent_{name}"])) for name in ("mean", "std"))
        return cls(**{**values, "latent_mean": mean, "latent_std": std})

    def check(self) -> None:
        """Raises ValueError for a value that is out of range."""
        std = self.latent_std
        if min(std, default=0.0) <= 0 or len(self.latent_mean) != len(std):
            raise ValueError(f"latent_std must be positive and as long as latent_mean, "
                             f"given {std}")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LatentState(State):
    """Unfinished drawings. B rows, P distinct prompts.

    x: (B, C, h, w) latents at time `times[step]`, float32. x_0: their current estimate, same
    shape; zero, the mean of all latents, before the first step. prompt_of: for each row its place
    among the conditions. times: what the steps go through, noise first.
    """

    x: Tensor
    x_0: Tensor
    prompt_of: tuple[int, ...]
    times: tuple[float, ...]
    guidance: float


S = TypeVar("S", bound=LatentState)


class LatentGenerator(NetworkGenerator):
    """`vae` is a KL autoencoder, `defaults` a `LatentDefaults`."""

    vae: AutoencoderKL
    defaults: Any

    def __init__(self, transformer: Any, vae: AutoencoderKL, defaults: LatentDefaults) -> None:
        defaults.check()
        channels = transformer.config["in_channels"]
        if len(defaults.latent_mean) != channels or vae.config["latent_channels"] != channels:
            raise ValueError(f"the transformer works on {channels} latent channels, the "
                             f"autoencoder has {vae.config['latent_channels']}, and there are "
                             f"moments of {len(defaults.latent_mean)}")  # fmt: skip
        self.transformer, self.vae, self.defaults = transformer, vae, defaults
        self._flops: dict[tuple[int, int], tuple[int, int]] = {}

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

    # ---------------------------------------------------------------- the sampling protocol

    @abstractmethod
    def _moved(self, state: Any) -> tuple[Tensor, Tensor]:
        """x after one more step, and the estimate of x_0 that it was made with."""

    @torch.inference_mode()
    def advance(self, state: S) -> S:
        """One step for all rows. Raises ValueError when the state is done."""
        if state.done:
            raise ValueError(f"all {state.steps} steps are done; call finish")
        with rowwise_products(self.device):
            x, x_0 = self._moved(state)
        return replace(state, step=state.step + 1, x=x, x_0=x_0,
                       costs=state.charged(self._step_costs(state)))  # fmt: skip

    @torch.inference_mode()
    def preview(self, state: LatentState) -> Tensor:
        """Pictures of the current estimate of x_0; of the mean latent before the first step."""
        return self.decode(state.x_0)

    def select(self, state: S, rows: Sequence[int]) -> S:
        """The state whose row i is row `rows[i]`; rows may repeat. Where steps draw noise, copies
        part once the result is given other seeds; where they draw none, they stay the same."""
        at = torch.tensor(rows, dtype=torch.long, device=state.x.device)
        own: dict[str, Any] = {name: tuple(getattr(state, name)[i] for i in rows)
                               for name in ("prompt_of", "seeds", "costs")}  # fmt: skip
        return replace(state, x=state.x[at], x_0=state.x_0[at], **own)

    @torch.inference_mode()
    def finish(self, state: LatentState) -> Tensor:
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

    @abstractmethod
    def _check_size(self, height: int, width: int) -> None:
        """Raises ValueError for pixels that the transformer cannot draw."""

    @abstractmethod
    def _network_flops(self, height: int, width: int) -> int:
        """FLOPs of one transformer row, for latents of this size."""

    def _row_flops(self, height: int, width: int) -> tuple[int, int]:
        """FLOPs of one transformer row and of one decoded row, for latents of this size."""
        if (height, width) not in self._flops:
            z = torch.empty(1, len(self.defaults.latent_mean), height, width, device="meta",
                            dtype=self.vae.dtype)  # fmt: skip
            decoder = count_flops(self.vae.decoder, z)
            self._flops[height, width] = self._network_flops(height, width), decoder
        return self._flops[height, width]

    def forward_flops(self) -> int:
        """FLOPs of one pass of the transformer over one picture of the size that it draws."""
        height, width = self.default_size()
        return self._network_flops(height // self.downscale, width // self.downscale)

    def _step_costs(self, state: LatentState) -> list[Cost]:
        """Of one step of each row. The last step is charged with the decoding after it.

        What is computed once a prompt is left out: its share depends on how many rows share it.
        """
        network, _ = self._row_flops(*state.x.shape[-2:])
        branches = 1 if state.guidance in (0.0, 1.0) else 2
        after = self.preview_cost(state) if state.step + 1 == state.steps else Cost()
        return [Cost(flops=float(branches * network), row_steps=1) + after] * len(state.x)

    def preview_cost(self, state: LatentState) -> Cost:
        """A preview is decoded as the finished picture is."""
        return Cost(flops=float(self._row_flops(*state.x.shape[-2:])[1]), decodes=1)

    def default_size(self) -> tuple[int, int]:
        side = self.transformer.config["sample_size"] * self.downscale
        return side, side


@torch.no_grad()
def adaln_zero_(transformer: nn.Module, zero: tuple[str, ...]) -> None:
    """Peebles & Xie 2023 (arXiv 2212.09748): Xavier linears; modulations and the output, those
    layers whose names end in one of `zero`, zero; embedders of time and class normal."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif name.endswith("class_embedder.embedding_table"):
            nn.init.normal_(module.weight, std=0.02)  # type: ignore[arg-type]
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(zero):
            nn.init.zeros_(module.weight)
        elif "timestep_embedder.linear_" in name:
            nn.init.normal_(module.weight, std=0.02)  # type: ignore[arg-type]


def latent_moments(latents: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of raw latents (B, C, h, w)."""
    channels = latents.double().transpose(0, 1).flatten(1)
    return tuple(channels.mean(1).tolist()), tuple(channels.std(1).tolist())
