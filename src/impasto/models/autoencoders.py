"""The one way to load what takes pictures to latents or tokens and back.

    NAME        of `TOKENIZERS`: what ships ('impasto ls tokenizers')
    FOLDER      of diffusers' AutoencoderKL or VQModel; of a tokenizer of codes (`OWN`); of a
                generator of either kind, whose `vae/` it is; of a next-scale generator
    OWNER/NAME  the same on the hub; safetensors only

What it then offers: `models.reconstruct`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL, VQModel
from torch import nn

from impasto.files import sha256_file
from impasto.models import FAMILIES
from impasto.models.layton import LaytonTokenizer
from impasto.models.next_scale.pipeline import NextScaleGenerator
from impasto.models.next_scale.reconstruct import BitAutoencoder, ScaleAutoencoder
from impasto.models.reconstruct import (
    Autoencoder,
    CodeAutoencoder,
    LatentAutoencoder,
    QuantisedAutoencoder,
    Reconstruction,
)
from impasto.models.shrunk import ShrunkAutoencoder
from impasto.models.storage import network_from, read_json
from impasto.models.tokenflow import TokenFlowTokenizer
from impasto.models.vq import VQTokenizer
from impasto.score.trained import check_keys
from impasto.zoo.hub import fetched, model_folder
from impasto.zoo.registry import TOKENIZERS, nearest
from impasto.zoo.weights import holds_int8, load_weights, shipped_folder, weights_digest

__all__ = ["CLASSES", "OWN", "Autoencoder", "Reconstruction", "load_autoencoder"]

CLASSES: Mapping[str, Any] = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
"""Classes of diffusers that a folder's config may name."""
OWN: Mapping[str, Any] = {"LaytonTokenizer": LaytonTokenizer, "VQTokenizer": VQTokenizer,
                          "TokenFlowTokenizer": TokenFlowTokenizer}  # fmt: skip
"""Our own, each a `models.discrete.DiscreteTokenizer`."""
SCALED = {"InfinityTokenizer": BitAutoencoder, "VARTokenizer": ScaleAutoencoder}
"""Classes of a next-scale generator's tokenizer, which without it do not know their scales."""
SEVERAL = "LaytonTokenizer"
"""Made of several networks, an autoencoder among them; it has no file of weights of its own."""
FILE = "diffusion_pytorch_model.safetensors"
PARTS = ("vae", "vqvae")
"""Where a generator's folder keeps its autoencoder."""


@TOKENIZERS.register("sticker-mmdit", trained=("autoencoder",))
def _sticker_mmdit(*, device: str | torch.device = "cpu") -> Autoencoder:
    """The world's KL autoencoder: 8 px a latent of 16 channels, no ids."""
    return _loaded(shipped_folder("sticker-mmdit"), "sticker-mmdit", device)


@TOKENIZERS.register("sticker-infinity", trained=("infinity-tokenizer",))
def _sticker_infinity(*, device: str | torch.device = "cpu") -> Autoencoder:
    """The world's bits, 24 a place, of several scales up to 8 px a place."""
    return _loaded(shipped_folder("sticker-infinity"), "sticker-infinity", device)


@TOKENIZERS.register("shrunk", published=True, trained=("vq-tokenizer",))
def shrunk(*, folder: str, side: int, device: str | torch.device = "cpu") -> ShrunkAutoencoder:
    """Another tokenizer of one codebook on small copies: shrunk:folder=DIR,side=64.

    side: pixels a side of the copy, enlarged again after. Raises ValueError.
    """
    made = _own(VQTokenizer, Path(folder), folder, device)
    return ShrunkAutoencoder(made.model, side, made.name, made.sha256)


@TOKENIZERS.register("layton", published=True, trained=("layton-alignment", "layton-pixels"))
def layton(
    *, folder: str, decoding: str | None = None, steps: int | None = None,
    first: int | None = None, accelerated: bool | None = None, scale: float | None = None,
    tokens_side: int | None = None, image: int | None = None, device: str | torch.device = "cpu",
) -> CodeAutoencoder:  # fmt: skip
    """Layton's, 256 ids for 1024 px, decoded by a diffusion: folder=DIR,decoding=ddim,steps=25.

    decoding: a name of `layton.DECODINGS`, or else what the folder's decoder was trained for;
    steps, first, accelerated and scale change what they name. tokens_side, image: see
    `LaytonTokenizer.settle`. Raises ValueError.
    """
    made = _own(LaytonTokenizer, Path(folder), folder, device)
    model: Any = made.model
    chosen = model.decoding.changed(decoding, steps=steps, first=first, accelerated=accelerated,
                                    scale=scale)  # fmt: skip
    model.settle(decoding=chosen, image=image, tokens_side=tokens_side)
    made.factor = model.factor
    return made


@TOKENIZERS.register("tokenflow", published=True, trained=("tokenflow-tokenizer",))
def tokenflow(*, folder: str, device: str | torch.device = "cpu") -> CodeAutoencoder:
    """TokenFlow's, meaning and looks under one id, of several scales: folder=DIR.

    folder: of the tokenizer, or of a generator with one. Raises ValueError for another.
    """
    return _of_class("TokenFlowTokenizer", folder, device)


@TOKENIZERS.register("vq", published=True, trained=("vq-tokenizer",))
def vq(*, folder: str, device: str | torch.device = "cpu") -> CodeAutoencoder:
    """What they are compared with, one codebook or FSQ's grid on one map: folder=DIR.

    folder: of the tokenizer, or of a generator with one. Raises ValueError for another.
    """
    return _of_class("VQTokenizer", folder, device)


def _of_class(kind: str, folder: str, device: str | torch.device) -> CodeAutoencoder:
    made = _loaded(model_folder(folder, "folder"), folder, device)
    if not isinstance(made, CodeAutoencoder) or type(made.model) is not OWN[kind]:
        raise ValueError(f"{folder} does not hold a {kind}; give its path alone for what it holds")
    return made


def _own(kind: Any, folder: Path, name: str, device: str | torch.device) -> CodeAutoencoder:
    """A tokenizer of one file of weights, or of several networks."""
    model: Any = network_from(kind, folder)
    nn.Module.to(model, device=device, dtype=torch.float32)
    weights = folder / FILE
    sha256 = sha256_file(weights) if weights.is_file() else weights_digest({"": model})
    return CodeAutoencoder(model, name, sha256)


def _next_scale(folder: Path, name: str, device: str | torch.device) -> ScaleAutoencoder | None:
    """The tokenizer of a folder that holds a next-scale generator; None of another, and of one
    whose tokenizer knows its scales itself."""
    index = folder / "model_index.json"
    family: Any = FAMILIES.get(str(read_json(index).get("_class_name"))) if index.is_file() else ""
    if not (isinstance(family, type) and issubclass(family, NextScaleGenerator)):
        return None
    kind = SCALED.get(family.LAYOUT.networks["vae"].__name__)
    if kind is None:
        return None
    generator = family.from_pretrained(folder, device=device)
    return kind(generator, name, sha256_file(folder / "vae" / FILE))


def _found(name: str) -> Path:
    """The folder called so: a path, weights that ship, or a hub id's in the local cache."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    try:
        return shipped_folder(name)
    except FileNotFoundError as error:
        if name.count("/") != 1 or name.startswith((".", "/")):
            raise ValueError(f"unknown tokenizer {name!r}, and no folder either: "
                             f"{nearest(name, list(TOKENIZERS))}") from error  # fmt: skip
    wanted = [f"{part}{file}" for part in ("", *(f"{p}/" for p in PARTS))
              for file in ("config.json", FILE)]  # fmt: skip
    return fetched(name, wanted, f"{name!r} is neither a folder nor a model that can be had from "
                                 f"the hub")  # fmt: skip


def _class_of(folder: Path) -> str:
    """What a folder's config names, "" where there is none."""
    config = folder / "config.json"
    return str(read_json(config).get("_class_name", "")) if config.is_file() else ""


def _kind(folder: Path) -> str:
    """The class that a folder's config names. Raises ValueError for one that is not ours to
    load."""
    kind = str(read_json(folder / "config.json").get("_class_name"))
    if kind in SCALED:
        raise ValueError(f"{folder} holds a {kind} alone, and its scales are its generator's: "
                         f"give the generator's folder")  # fmt: skip
    if kind not in CLASSES and kind not in OWN:
        raise ValueError(f"{folder} holds a {kind}; allowed: {', '.join([*CLASSES, *OWN])}, and "
                         f"folders of generators with one of them or of a next-scale family"
                         )  # fmt: skip
    return kind


def _diffusers_model(kind: str, folder: Path, device: str | torch.device) -> Any:
    """One of `CLASSES`, float32."""
    weights = folder / FILE
    if holds_int8(weights):
        model = CLASSES[kind].from_config(read_json(folder / "config.json"))
        load_weights(model, weights)
    else:
        # diffusers' own loading knows the names that older files have.
        model, found = CLASSES[kind].from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True,
            low_cpu_mem_usage=False,
        )  # fmt: skip
        check_keys(found, weights, harmless=lambda key: False)
    return nn.Module.to(model, device=device, dtype=torch.float32)


def _loaded(folder: Path, name: str, device: str | torch.device) -> Autoencoder:
    if (tokenizer := _next_scale(folder, name, device)) is not None:
        return tokenizer
    inner = [folder / part for part in PARTS if (folder / part / "config.json").is_file()]
    if inner and _class_of(folder) not in OWN:
        folder = inner[0]
    kind, weights = _kind(folder), folder / FILE
    if kind != SEVERAL and not weights.is_file():
        raise FileNotFoundError(f"{weights} is missing; weights are read from safetensors only")
    if kind in OWN:
        return _own(OWN[kind], folder, name, device)
    sha256 = sha256_file(weights)
    wrapped = LatentAutoencoder if kind == "AutoencoderKL" else QuantisedAutoencoder
    return wrapped(_diffusers_model(kind, folder, device), name, sha256)


def load_autoencoder(
    name_or_path: str | Path, *, device: str | torch.device = "cpu"
) -> Autoencoder:
    """What `name_or_path` is called by (above); float32.

    Raises ValueError or FileNotFoundError for what is none, for another class, and for weights
    that are missing or do not fit.
    """
    name = str(name_or_path)
    kind, options, _ = name.partition(":")
    # A bare name that cannot do without options may well be a folder's.
    if kind in TOKENIZERS and (options or not TOKENIZERS.needs(kind) or not Path(name).is_dir()):
        return TOKENIZERS.create(name, device=device)
    return _loaded(_found(name), name, device)
