"""What a tokenizer of codes offers: pictures to ids of one map or of several, and back.

    ids = tokenizer.encode(images)                 a tensor (B, h_k w_k) a map, coarse to fine
    images = tokenizer.decode_tokens(ids, tokenizer.sizes_of(height, width))

A tokenizer is known by its `token_digest`: ids of one mean nothing to another.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from impasto.models.next_scale.maps import Sizes
from impasto.sample.flops import count_flops

__all__ = ["DiscreteTokenizer", "check_digest", "check_ids", "digest_of"]


class DiscreteTokenizer(ModelMixin, ConfigMixin):
    """vocabulary: K codes. channels: of a code. factor: pixels a side of a place of the last map.
    Pictures are (B, 3, H, W) in [0, 1]."""

    config_name = "config.json"
    vocabulary: int
    channels: int
    factor: int

    @property
    def stride(self) -> int:
        """Pixels a side of a token of the last map."""
        return self.factor

    def pixels_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the picture whose last map has this size."""
        return size[0] * self.stride, size[1] * self.stride

    @property
    def settings(self) -> dict[str, Any]:
        """What a picture depends on beside weights and ids, for records."""
        return {}

    @property
    @abstractmethod
    def token_parts(self) -> tuple[nn.Module, ...]:
        """What tokens depend on."""

    @abstractmethod
    def sizes_of(self, height: int, width: int) -> Sizes:
        """The maps of a picture of this size. Raises ValueError for one that it cannot take."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """What is quantised, (B, C, h, w), float32."""

    @abstractmethod
    def encode(self, images: Tensor, sizes: Sizes | None = None) -> list[Tensor]:
        """Ids (B, h_k w_k), int64, a map. sizes: None for all maps of the pictures' size."""

    @abstractmethod
    def codes(self, ids: Tensor) -> Tensor:
        """(B, n, C), float32, of ids (B, n) that are in range."""

    @abstractmethod
    def features_of(self, ids: Sequence[Tensor], sizes: Sizes) -> Tensor:
        """What the decoders are given for ids of the first maps, (B, C, h, w), float32."""

    @abstractmethod
    def picture(self, z: Tensor) -> Tensor:
        """What the decoder makes of codes (B, C, h, w): (B, 3, H, W), float32, about [-1, 1]."""

    def decode(self, z: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of codes (B, C, h, w)."""
        return (self.picture(z) / 2 + 0.5).clamp(0, 1)

    def decode_tokens(
        self, ids: Sequence[Tensor], sizes: Sizes, *, seeds: Sequence[int] | None = None
    ) -> Tensor:
        """Pictures in [0, 1] of the ids of the first len(ids) of `sizes`.

        seeds: one a row, for decoders that leave something to chance; of no use to others. Raises
        ValueError for ids out of range, or not as many as a map has places.
        """
        self.check_ids(ids, sizes)
        return self.decode(self.features_of(ids, sizes))

    def decode_flops(self, sizes: Sizes) -> int:
        """FLOPs of decoding the ids of one picture."""
        z = torch.empty(1, self.channels, *sizes[-1], device="meta")
        return count_flops(_Decoder(self), z)

    def check_ids(self, ids: Sequence[Tensor], sizes: Sizes) -> None:
        """Raises ValueError for ids that cannot be those of the first maps of `sizes`."""
        check_ids(ids, sizes, self.vocabulary)

    def token_digest(self) -> str:
        """sha256 over names and values of all that tokens depend on."""
        return digest_of(self.token_parts)


def check_ids(ids: Sequence[Tensor], sizes: Sizes, vocabulary: int) -> None:
    """Raises ValueError for ids that cannot be those, (B, h_k w_k), of the first maps of `sizes`
    with so many codes."""
    if not 1 <= len(ids) <= len(sizes):
        raise ValueError(f"there must be ids of 1 to {len(sizes)} maps, given {len(ids)}")
    for k, (own, (h, w)) in enumerate(zip(ids, sizes, strict=False)):
        if own.ndim != 2 or own.shape[1] != h * w:
            raise ValueError(f"map {k} has {h} x {w} = {h * w} ids a picture, given "
                             f"{tuple(own.shape)}")  # fmt: skip
        if own.is_floating_point() or int(own.min()) < 0 or int(own.max()) >= vocabulary:
            raise ValueError(f"ids of map {k} must be whole numbers from 0 to {vocabulary - 1}, "
                             f"given {own.min()} to {own.max()}")  # fmt: skip


def digest_of(parts: Sequence[nn.Module]) -> str:
    """sha256 over names and values of what tokens depend on."""
    digest = hashlib.sha256()
    for i, part in enumerate(parts):
        for key, tensor in sorted(part.state_dict().items()):
            digest.update(f"{i}.{key}\0".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class _Decoder(nn.Module):
    def __init__(self, tokenizer: DiscreteTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, z: Tensor) -> Tensor:
        return self.tokenizer.picture(z)


def check_digest(wanted: str | None, tokenizer: DiscreteTokenizer, model: str) -> None:
    """Raises ValueError when `model` was trained on another tokenizer's ids.

    wanted: the digest that its folder recorded; None where it recorded none.
    """
    if wanted is None or wanted == (found := tokenizer.token_digest()):
        return
    raise ValueError(f"{model} was trained on the ids of the tokenizer {wanted[:12]}, and this is "
                     f"{found[:12]}: its codes mean other things; give the tokenizer that the "
                     f"model was trained with")  # fmt: skip
