"""Calling a generator as one calls a diffusers pipeline: prompts in, `.images` out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from impasto.images import to_pil
from impasto.sample.protocol import Cost, Generator, Request, Sampling, generate

__all__ = ["Pictures", "Pipeline"]


@dataclass(frozen=True)
class Pictures:
    """What a call gives. images: PIL images, or for "pt" one tensor (B, 3, H, W).

    seeds: of each picture; with them it can be drawn again.
    """

    images: Any
    seeds: tuple[int, ...]
    cost: Cost


class Pipeline(Generator):
    """A generator of pictures from text that can be called."""

    def __call__(
        self, prompts: str | Sequence[str], *, seeds: Sequence[int] | None = None,
        generator: torch.Generator | None = None, num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None, guidance_scale: float | None = None,
        height: int | None = None, width: int | None = None, output_type: str = "pil",
        batch_size: int | None = None,
    ) -> Pictures:  # fmt: skip
        """Draw `num_images_per_prompt` pictures of each prompt, those of one prompt together.

        seeds: one per picture; without them they come from `generator`, or from torch's global
        one. batch_size: pictures drawn together, None for all. output_type: "pil" or "pt".
        Raises ValueError for settings that cannot be met, before anything is drawn.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        _check_call(texts, num_images_per_prompt, output_type, batch_size)
        texts = [text for text in texts for _ in range(num_images_per_prompt)]
        seeds = _seeds(len(texts), seeds, generator)
        sampling = Sampling(steps=num_inference_steps, guidance=guidance_scale, height=height,
                            width=width)  # fmt: skip
        images, cost, size = [], Cost(), batch_size or len(texts)
        for i in range(0, len(texts), size):
            requests = [Request.of(text) for text in texts[i : i + size]]
            drawn, spent = generate(self, requests, seeds[i : i + size], sampling)
            images.append(drawn)
            cost += spent
        pictures = torch.cat(images)
        return Pictures(pictures if output_type == "pt" else [to_pil(p) for p in pictures],
                        tuple(seeds), cost)  # fmt: skip


def _check_call(
    texts: Sequence[str], per_prompt: int, output_type: str, batch_size: int | None
) -> None:
    """Raises ValueError for arguments of a call that the protocol does not see."""
    if not texts or any(not text.strip() for text in texts):
        raise ValueError(f"there must be at least one prompt and none may be empty, "
                         f"given {list(texts)!r}")  # fmt: skip
    if per_prompt < 1:
        raise ValueError(f"num_images_per_prompt must be >= 1, given {per_prompt!r}")
    if output_type not in ("pil", "pt"):
        raise ValueError(f"unknown output_type {output_type!r}; allowed: pil, pt")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, or None for all, given {batch_size!r}")


def _seeds(n: int, seeds: Sequence[int] | None, generator: torch.Generator | None) -> list[int]:
    """One seed per picture, given or drawn. Raises ValueError for a wrong number of them."""
    if seeds is None:
        device = generator.device if generator else "cpu"
        return torch.randint(2**62, (n,), generator=generator, device=device).tolist()
    if generator is not None:
        raise ValueError("give seeds or a generator, not both")
    if len(seeds) != n:
        raise ValueError(f"there must be one seed per picture: {n} pictures, {len(seeds)} seeds")
    return list(seeds)
