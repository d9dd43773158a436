"""Pictures through a tokenizer and back: one interface for all kinds.

    latents          a KL autoencoder's, the mode of its posterior: no noise of its own, no ids
    codes            a codebook's ids, a map or several (`models.discrete`; diffusers' VQModel)
    codes or bits    of the scales of a next-scale generator (`next_scale.reconstruct`)

Ids are whole numbers from 0 to K - 1, a tensor (B, h_k w_k) a map, coarse to fine, row by row.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from diffusers.models import AutoencoderKL, VQModel
from torch import Tensor

from impasto.models.discrete import DiscreteTokenizer, check_ids, digest_of
from impasto.models.next_scale.maps import Sizes, tokens
from impasto.sample.rowwise import in_rows

__all__ = ["Autoencoder", "Code", "CodeAutoencoder", "LatentAutoencoder", "QuantisedAutoencoder",
           "Reconstruction"]  # fmt: skip

Code = Tensor | list[Tensor]
"""What is between encoder and decoder: latents, or ids a map."""


class Reconstruction(NamedTuple):
    """images: (B, 3, H, W) in [0, 1]. ids: (B, h_k w_k) int64 a map; None where there are only
    latents. Both on the CPU."""

    images: Tensor
    ids: list[Tensor] | None


class Autoencoder(ABC):
    """name: what it is called in records. sha256: of its weights. factor: pixels a side of a place
    of the last map, or of a latent. codebook_size: K, None without ids."""

    factor: int
    codebook_size: int | None = None
    latent = ""
    """What is between encoder and decoder, in the record's words."""

    def __init__(self, model: Any, name: str = "", sha256: str = "") -> None:
        self.model = model.eval().requires_grad_(False)
        self.name, self.sha256 = name, sha256
        self.config: Mapping[str, Any] = model.config

    @abstractmethod
    def sizes_of(self, height: int, width: int) -> Sizes:
        """The maps of ids of a picture of so many pixels; () without ids.

        Raises ValueError for a size that it cannot take.
        """

    @abstractmethod
    def encode(self, images: Tensor) -> Code:
        """Of pictures (B, 3, H, W) in [0, 1] on the model's device."""

    @abstractmethod
    def decode(self, code: Any, height: int, width: int) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of what `encode` gave."""

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def rows_at_once(self) -> int | None:
        """On a CPU one row at a time, so that a picture's result does not depend on its
        neighbours."""
        return 1 if self.device.type == "cpu" else None

    @property
    def bits(self) -> float | None:
        """Of one id: log2 K."""
        return None if self.codebook_size is None else math.log2(self.codebook_size)

    @property
    def digest(self) -> str:
        """sha256 over all that ids depend on: ids of another digest mean other things."""
        raise ValueError(f"{self.name} has continuous latents and no ids")

    def tokens_of(self, sizes: Sizes) -> int:
        """How many tokens a generator draws for ids of these maps."""
        return tokens(sizes)

    @torch.inference_mode()
    def reconstruct(self, images: Tensor) -> Reconstruction:
        """Pictures (B, 3, H, W) in [0, 1] there and back. Raises ValueError for a size that it
        cannot take, and for results that are not as large as what went in."""
        height, width = images.shape[-2:]
        self.sizes_of(height, width)
        x, found = images.to(self.device), []

        def rows(at: slice) -> Tensor:
            found.append(self.encode(x[at]))
            return self.decode(found[-1], height, width)

        out = in_rows(rows, len(x), self.rows_at_once)
        if out.shape != images.shape:
            raise ValueError(f"the autoencoder made {tuple(out.shape)} of {tuple(images.shape)}: "
                             f"its pictures are not the size of the originals")  # fmt: skip
        ids = None if self.codebook_size is None else [torch.cat(own).cpu()
                                                       for own in zip(*found, strict=True)]
        return Reconstruction(out.float().cpu(), ids)

    @torch.inference_mode()
    def decode_ids(self, ids: Sequence[Tensor], height: int, width: int) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1], on the CPU, of ids of all maps.

        Raises ValueError for ids out of range, too many or too few, or an autoencoder without.
        """
        sizes = self.sizes_of(height, width)
        if self.codebook_size is None:
            raise ValueError(f"{self.name} has continuous latents and no ids")
        if len(ids) != len(sizes):
            raise ValueError(f"a picture of {width} x {height} has ids of {len(sizes)} maps, "
                             f"given {len(ids)}")  # fmt: skip
        check_ids(ids, sizes, self.codebook_size)
        own = [each.to(self.device) for each in ids]
        return in_rows(lambda at: self.decode([each[at] for each in own], height, width),
                       len(own[0]), self.rows_at_once).float().cpu()  # fmt: skip

    def provenance(self) -> dict[str, Any]:
        return {"name": self.name, "class": type(self.model).__name__, "sha256": self.sha256,
                "factor": self.factor, "codebook_size": self.codebook_size,
                "latent": self.latent, **self._more()}  # fmt: skip

    def _more(self) -> dict[str, Any]:
        """What else decides its results."""
        return {"digest": self.digest}


class LatentAutoencoder(Autoencoder):
    """Of diffusers; model: an AutoencoderKL."""

    latent = "mode"
    model: AutoencoderKL

    def __init__(self, model: Any, name: str = "", sha256: str = "") -> None:
        super().__init__(model, name, sha256)
        self.factor = 2 ** (len(self.config["block_out_channels"]) - 1)

    def sizes_of(self, height: int, width: int) -> Sizes:
        if height % self.factor or width % self.factor:
            raise ValueError(f"this autoencoder takes pictures whose sides are multiples of "
                             f"{self.factor} pixels, not {width} x {height}")  # fmt: skip
        return ()

    def encode(self, images: Tensor) -> Code:
        return self.model.encode((2 * images - 1).to(self.model.dtype)).latent_dist.mode()

    def decode(self, code: Any, height: int, width: int) -> Tensor:
        return (self.model.decode(code).sample / 2 + 0.5).clamp(0, 1)

    def _more(self) -> dict[str, Any]:
        return {"latent_channels": self.config["latent_channels"]}


class QuantisedAutoencoder(LatentAutoencoder):
    """model: diffusers' VQModel, one map."""

    latent = "nearest code"
    model: Any

    def __init__(self, model: VQModel, name: str = "", sha256: str = "") -> None:
        super().__init__(model, name, sha256)
        self.codebook_size = self.config["num_vq_embeddings"]

    @cached_property
    def digest(self) -> str:
        return digest_of((self.model.encoder, self.model.quant_conv, self.model.quantize))

    def sizes_of(self, height: int, width: int) -> Sizes:
        super().sizes_of(height, width)
        return ((height // self.factor, width // self.factor),)

    def encode(self, images: Tensor) -> Code:
        z = self.model.encode((2 * images - 1).to(self.model.dtype)).latents
        return [self.model.quantize(z)[2][2].reshape(len(z), -1)]

    def decode(self, code: Any, height: int, width: int) -> Tensor:
        h, w = self.sizes_of(height, width)[0]
        z = self.model.quantize.get_codebook_entry(code[0].flatten(), (len(code[0]), h, w, -1))
        return (self.model.decode(z, force_not_quantize=True).sample / 2 + 0.5).clamp(0, 1)

    def _more(self) -> dict[str, Any]:
        return {**super()._more(), "digest": self.digest}


class CodeAutoencoder(Autoencoder):
    """A tokenizer of codes (`models.discrete`), by all maps that a picture has."""

    latent = "codes of all maps"
    model: DiscreteTokenizer

    def __init__(self, model: DiscreteTokenizer, name: str = "", sha256: str = "") -> None:
        super().__init__(model, name, sha256)
        self.codebook_size, self.factor = model.vocabulary, model.factor

    @cached_property
    def digest(self) -> str:
        return self.model.token_digest()

    def sizes_of(self, height: int, width: int) -> Sizes:
        return self.model.sizes_of(height, width)

    def encode(self, images: Tensor) -> Code:
        return self.model.encode(images)

    def decode(self, code: Any, height: int, width: int) -> Tensor:
        return self.model.decode_tokens(code, self.sizes_of(height, width))

    def _more(self) -> dict[str, Any]:
        return super()._more() | self.model.settings
