"""LPIPS v0.1: how different two pictures look to a network (Zhang et al. 2018).

    d(x, y) = sum over layers l of mean over places of  w_l . (f_l(x) - f_l(y))^2

f_l: features after layer l's ReLU, of length 1 at every place. w_l: the linear heads of v0.1,
learnt from human judgements. Pictures enter in [-1, 1] and are shifted and scaled per channel
(which v0.0 forgot). alex is what evaluations report, vgg what losses use; they are other numbers.

Weights by path: the backbone as torchvision has it (alexnet-owt-7be5be79.pth,
vgg16-397923af.pth), the heads as the lpips package carries them (weights/v0.1/alex.pth, vgg.pth).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from impasto.files import sha256_file
from impasto.score.features.base import published
from impasto.score.official import exact_float32
from impasto.zoo.pickles import read_tensors
from impasto.zoo.registry import PERCEPTUAL

__all__ = ["VARIANTS", "Lpips"]

LEAST = 32
"""Pixels of a side: the last layer's features need one place at least."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
TINY = 1e-10


class _Variant(NamedTuple):
    """layers: of the backbone, in torchvision's order. taps: places of the ReLUs looked at.
    widths: channels there. backbone, heads: how the published files' sha256 begin."""

    layers: tuple[Any, ...]
    taps: tuple[int, ...]
    widths: tuple[int, ...]
    backbone: str
    heads: str


def _conv(inside: int, outside: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> Any:
    return lambda: nn.Conv2d(inside, outside, kernel, stride, padding)


def _vgg(*stages: tuple[int, ...]) -> tuple[Any, ...]:
    """Stages of 3 x 3 convolutions with ReLUs, halved in between."""
    layers: list[Any] = []
    inside = 3
    for stage in stages:
        for width in stage:
            layers += [_conv(inside, width), nn.ReLU]
            inside = width
        layers.append(lambda: nn.MaxPool2d(2))
    return tuple(layers[:-1])


VARIANTS = {
    "alex": _Variant(
        (_conv(3, 64, 11, 4, 2), nn.ReLU, lambda: nn.MaxPool2d(3, 2), _conv(64, 192, 5, 1, 2),
         nn.ReLU, lambda: nn.MaxPool2d(3, 2), _conv(192, 384), nn.ReLU, _conv(384, 256), nn.ReLU,
         _conv(256, 256), nn.ReLU),
        (1, 4, 7, 9, 11), (64, 192, 384, 256, 256), "7be5be79",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
    "vgg": _Variant(
        _vgg((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
        (3, 8, 15, 22, 29), (64, 128, 256, 512, 512), "397923af",
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
}  # fmt: skip


def _backbone(variant: _Variant, tensors: Mapping[str, Tensor], where: str) -> nn.Sequential:
    """Of a classifier's tensors, its "features.…"; the classifier is not looked at."""
    with torch.device("meta"):
        layers = nn.Sequential(*(make() for make in variant.layers))
    state = {key.removeprefix("features."): value.float() for key, value in tensors.items()
             if key.startswith("features.")}  # fmt: skip
    wanted = {key: value.shape for key, value in layers.state_dict().items()}
    wrong = sorted(set(wanted) ^ set(state))
    wrong += [key for key in sorted(set(wanted) & set(state)) if state[key].shape != wanted[key]]
    if wrong:
        raise ValueError(f"{where} is not this LPIPS's backbone: {len(wrong)} of its features are "
                         f"missing, left over or of another shape, such as features.{wrong[0]}"
                         )  # fmt: skip
    layers.load_state_dict(state, assign=True)
    return layers.eval().requires_grad_(False)


def _heads(variant: _Variant, tensors: Mapping[str, Tensor], where: str) -> list[Tensor]:
    """(C_l, ) per layer."""
    shapes = {f"lin{i}.model.1.weight": (1, width, 1, 1) for i, width in enumerate(variant.widths)}
    if {key: tuple(value.shape) for key, value in tensors.items()} != shapes:
        raise ValueError(f"{where} does not hold this LPIPS's heads, which are {shapes}")
    return [tensors[key].float().flatten() for key in shapes]


def _unit(features: Tensor) -> Tensor:
    # In bfloat16 the difference of two units that are near is mostly rounding.
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features / (features.square().sum(1, keepdim=True).sqrt() + TINY)


class Lpips:
    """LPIPS v0.1 with one backbone. name: "lpips_alex_v0.1"; of other weights than the published
    ones, with eight hex digits of their sha256 behind it."""

    def __init__(
        self, variant: str, backbone: str | Path, heads: str | Path, *, any_weights: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:  # fmt: skip
        """Raises ValueError for weights that are not the published ones, unless `any_weights`, or
        that do not fit."""
        v = VARIANTS[variant]
        self.name = f"lpips_{variant}_v0.1"
        files = {str(path): sha256_file(path) for path in (backbone, heads)}
        self.hashes = dict(zip(("backbone", "heads"), files.values(), strict=False))
        stranger = published(files, [v.backbone, v.heads], any_weights, self.name)
        if stranger:
            self.name += f"_{stranger}"
        self.taps, self.device = v.taps, device
        self.layers = _backbone(v, read_tensors(backbone), str(backbone)).to(device)
        self.heads = [head.to(device) for head in _heads(v, read_tensors(heads), str(heads))]

    def _features(self, images: Tensor) -> list[Tensor]:
        shift, scale = (images.new_tensor(v)[:, None, None] for v in (SHIFT, SCALE))
        x, kept = (2 * images - 1 - shift) / scale, []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.taps:
                kept.append(_unit(x))
        return kept

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,) distances of pictures (B, 3, H, W) in [0, 1], with y's gradient; x is the truth.
        All on the networks' device.

        Raises ValueError for pictures of different sizes or of sides below 32 pixels.
        """
        if x.shape != y.shape or x.ndim != 4:
            raise ValueError(f"pictures must be two of (B, 3, H, W), given {tuple(x.shape)} and "
                             f"{tuple(y.shape)}")  # fmt: skip
        if min(x.shape[-2:]) < LEAST:
            raise ValueError(f"{self.name} needs pictures of at least {LEAST} x {LEAST} pixels, "
                             f"given {x.shape[-1]} x {x.shape[-2]}")  # fmt: skip
        with torch.no_grad():
            truth = self._features(x)
        pairs = zip(truth, self._features(y), self.heads, strict=True)
        with torch.autocast(x.device.type, enabled=False):
            layers = [torch.einsum("bchw,c->bhw", (a - b).square(), head).mean((1, 2))
                      for a, b, head in pairs]  # fmt: skip
        return torch.stack(layers).sum(0)

    @torch.inference_mode()
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """`distance` in float32, of pictures anywhere; (B,) on the CPU."""
        with exact_float32():
            return self.distance(*(images.to(self.device).float() for images in (x, y))).cpu()

    def provenance(self) -> dict[str, Any]:
        return {"name": self.name, "sha256": self.hashes}


def _make(
    variant: str, *, backbone: str, heads: str, any_weights: bool = False, device: str = "cpu"
) -> Lpips:
    return Lpips(variant, backbone, heads, any_weights=any_weights, device=device)


ABOUT = {"alex": "LPIPS v0.1 on AlexNet: what evaluations report.",
         "vgg": "LPIPS v0.1 on VGG-16: what losses use."}  # fmt: skip
for _name, _about in ABOUT.items():
    _factory = partial(_make, _name)
    _factory.__doc__ = _about
    PERCEPTUAL.register(f"lpips-{_name}")(_factory)
