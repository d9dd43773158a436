"""DiT by name: a folder of ours or of diffusers' DiTPipeline, or parts in different places."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL, DiTTransformer2DModel
from torch import nn

from impasto.models.bound import folder_or_parts
from impasto.models.classes import read_names
from impasto.models.dit.config import SCALING, Defaults
from impasto.models.dit.pipeline import DiTGenerator
from impasto.models.storage import network_from, read_json, weights_file
from impasto.zoo.hub import model_folder
from impasto.zoo.registry import MODELS
from impasto.zoo.weights import as_dtype, load_weights

__all__ = ["dit"]


@MODELS.register("dit", published=True, trained=("dit",))
def dit(
    *, folder: str | None = None, transformer: str | None = None, vae: str | None = None,
    classes: str | None = None, steps: int | None = None, guidance: float | None = None,
    sampler: str | None = None, guided: int | None = None,
    torch_dtype: torch.dtype | str = torch.float32, device: torch.device | str = "cpu",
) -> DiTGenerator:  # fmt: skip
    """DiT by class: dit:folder=DIR, trained or of diffusers, or transformer=DIR,vae=DIR.

    folder: as saved or trained here, or laid out as facebook/DiT-XL-2-256, whose index names the
    classes. classes: a text file with their names, one a line; where none are known a text must be
    a class's index. steps, guidance, sampler (ddpm, ddim), guided: see `config.Defaults`; what is
    not given is the folder's own, or as published: 250 steps of ddpm at 4, the first 3 channels
    guided. Raises ValueError for parts that do not belong together, and for settings that cannot
    be.
    """
    folder_or_parts("dit", folder, {"transformer": transformer, "vae": vae})
    given: dict[str, Any] = {
        "steps": steps, "guidance": guidance, "sampler": sampler, "guided": guided,
        "classes": None if classes is None else read_names(classes)}  # fmt: skip
    changes = {key: value for key, value in given.items() if value is not None}
    if folder is None:
        parts = {"transformer": model_folder(str(transformer), "transformer"),
                 "vae": model_folder(str(vae), "vae")}  # fmt: skip
        return _published(parts, changes, torch_dtype, device)
    whole = model_folder(folder, "folder")
    index = read_json(whole / "model_index.json")
    if index.get("_class_name") != "DiTPipeline":
        return DiTGenerator.from_pretrained(whole, torch_dtype=torch_dtype, device=device,
                                            defaults=changes)  # fmt: skip
    parts = {name: whole / name for name in ("transformer", "vae")}
    return _published(parts, {"classes": _labels(index)} | changes, torch_dtype, device)


def _labels(index: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of classes in diffusers' index, in order; none where it has none. Raises
    ValueError for a gap."""
    names = {int(key): str(name) for key, name in (index.get("id2label") or {}).items()}
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"id2label of model_index.json must number the classes from 0 without "
                         f"gaps, given {sorted(names)[:3]} … {sorted(names)[-3:]}")  # fmt: skip
    return tuple(names[i] for i in range(len(names)))


def _published(
    parts: Mapping[str, Path], changes: dict[str, Any], torch_dtype: torch.dtype | str,
    device: torch.device | str,
) -> DiTGenerator:  # fmt: skip
    dtype = as_dtype(torch_dtype)
    networks: dict[str, Any] = {"transformer": _transformer(parts["transformer"]),
                                "vae": network_from(AutoencoderKL, parts["vae"])}  # fmt: skip
    channels = networks["vae"].config["latent_channels"]
    scaling = networks["vae"].config.get("scaling_factor") or SCALING
    for network in networks.values():
        nn.Module.to(network, device=device, dtype=dtype).eval()
    published = {"latent_mean": (0.0,) * channels, "latent_std": (1 / scaling,) * channels,
                 "guided": min(3, channels)}  # fmt: skip
    return DiTGenerator(**networks, defaults=Defaults(**published | changes))


def _transformer(folder: Path) -> nn.Module:
    """Of a folder whose config may call the class as diffusers did before DiT had its own."""
    config = read_json(folder / "config.json")
    if config.get("_class_name") != "Transformer2DModel":
        return network_from(DiTTransformer2DModel, folder)
    network: nn.Module = DiTTransformer2DModel.from_config(config)
    load_weights(network, folder / weights_file(DiTTransformer2DModel))
    return network
