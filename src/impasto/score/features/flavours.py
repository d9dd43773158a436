"""The published flavours of FID: one Inception, five ways of giving it a picture. Never mix them.

    flavour                    8-bit picture to 299 x 299                      then
    adm, torch-fidelity,       bilinear at i H / 299, no half-pixel shift      (x - 128) / 128
      clean-legacy-tensorflow  (TensorFlow 1's)
    pytorch-fid,               bilinear at (i + .5) H / 299 - .5               x / 127.5 - 1
      clean-legacy-pytorch     (PyTorch's), no antialiasing
    clean                      bicubic, antialiased, in float (Pillow's)       (x - 128) / 128

adm is guided-diffusion's evaluator on the port of its graph, with sFID from `mixed_6/conv`, IS in
splits of 5,000 and precision/recall of 3 neighbours; torch-fidelity 0.4 has IS in 10 shuffled
splits, KID of 100 subsets of 1,000 and seed 2020. clean-fid runs the same weights as TorchScript.
Neighbours' distances are float64 here; guided-diffusion takes them in half precision.
Other weights than the published file give `fd_`, `sfd_`, `kd_`, precision and recall under the
name inception_FLAVOUR_SHA256: no FID, no KID, no IS.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto.files import sha256_file
from impasto.images import resize_float
from impasto.score.features.base import Extractor, Measures, published
from impasto.score.features.inception import CLASSES, SIDE, SPATIAL, WIDTH, load_inception
from impasto.score.official import exact_float32
from impasto.zoo.pickles import read_tensors
from impasto.zoo.registry import FEATURES

__all__ = ["FLAVOURS", "InceptionExtractor", "tensorflow_bilinear"]

SHA256 = "6726825d"
"""How the sha256 of the published file begins; its name says so."""
SHARES: Measures = {"precision_recall": {"k": 3}}


def _between(x: Tensor, axis: int) -> Tensor:
    """x, (…, n, …), at positions i n / 299 along the axis, linear between neighbours."""
    n = x.shape[axis]
    at = torch.arange(SIDE, dtype=torch.float32, device=x.device) * (n / SIDE)
    low = at.long()
    share = (at - low).view(-1, *[1] * (x.ndim - 1 - axis % x.ndim))
    a, b = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=n - 1))
    return a + (b - a) * share


def tensorflow_bilinear(levels: Tensor) -> Tensor:
    """(B, 3, H, W) to (B, 3, 299, 299) as TensorFlow 1's resize_bilinear gives it."""
    return _between(_between(levels, -1), -2)


def _graph(levels: Tensor) -> Tensor:
    return (tensorflow_bilinear(levels) - 128) / 128


def _pytorch(levels: Tensor) -> Tensor:
    return F.interpolate(levels, size=(SIDE, SIDE), mode="bilinear") / 127.5 - 1


def _clean(levels: Tensor) -> Tensor:
    resized = torch.stack([resize_float(image, SIDE, SIDE) for image in levels / 255])
    return (resized.to(levels.device) * 255 - 128) / 128


class _Flavour(NamedTuple):
    """prepare: levels (B, 3, H, W), 0 to 255, to the network's input. about: the resizing."""

    prepare: Callable[[Tensor], Tensor]
    about: str
    measures: Measures


FLAVOURS: dict[str, _Flavour] = {
    "adm": _Flavour(_graph, "bilinear, TensorFlow 1", {
        "fid": {}, "sfid": {}, "is": {"size": 5000}} | dict(SHARES)),
    "torch-fidelity": _Flavour(_graph, "bilinear, TensorFlow 1", {
        "fid": {}, "is": {"splits": 10, "seed": 2020},
        "kid": {"subsets": 100, "size": 1000, "seed": 2020}} | dict(SHARES)),
    "pytorch-fid": _Flavour(_pytorch, "bilinear, PyTorch, not antialiased", {"fid": {}}),
    "clean": _Flavour(_clean, "bicubic, Pillow, antialiased, in float", {"fid": {}}),
    "clean-legacy-tensorflow": _Flavour(_graph, "bilinear, TensorFlow 1", {"fid": {}}),
    "clean-legacy-pytorch": _Flavour(_pytorch, "bilinear, PyTorch, not antialiased", {"fid": {}}),
}  # fmt: skip


def _unpublished(measures: Measures) -> Measures:
    """The same of weights that are not the published ones."""
    names = {"fid": "fd", "sfid": "sfd", "kid": "kd", "precision_recall": "precision_recall"}
    plain = {names[key]: options for key, options in measures.items() if key in names}
    return plain | ({"kd": {}} if "kd" in plain else {})


class InceptionExtractor(Extractor):
    """Inception's features of pictures, in one of `FLAVOURS`."""

    def __init__(
        self, flavour: str, weights: str | Path, *, any_weights: bool = False,
        measures: str | None = None, device: str | torch.device = "cpu",
    ) -> None:  # fmt: skip
        """weights: the published .pth, or any with its names. Errors: see `published`."""
        self.flavour = FLAVOURS[flavour]
        label = flavour.replace("-", "_")
        self.sha256, self.device = sha256_file(weights), device
        stranger = published({str(weights): self.sha256}, [SHA256], any_weights,
                             f"fd_inception_{label}")  # fmt: skip
        given = _unpublished(self.flavour.measures) if stranger else self.flavour.measures
        name = f"inception_{label}_{stranger}" if stranger else label
        super().__init__(name, given, {"pool": WIDTH, "logits": CLASSES, "spatial": SPATIAL},
                         measures)  # fmt: skip
        self.model = load_inception(read_tensors(weights), str(weights)).to(device)
        self.streams = {"pool"} | {"logits" for m in self.measures if m == "is"} | {
            "spatial" for m in self.measures if m in ("sfid", "sfd")}  # fmt: skip

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        levels = (images.to(self.device) * 255).round()
        with exact_float32():
            seen = self.model(self.flavour.prepare(levels))
        return {key: value.cpu() for key, value in seen.items() if key in self.streams}

    def provenance(self) -> dict[str, Any]:
        return self.record(self.sha256, self.flavour.about)


def _make(
    flavour: str, *, weights: str, any_weights: bool = False, measures: str | None = None,
    device: str = "cpu",
) -> InceptionExtractor:  # fmt: skip
    return InceptionExtractor(flavour, weights, any_weights=any_weights, measures=measures,
                              device=device)  # fmt: skip


ABOUT = {
    "adm": "FID, sFID, IS, precision, recall as guided-diffusion's evaluator computes them.",
    "torch-fidelity": "FID, IS, KID, precision, recall as torch-fidelity 0.4 computes them.",
    "pytorch-fid": "FID as pytorch-fid computes it.",
    "clean": "FID as clean-fid computes it (antialiased).",
    "clean-legacy-tensorflow": "FID of clean-fid's mode legacy_tensorflow.",
    "clean-legacy-pytorch": "FID of clean-fid's mode legacy_pytorch.",
}
for _name, _about in ABOUT.items():
    _factory = partial(_make, _name)
    _factory.__doc__ = _about
    FEATURES.register(_name)(_factory)
