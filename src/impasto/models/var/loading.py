"""VAR put together of what lies in different places: a transformer, a tokenizer, names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from impasto.models.classes import read_names
from impasto.models.storage import network_from
from impasto.models.var.model import VARTransformer
from impasto.models.var.pipeline import VARGenerator
from impasto.models.var.sampler import Defaults
from impasto.models.var.tokenizer import VARTokenizer
from impasto.zoo.hub import model_folder
from impasto.zoo.registry import MODELS
from impasto.zoo.weights import as_dtype

__all__ = ["var"]


@MODELS.register("var", published=True)
def var(
    *, transformer: str, vae: str, classes: str | None = None, guidance: float = 2.5,
    top_k: int = 900, top_p: float = 0.96, torch_dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
) -> VARGenerator:  # fmt: skip
    """Published VAR: var:transformer=DIR,vae=DIR (impasto convert),classes=FILE.

    classes: a text file with the names of the classes, one a line; without it a text must be a
    class's index. Raises ValueError for parts that do not belong together.
    """
    dtype = as_dtype(torch_dtype)
    networks: dict[str, Any] = {
        "transformer": network_from(VARTransformer, model_folder(transformer, "transformer")),
        "vae": network_from(VARTokenizer, model_folder(vae, "vae")),
    }
    for network in networks.values():
        nn.Module.to(network, device=device, dtype=dtype).eval()
    names = () if classes is None else read_names(classes)
    return VARGenerator(**networks, defaults=Defaults(classes=names, guidance=guidance,
                                                      top_k=top_k, top_p=top_p))  # fmt: skip
