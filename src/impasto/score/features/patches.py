"""Features of the places of a picture, by which a search tells layouts apart.

    clip-patches   the sticker CLIP's last states, one a patch of 12 of 96 px (64 x 128)
    dinov2         DINOv2 with registers, normalised last states, one a patch of 14 of 224 px;
                   published: facebook/dinov2-with-registers-large (256 x 1024)
    inception      FID's Inception, one for the whole picture (1 x 2048)

Class token and registers are left out. The pictures come to a network's square whole, bilinear and
antialiased, without a crop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel, Dinov2WithRegistersModel

from impasto.files import sha256_file
from impasto.sample.flops import count_flops
from impasto.score.clip import Normalisation, load_clip_model
from impasto.score.features.flavours import InceptionExtractor
from impasto.score.features.inception import SIDE
from impasto.score.official import exact_float32
from impasto.score.trained import check_keys
from impasto.zoo.hub import model_folder
from impasto.zoo.registry import PATCHES
from impasto.zoo.weights import shipped_folder, without_bars

__all__ = ["ClipPatches", "DinoPatches", "InceptionPatches", "Patches"]

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DINO_SIDE = 224


class Patches(ABC):
    """Features of places. name: for records. places: whether there is more than one."""

    name: str
    places: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """(B, P, D) float32 on the network's device, of pictures (B, 3, H, W) in [0, 1]."""

    @abstractmethod
    def flops(self, height: int, width: int) -> float | None:
        """FLOPs of one picture of this size, 2 per multiply-add; None where not counted."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Name, sha256 of the weights, how pictures come to the network's size."""


class _Tower(Patches):
    """Last states of a vision transformer. skip: its first states that are no places.

    sha256: of the weights. side: pixels of its square.
    """

    def __init__(
        self, model: nn.Module, name: str, sha256: str, *, side: int, skip: int,
        normalisation: Normalisation,
    ) -> None:  # fmt: skip
        self.model, self.name, self.sha256 = model.eval(), name, sha256
        self.side, self.skip, self.normalisation = side, skip, normalisation
        self._flops: float | None = None

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        weight = next(self.model.parameters())
        small = F.interpolate(images.float().to(weight.device), size=(self.side, self.side),
                              mode="bilinear", antialias=True)  # fmt: skip
        pixels = self.normalisation(small).to(weight.dtype)
        with exact_float32():
            return self.model(pixel_values=pixels).last_hidden_state[:, self.skip :].float()

    def flops(self, height: int, width: int) -> float:
        if self._flops is None:
            dtype = next(self.model.parameters()).dtype
            pixels = torch.empty(1, 3, self.side, self.side, device="meta", dtype=dtype)
            self._flops = float(count_flops(self.model, pixel_values=pixels))
        return self._flops

    def provenance(self) -> dict[str, Any]:
        return {"name": self.name, "sha256": self.sha256,
                "resize": f"bilinear, antialiased, {self.side} px"}  # fmt: skip


class ClipPatches(_Tower):
    """Of a CLIP's picture tower, before the norm that only its class token goes through."""

    def __init__(
        self, model: CLIPVisionModel, sha256: str, name: str = "clip-patches",
        normalisation: Normalisation | None = None,
    ) -> None:  # fmt: skip
        super().__init__(model, name, sha256, side=model.config.image_size, skip=1,
                         normalisation=normalisation or Normalisation())  # fmt: skip


class DinoPatches(_Tower):
    """Of DINOv2 with registers."""

    def __init__(
        self, model: Dinov2WithRegistersModel, sha256: str, name: str = "dinov2"
    ) -> None:
        super().__init__(model, name, sha256, side=DINO_SIDE, normalisation=IMAGENET,
                         skip=1 + model.config.num_register_tokens)  # fmt: skip


class InceptionPatches(Patches):
    """Inception's pooled features, as one place."""

    places = False

    def __init__(self, extractor: InceptionExtractor) -> None:
        self.extractor, self.name = extractor, "inception"
        self._flops: float | None = None

    def __call__(self, images: Tensor) -> Tensor:
        return self.extractor(images)["pool"][:, None]

    def flops(self, height: int, width: int) -> float:
        if self._flops is None:
            pixels = torch.empty(1, 3, SIDE, SIDE, device="meta")
            self._flops = float(count_flops(self.extractor.model, pixels))
        return self._flops

    def provenance(self) -> dict[str, Any]:
        return {"name": self.name, "sha256": self.extractor.sha256,
                "resize": self.extractor.flavour.about}  # fmt: skip


@PATCHES.register("clip-patches")
def clip_patches(*, folder: str | None = None, device: str = "cpu") -> ClipPatches:
    """The sticker CLIP's patches (64 places), or those of the CLIP in a folder.

    Raises FileNotFoundError when the weights are not in this installation or the folder.
    """
    found = Path(folder) if folder is not None else shipped_folder("sticker-clip")
    model, sha256 = load_clip_model(found, device)
    return ClipPatches(model.vision_model, sha256)


@PATCHES.register("dinov2")
def dinov2(
    *, id: str = "facebook/dinov2-with-registers-large", dtype: str | None = None,
    device: str = "cpu",
) -> DinoPatches:  # fmt: skip
    """DINOv2 with registers, by folder or hub id; bfloat16 on a GPU unless dtype says otherwise.

    Raises ValueError for a folder that is none, or whose weights are not all the model's.
    """
    folder = model_folder(id, "id")
    kind = dtype or ("bfloat16" if str(device).startswith("cuda") else "float32")
    if kind not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype must be float32, bfloat16 or float16, given {dtype!r}")
    with without_bars():
        model, found = Dinov2WithRegistersModel.from_pretrained(
            folder, dtype=getattr(torch, kind), local_files_only=True, use_safetensors=True,
            output_loading_info=True,
        )  # fmt: skip
    weights = folder / "model.safetensors"
    check_keys(found, weights, harmless=lambda key: False)
    return DinoPatches(model.to(device), sha256_file(weights))


@PATCHES.register("inception")
def inception(*, weights: str, device: str = "cpu") -> InceptionPatches:
    """FID's Inception, one feature of the whole picture; weights: its .pth file."""
    return InceptionPatches(InceptionExtractor("torch-fidelity", weights, any_weights=True,
                                               device=device))  # fmt: skip
