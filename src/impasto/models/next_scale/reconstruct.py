"""The tokenizer of a next-scale generator as `models.reconstruct` has them all.

Codes (VAR's) are ids as they are. Bits (Infinity's) of a place are the digits of its id, the first
the lowest:

    id = sum_i b_i 2^i,    K = 2^d

so a token that holds p x p places (`patch`) is p^2 ids of a map p times as large a side.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from impasto.models.discrete import digest_of
from impasto.models.next_scale.maps import Sizes, from_tokens, to_tokens
from impasto.models.next_scale.pipeline import NextScaleGenerator
from impasto.models.reconstruct import Autoencoder, Code

__all__ = ["BitAutoencoder", "ScaleAutoencoder"]


class ScaleAutoencoder(Autoencoder):
    """The tokenizer of a next-scale generator, whose one picture size it takes. model: its vae,
    with ids: VAR's."""

    latent = "tokens of all scales"

    def __init__(self, generator: NextScaleGenerator, name: str, sha256: str) -> None:
        super().__init__(generator.vae, name, sha256)
        self.sizes, self.size = generator.square_sizes, generator.default_size()
        self.factor = self.model.factor
        self.codebook_size = self._codes()

    def _codes(self) -> int:
        return self.config["vocabulary"]

    @cached_property
    def digest(self) -> str:
        return digest_of(self.model.token_parts)

    def sizes_of(self, height: int, width: int) -> Sizes:
        if (height, width) != self.size:
            raise ValueError(f"this tokenizer takes pictures of {self.size[1]} x {self.size[0]} "
                             f"pixels, not {width} x {height}")  # fmt: skip
        return self._maps()

    def _maps(self) -> Sizes:
        return self.sizes

    def encode(self, images: Tensor) -> Code:
        return self.model.encode(images, self.sizes)

    def decode(self, code: Any, height: int, width: int) -> Tensor:
        return self.model.decode_tokens(code, self.sizes)

    def _more(self) -> dict[str, Any]:
        return {"sizes": [list(size) for size in self.sizes], "digest": self.digest}


class BitAutoencoder(ScaleAutoencoder):
    """Infinity's: the bits of a place as the digits of an id."""

    def _codes(self) -> int:
        if self.config["bits"] > 62:
            raise ValueError(f"a place of this tokenizer has {self.config['bits']} bits; ids are "
                             f"whole numbers of at most 62")  # fmt: skip
        return 2 ** self.config["bits"]

    def _maps(self) -> Sizes:
        return self.model.map_sizes(self.sizes)

    def tokens_of(self, sizes: Sizes) -> int:
        return super().tokens_of(sizes) // self.config["patch"] ** 2

    @property
    def _powers(self) -> Tensor:
        return 2 ** torch.arange(self.config["bits"], device=self.device)

    def encode(self, images: Tensor) -> Code:
        found = []
        for bits, size in zip(self.model.encode(images, self.sizes), self.sizes, strict=True):
            places = from_tokens(bits.float(), size, self.config["patch"]).flatten(2)
            found.append((places.long() * self._powers[:, None]).sum(1))
        return found

    def decode(self, code: Any, height: int, width: int) -> Tensor:
        bits = []
        for ids, (h, w) in zip(code, self._maps(), strict=True):
            places = (ids[:, None] // self._powers[:, None]) % 2
            bits.append(to_tokens(places.unflatten(2, (h, w)).float(), self.config["patch"]) > 0)
        return self.model.decode_tokens(bits, self.sizes)
