"""Layton's losses, as plain functions.

Tokenizer. The small world has no SDXL, so there are four steps, each on what the one before left:

    0  base          |eps - UNet(z_t, t)|^2, zero text, sizes told          `ldm_loss`
    1  alignment     |eps - LADD(z_t, C, t)|^2, accelerator off             `alignment_loss`
    -  accelerator   consistency distillation of the base                   `Distillation`
    2  pixels        d(VAE decoder(x_0), x), accelerator on; x_0 after 1 or 2 consistency steps
                     from pure noise, no gradient through any but the last  `pixel_loss`

In 1 and 2 only the copy and its stem learn (`learning`). Min-SNR weights, optional in 0 and 1:
min(SNR, gamma) / SNR (Hang et al. 2023, arXiv 2303.09556). An error of eps is one of x_0 times
sqrt(SNR), so a gamma below every SNR weighs errors of x_0 alike: few steps begin where the SNR is
0.04 and 0.005, and there an unweighted loss asks for little. Distillation, with the frozen base as
teacher and a moving average of the accelerator as target (Luo et al. 2023, LCM, arXiv 2310.04378;
LCM-LoRA, arXiv 2311.05556), k steps of the teacher's schedule at once, no guidance:

    f(z, t)   = c_skip(t) z + c_out(t) x_0(z, t)
    c_skip    = s^2 / ((10 t)^2 + s^2),   c_out = 10 t / sqrt((10 t)^2 + s^2),   s = 1/2
    z^        = DDIM step of the teacher from (z_t, t) to t - k
    loss      = d(f_student(z_t, t), f_target(z^, t - k)),   d = sqrt(x^2 + c^2) - c, or x^2

Transformer, of the frozen tokenizer's ids, all at once under the causal mask:

    loss = mean over the picture's ids of CE(logits of the place before, id)

A caption is replaced by the learned text with probability 0.1, which guidance needs, behind the
caption's own empty slots. Tokens and what attentions and feed-forward networks add are dropped
with 0.1 (`config.TransformerConfig`).

Source: Xie et al. 2025 (arXiv 2503.08377); no training code is published, and neither loss weights
nor whether 1's loss stays in 2; LlamaGen's text-conditional trainer for what the paper does not
say of the transformer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models import UNet2DConditionModel
from torch import Tensor, nn
from torch.func import functional_call

from impasto.models.layton.decoder import LADD, noise_of, size_ids, unet_inputs
from impasto.models.layton.model import LaytonTransformer
from impasto.models.layton.sampler import (
    TIMES,
    Decoding,
    Noise,
    alpha_sigma,
    consistency,
    predict_x_0,
    renoised,
    timesteps,
)
from impasto.models.layton.text import left_padded
from impasto.models.layton.tokenizer import LaytonTokenizer

__all__ = ["DROP_CAPTION", "Distillation", "Perceptual", "TeacherForcing", "alignment_loss",
           "boundary", "drop_captions", "few_steps", "ldm_loss", "learning",
           "min_snr_weights", "next_id_loss", "pixel_loss", "sample_times", "square"]  # fmt: skip

# ---------------------------------------------------------------- the tokenizer

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""(truth, made) pictures (B, 3, H, W) in [0, 1] -> (B,), with the second's gradient."""
ROBUST = 1e-3


def learning(tokenizer: LaytonTokenizer, what: str) -> list[nn.Parameter]:
    """Freeze all but "copy" (ControlNet and stem), or "accelerator"; returns what learns."""
    parts = {"copy": list(tokenizer.decoder.controlnet.parameters()),
             "accelerator": tokenizer.decoder.adapters}  # fmt: skip
    if what not in parts:
        raise ValueError(f"what learns is one of {', '.join(parts)}, given {what!r}")
    tokenizer.requires_grad_(False)
    for parameter in parts[what]:
        parameter.requires_grad_(True)
    return parts[what]


def square(image: int, device: torch.device | str = "cpu") -> Tensor:
    """What SDXL is told of a whole square picture, (1, 6)."""
    return size_ids((image, image), (0, 0), (image, image), device)


def sample_times(
    n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None
) -> Tensor:
    """Uniform times (n,), int64, from 0 to 999."""
    return torch.randint(TIMES, (n,), device=device, generator=generator)


def min_snr_weights(t: Tensor, gamma: float) -> Tensor:
    """min(SNR, gamma) / SNR of times (B,), for a loss on eps."""
    alpha, sigma = alpha_sigma(t, t)
    snr = (alpha / sigma).square()
    return snr.clamp(max=gamma) / snr


def ldm_loss(
    unet: UNet2DConditionModel, z_0: Tensor, t: Tensor, eps: Tensor, *, image: int,
    min_snr: float | None = None,
) -> Tensor:  # fmt: skip
    """Mean squared error of a UNet's eps without text, a scalar. z_0, eps: (B, C, h, w) latents of
    pictures of `image` pixels a side; t: (B,). min_snr: gamma, None for no weights."""
    found = noise_of(unet, renoised(z_0, eps, t), t, square(image, z_0.device))
    return _weighted(found.float() - eps, t, min_snr)


def alignment_loss(
    tokenizer: LaytonTokenizer, z_0: Tensor, C: Tensor, t: Tensor, eps: Tensor, *,
    image: int | None = None, scale: float = 1.0, min_snr: float | None = None,
) -> Tensor:  # fmt: skip
    """Stage 1: mean squared error of the decoder's eps, a scalar. z_0, eps: (B, C, h, w); C: codes
    (B, c, h', w'); t: (B,). image: pixels a side of the pictures whose latents they are. min_snr:
    as of `ldm_loss`."""
    condition = tokenizer.condition(C, image=image)
    with tokenizer.decoder.accelerated(False):
        found = tokenizer.decoder(renoised(z_0, eps, t), t, condition, scale)
    return _weighted(found - eps, t, min_snr)


def _weighted(error: Tensor, t: Tensor, min_snr: float | None) -> Tensor:
    """Mean over rows of the mean squares of `error` (B, C, h, w), weighted by time (B,)."""
    each = error.square().flatten(1).mean(1)
    return (each if min_snr is None else min_snr_weights(t, min_snr) * each).mean()


# ---------------------------------------------------------------- pixels


def few_steps(
    tokenizer: LaytonTokenizer, C: Tensor, noise: Noise, decoding: Decoding,
    image: int | None = None,
) -> Tensor:  # fmt: skip
    """x_0 (B, C, h, w) as it is drawn, with the gradient of its last step alone."""
    times = timesteps(decoding.steps, decoding.first)
    condition = tokenizer.condition(C, decoding, image)

    def network(z: Tensor, t: int) -> Tensor:
        with torch.set_grad_enabled(t == times[-2] and torch.is_grad_enabled()):
            return tokenizer.decoder(z, t, condition, decoding.scale)

    with tokenizer.decoder.accelerated(decoding.with_accelerator):
        return consistency(network, times, noise)


def pixel_loss(
    tokenizer: LaytonTokenizer, images: Tensor, C: Tensor, noise: Noise, perceptual: Perceptual,
    *, decoding: Decoding | None = None, l1: float = 0.0, l2: float = 0.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Stage 2: (loss, pictures (B, 3, H, W) about [0, 1] without gradient).

    images: (B, 3, H, W) in [0, 1]; C: their codes. decoding: None for one step; consistency
    sampling of 1 or 2 steps. l1, l2: weights of the mean absolute and squared error of pixels.
    Raises ValueError for another decoding.
    """
    decoding = decoding or Decoding(steps=1)
    if decoding.sampler != "consistency" or decoding.steps > 2:
        raise ValueError(f"pixels are learnt through 1 or 2 consistency steps, given "
                         f"{decoding.steps} of {decoding.sampler}")  # fmt: skip
    x_0 = few_steps(tokenizer, C, noise, decoding, images.shape[-1])
    y = tokenizer.pixels(x_0) / 2 + 0.5
    loss = perceptual(images, y).mean()
    if l1:
        loss = loss + l1 * (y - images).abs().mean()
    if l2:
        loss = loss + l2 * (y - images).square().mean()
    return loss, y.detach()


# ---------------------------------------------------------------- the accelerator


def boundary(t: Tensor, s: float = 0.5, stretch: float = 10.0) -> tuple[Tensor, Tensor]:
    """(c_skip, c_out), each (B, 1, 1, 1), of times (B,): (1, 0) at 0."""
    x = stretch * t.float()[:, None, None, None]
    length = (x.square() + s**2).sqrt()
    return (s / length).square(), x / length


class Distillation:
    """Distils a decoder's base into its accelerator.

    skip: k, times from one point of the teacher's schedule to the next. decay: of the target.
    robust: c of the pseudo-Huber distance, None for the squared one.
    """

    def __init__(
        self, decoder: LADD, *, skip: int = 20, decay: float = 0.95, robust: float | None = ROBUST
    ) -> None:
        if not 1 <= skip <= TIMES or TIMES % skip:
            raise ValueError(f"skip must divide {TIMES}, given {skip!r}")
        self.decoder, self.skip, self.decay, self.robust = decoder, skip, decay, robust
        self.names = [name for name, _ in decoder.unet.named_parameters() if ".lora_" in name]
        self.target = [p.detach().clone() for p in decoder.adapters]

    def times(
        self, n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None
    ) -> Tensor:
        """Points of the teacher's schedule, (n,): k - 1, 2 k - 1, ..., 999."""
        places = torch.randint(TIMES // self.skip, (n,), device=device, generator=generator)
        return (places + 1) * self.skip - 1

    def loss(self, z_0: Tensor, t: Tensor, eps: Tensor, *, image: int) -> Tensor:
        """A scalar with the accelerator's gradient. z_0, eps: (B, C, h, w); t: (B,), of `times`;
        image: pixels a side of the pictures whose latents they are."""
        unet, ids = self.decoder.unet, square(image, z_0.device)
        z, following = renoised(z_0, eps, t), (t - self.skip).clamp(min=0)
        with torch.no_grad():
            wanted = self._target(self._teacher_step(z, t, following, ids), following, ids)
        with self.decoder.accelerated(True):
            found = consistent(z, noise_of(unet, z, t, ids).float(), t)
        d = (found - wanted).square()
        return (d if self.robust is None else (d + self.robust**2).sqrt() - self.robust).mean()

    def _teacher_step(self, z: Tensor, t: Tensor, following: Tensor, ids: Tensor) -> Tensor:
        """z^: one DDIM step of the base without its accelerator."""
        with self.decoder.accelerated(False):
            eps = noise_of(self.decoder.unet, z, t, ids).float()
        return renoised(predict_x_0(z, eps, t), eps, following)

    def _target(self, z: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        weights = dict(zip(self.names, self.target, strict=True))
        inputs = unet_inputs(self.decoder.unet, z, ids)
        with self.decoder.accelerated(True):
            out = functional_call(self.decoder.unet, weights, (z, t), inputs)
        return consistent(z, out[0].float(), t)

    @torch.no_grad()
    def update(self) -> None:
        """Move the target towards the accelerator: after every step."""
        torch._foreach_lerp_(self.target, list(self.decoder.adapters), 1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        return {"target": self.target}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for own, value in zip(self.target, state["target"], strict=True):
            own.copy_(value)


def consistent(z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """f(z, t), of the network's eps."""
    c_skip, c_out = boundary(t)
    return c_skip * z + c_out * predict_x_0(z, eps, t)


# ---------------------------------------------------------------- the transformer

DROP_CAPTION = 0.1


def drop_captions(
    transformer: LaytonTransformer, states: Tensor, probability: float = DROP_CAPTION,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """States (B, text, D) with each row replaced by the learned text with the probability, to
    which gradients reach."""
    u = torch.rand(len(states), 1, 1, device=states.device, generator=generator)
    return torch.where(u < probability, transformer.null_text(transformer.text), states)


class TeacherForcing(nn.Module):
    """`transformer` over whole pictures at once, so that a compiled step holds nothing else."""

    def __init__(self, transformer: LaytonTransformer) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, states: Tensor, there: Tensor, ids: Tensor) -> Tensor:
        return self.transformer.teacher_forced(states, there, ids)


def next_id_loss(
    forced: TeacherForcing, ids: Tensor, states: Tensor, there: Tensor, *,
    drop: float = DROP_CAPTION, generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(loss, share of right ids) of one training step.

    forced: compiled or not. ids: (B, N). states: (B, text, D) of the text encoder, padded behind
    the captions; there: bool (B, text), where they are.
    """
    states, there = left_padded(states, there)
    logits = forced(drop_captions(forced.transformer, states, drop, generator), there, ids)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten())
    with torch.no_grad():
        return loss, (logits.argmax(-1) == ids).float().mean()
