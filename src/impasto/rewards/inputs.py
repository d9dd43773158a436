"""What trainers hand over, as the library's own pictures and specs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from impasto.images import from_pil, quantise
from impasto.spec import Spec

__all__ = ["as_pictures", "as_spec", "as_specs"]

ALLOWED = ("torch (B, 3, H, W) or numpy (B, H, W, 3), 8-bit or float in [0, 1], or a list of PIL "
           "images, (3, H, W) tensors or (H, W, 3) arrays")  # fmt: skip


def _picture(image: Any) -> Tensor:
    """One picture, (3, H, W) on the 8-bit grid."""
    if isinstance(image, Image.Image):
        return from_pil(image)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, 0)
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3:
        what = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"a picture is {what}; allowed: {ALLOWED}")
    if image.dtype == torch.uint8:
        return image.float().div(255)
    if not image.is_floating_point():
        raise ValueError(f"a picture's values are {image.dtype}; allowed: {ALLOWED}")
    return quantise(image.detach())


def as_pictures(images: Any) -> list[Tensor]:
    """Pictures (3, H, W) in [0, 1] from torch NCHW, numpy NHWC or a list of single ones.

    Raises ValueError for another shape or type, and for NaN.
    """
    if isinstance(images, (Tensor, np.ndarray)) and images.ndim != 4:
        raise ValueError(f"pictures are {tuple(images.shape)}; allowed: {ALLOWED}")
    return [_picture(image) for image in images]


def as_spec(metadata: Mapping[str, Any] | str, prompt: str = "") -> Spec:
    """A line of GenEval's metadata, as a dict or as JSON, to the spec that it states.

    prompt: where the metadata has none. Raises ValueError for what is no such line.
    """
    try:
        values = json.loads(metadata) if isinstance(metadata, str) else metadata
        return Spec.from_dict({"prompt": prompt, **values})
    except (KeyError, TypeError, IndexError, ValueError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"metadata {str(metadata)[:200]!r} is no line of GenEval's metadata "
                         f"({reason}); give tag, include and, where there is one, exclude"
                         ) from error  # fmt: skip


def as_specs(metadata: Sequence[Any], prompts: Sequence[str]) -> list[Spec]:
    """A spec for each prompt. Raises ValueError when they differ in number."""
    if len(metadata) != len(prompts):
        raise ValueError(f"{len(metadata)} metadata for {len(prompts)} prompts; give one for each")
    return [as_spec(line, prompt) for line, prompt in zip(metadata, prompts, strict=True)]
