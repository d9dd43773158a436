"""A tokenizer that is shown a small copy of a picture, its result enlarged to the picture's size.

What a decoder of few tokens is compared with (Layton's rows "LlamaGen, resized"): the same tokens,
no more detail than the copy has. Both resizings are bilinear, the first antialiased.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from impasto.models.discrete import DiscreteTokenizer
from impasto.models.next_scale.maps import Sizes
from impasto.models.reconstruct import Code, CodeAutoencoder

__all__ = ["ShrunkAutoencoder"]


class ShrunkAutoencoder(CodeAutoencoder):
    """side: pixels a side of the copy; pictures are squares no smaller. factor: in pixels of the
    copy. Raises ValueError for a side that the tokenizer cannot take."""

    latent = "codes of a small copy"

    def __init__(self, model: DiscreteTokenizer, side: int, name: str, sha256: str) -> None:
        super().__init__(model, name, sha256)
        self.side, self._sizes = side, model.sizes_of(side, side)

    def sizes_of(self, height: int, width: int) -> Sizes:
        if height != width or height < self.side:
            raise ValueError(f"a copy of {self.side} pixels a side is made of squares that are no "
                             f"smaller, not of {width} x {height}; resize or crop them"
                             )  # fmt: skip
        return self._sizes

    def encode(self, images: Tensor) -> Code:
        size = (self.side, self.side)
        return self.model.encode(F.interpolate(images.float(), size, mode="bilinear",
                                               antialias=True))  # fmt: skip

    def decode(self, code: Any, height: int, width: int) -> Tensor:
        small = self.model.decode_tokens(code, self._sizes)
        return F.interpolate(small.float(), (height, width), mode="bilinear", antialias=True)

    def _more(self) -> dict[str, Any]:
        return super()._more() | {"side": self.side}
