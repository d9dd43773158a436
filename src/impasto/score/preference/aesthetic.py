"""LAION's aesthetic predictors: a linear map of CLIP's picture features to a rating.

    x     = f(picture) / |f(picture)|               f: projected features, ViT-L/14 of OpenAI
    value = W_5 (W_4 ( ... (W_1 x + b_1) ... ) + b_4) + b_5          v2: 768-1024-128-64-16-1
    value = w x + b                                                  v1

v2 has no activations, so it is a linear map as well; its dropouts play no part in inference. The
prompt plays none at all. Sources: christophschuhmann/improved-aesthetic-predictor,
`simple_inference.py`; LAION-AI/aesthetic-predictor, README.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import CLIPModel

from impasto.files import sha256_file
from impasto.score.clip import OPENAI, image_features
from impasto.score.preference.base import PreferenceScorer
from impasto.score.preference.pictures import SQUARES
from impasto.score.self_test import golden
from impasto.score.trained import check_norms, check_ratings
from impasto.zoo.pickles import read_tensors

__all__ = ["HEADS", "AestheticScorer", "LinearHead", "load_head"]

WIDTHS = (1024, 128, 64, 16, 1)
DROPOUTS = (0.2, 0.2, 0.1, 0.0)
TOLD, PICTURES = 4, 4


class LinearHead(nn.Module):
    """Five linear layers without activations, under the published names layers.0, .2, .4, .6, .7.

    ImageReward's head is of the same kind.
    """

    def __init__(self, features: int = 768) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, width in enumerate(WIDTHS):
            layers.append(nn.Linear(features, width))
            if i < len(DROPOUTS) and DROPOUTS[i]:
                layers.append(nn.Dropout(DROPOUTS[i]))
            features = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (B, 1)."""
        return self.layers(x)


class Head(NamedTuple):
    """A published file. sha256: its own; others: sha256 -> name of what is taken for it.

    scale: no picture is rated outside. LAION's mean features of pictures that people rated 0 and 9
    get 1.66 and 5.75 by v2, -2.46 and 11.30 by v1.
    """

    file: str
    sha256: str
    others: Mapping[str, str]
    scale: tuple[float, float]

    def network(self, features: int) -> nn.Module:
        return LinearHead(features) if self.file.startswith("sac") else nn.Linear(features, 1)


HEADS = {
    "laion-aesthetic-v2": Head(
        "sac+logos+ava1-l14-linearMSE.pth",
        "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
        {"390a3aafaf3b37d57148f9b22f30556de38343064b7d915acfa80d3812b4c9ff":
         "ava+logos-l14-linearMSE.pth",
         "0af3254c651d55b7ea851429c20f26ec880bb0169805a4df85b814bd7966f3e4":
         "ava+logos-l14-reluMSE.pth"},
        (0.5, 10.0),
    ),
    "laion-aesthetic-v1": Head(
        "sa_0_4_vit_l_14_linear.pth",
        "2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
        {"c7b14cead230694acc7b9447974d3cad78003c72da032e402a303b6c2429e85f":
         "sa_0_4_vit_b_32_linear.pth",
         "8ad3923d7ecf019df20ecd2ab5542a3075fbba0278d239c0371345f3d7fcbde0":
         "sa_0_4_vit_b_16_linear.pth"},
        (-5.0, 14.0),
    ),
}  # fmt: skip
"""Scorer -> its file in LAION's and C. Schuhmann's repositories, and its neighbours there."""


def load_head(path: str | Path, name: str, features: int = 768) -> tuple[nn.Module, str]:
    """The head of a `HEADS` scorer, and the file's sha256.

    path: .pth or safetensors, read without running it. Raises FileNotFoundError; ValueError for
    another published head, by its name, and for tensors that are missing, left over or of another
    shape.
    """
    wanted, path = HEADS[name], Path(path)
    sha256 = sha256_file(path)
    if sha256 in wanted.others:
        raise ValueError(f"{path} is {wanted.others[sha256]}; {name} needs {wanted.file}")
    head, tensors = wanted.network(features), read_tensors(path)
    shapes = {key: tuple(value.shape) for key, value in head.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    wrong = [f"{key} ({found.get(key, 'missing')}, needs {shape})"
             for key, shape in shapes.items() if found.get(key) != shape]  # fmt: skip
    wrong += [f"{key} (unexpected)" for key in sorted(found.keys() - shapes.keys())]
    if wrong:
        raise ValueError(f"{path} is no head of {name}: {', '.join(wrong[:TOLD])}; give "
                         f"{wanted.file}")  # fmt: skip
    head.load_state_dict(tensors)
    return head.eval(), sha256


class AestheticScorer(PreferenceScorer):
    """Ratings of pictures, whatever the prompt."""

    model: CLIPModel

    def __init__(self, model: CLIPModel, head: nn.Module, *, name: str = "laion-aesthetic-v2",
                 record: Mapping[str, Any] | None = None) -> None:  # fmt: skip
        super().__init__(model, name=name, record=record)
        self.head = head.to(self.device).eval()
        self.size: int = model.config.vision_config.image_size

    def look(self, images: Sequence[Tensor]) -> Tensor:
        """(B, D) unit features, on the CPU."""
        def features(rows: slice) -> Tensor:
            squares = [SQUARES["torchvision"](one.cpu().float(), self.size)
                       for one in images[rows]]  # fmt: skip
            return image_features(self.model, OPENAI(torch.stack(squares)))

        return self.in_rows(features, len(images))

    def rate(self, seen: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,) ratings. prompts: not looked at."""
        return self.in_rows(lambda rows: self.head(seen[rows].to(self.device)).cpu()[:, 0],
                            len(seen))  # fmt: skip

    def self_test(self) -> None:
        """Raises ScorerBroken for ratings that no trained predictor gives."""
        check_norms(self.model, self.name)
        pictures = golden().images[:PICTURES]
        check_ratings(self.name, self.values(pictures, [""] * len(pictures)),
                      *HEADS[self.name].scale)  # fmt: skip

    def provenance(self) -> dict[str, Any]:
        return super().provenance() | {
            "value": "head of unit picture features; the prompt is not looked at",
            "preprocessing": {"square": "torchvision", "size": self.size,
                              "mean": list(OPENAI.mean), "std": list(OPENAI.std)},
        }  # fmt: skip
