"""Autoencoders of diffusers, tokenizers of codes and those of next-scale families, as what
reconstructs pictures: the one way to load any.

A KL autoencoder's latent is its posterior's mode, so a reconstruction has no noise of its own. A
vector-quantised one (VQModel) also tells its codes. The tokenizer of a next-scale generator
(`sticker-infinity`, or a folder of its family) goes through the tokens of all its scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.models import AutoencoderKL, VQModel
from torch import Tensor, nn

from impasto.files import sha256_file
from impasto.models import FAMILIES
from impasto.models.discrete import DiscreteTokenizer
from impasto.models.layton import DECODINGS, LaytonTokenizer
from impasto.models.next_scale.pipeline import NextScaleGenerator
from impasto.models.storage import network_from, read_json, weights_digest
from impasto.models.tokenflow import TokenFlowTokenizer
from impasto.models.vq import VQTokenizer
from impasto.sample.rowwise import in_rows
from impasto.score.trained import check_keys
from impasto.zoo.hub import fetched
from impasto.zoo.registry import Registry, nearest
from impasto.zoo.weights import holds_int8, load_weights, shipped_folder

__all__ = ["CLASSES", "OWN", "WITH_SETTINGS", "Autoencoder", "CodeAutoencoder", "Reconstruction",
           "ScaleAutoencoder", "load_autoencoder"]  # fmt: skip

CLASSES: Mapping[str, Any] = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
"""Classes of diffusers that a folder's config may name."""
OWN: Mapping[str, Any] = {"LaytonTokenizer": LaytonTokenizer, "VQTokenizer": VQTokenizer,
                          "TokenFlowTokenizer": TokenFlowTokenizer}  # fmt: skip
"""Our own."""
FILE = "diffusion_pytorch_model.safetensors"
PARTS = ("vae", "vqvae")
"""Where a generator's folder keeps its autoencoder."""


class Reconstruction(NamedTuple):
    """images: (B, 3, H, W) in [0, 1]. codes: (B, n) int64 of a vector-quantised one, else None."""

    images: Tensor
    codes: Tensor | None


class Autoencoder:
    """name: what it is called in records. sha256: of its weights."""

    def __init__(self, model: Any, name: str = "", sha256: str = "") -> None:
        """model: an instance of one of `CLASSES`."""
        self.model = model.eval().requires_grad_(False)
        self.name, self.sha256 = name, sha256
        self.config: Mapping[str, Any] = model.config
        self.factor = 2 ** (len(self.config["block_out_channels"]) - 1)
        codes = isinstance(model, VQModel)
        self.codebook_size: int | None = self.config["num_vq_embeddings"] if codes else None

    @torch.inference_mode()
    def reconstruct(self, images: Tensor) -> Reconstruction:
        """Pictures (B, 3, H, W) in [0, 1] through the latents and back, on the CPU.

        On a CPU one row at a time, so that a picture's result does not depend on its neighbours.
        Raises ValueError when a side is not a multiple of the autoencoder's factor, and for
        results that are not as large as what went in.
        """
        if images.shape[-1] % self.factor or images.shape[-2] % self.factor:
            raise ValueError(f"this autoencoder takes pictures whose sides are multiples of "
                             f"{self.factor} pixels, not {images.shape[-1]} x {images.shape[-2]}; "
                             f"crop them (--size)")  # fmt: skip
        parameter = next(self.model.parameters())
        x = (2 * images - 1).to(parameter)
        codes: list[Tensor] = []

        def rows(at: slice) -> Tensor:
            if self.codebook_size is None:
                return self.model.decode(self.model.encode(x[at]).latent_dist.mode()).sample
            z = self.model.encode(x[at]).latents
            found = self.model.quantize(z)[2][2]
            codes.append(found.reshape(len(z), -1).cpu())
            return self.model.decode(z).sample

        out = in_rows(rows, len(x), 1 if parameter.device.type == "cpu" else None)
        if out.shape != images.shape:
            raise ValueError(f"the autoencoder made {tuple(out.shape)} of {tuple(images.shape)}: "
                             f"its pictures are not the size of the originals")  # fmt: skip
        return Reconstruction((out.float() / 2 + 0.5).clamp(0, 1).cpu(),
                              torch.cat(codes) if codes else None)  # fmt: skip

    def provenance(self) -> dict[str, Any]:
        return {"name": self.name, "class": type(self.model).__name__, "sha256": self.sha256,
                "factor": self.factor, "latent_channels": self.config["latent_channels"],
                "codebook_size": self.codebook_size,
                "latent": "mode" if self.codebook_size is None else "nearest code"}  # fmt: skip


class CodeAutoencoder(Autoencoder):
    """A tokenizer of codes (`models.discrete`), by all maps that a picture has."""

    def __init__(self, model: DiscreteTokenizer, name: str = "", sha256: str = "") -> None:
        self.model = model.eval().requires_grad_(False)
        self.name, self.sha256, self.config = name, sha256, model.config
        self.factor, self.codebook_size = 1, model.vocabulary

    @torch.inference_mode()
    def reconstruct(self, images: Tensor) -> Reconstruction:
        """As `Autoencoder.reconstruct`; codes: of all maps, one after another."""
        parameter = next(self.model.parameters())
        sizes, codes = self.model.sizes_of(images.shape[2], images.shape[3]), []
        x = images.to(parameter.device)

        def rows(at: slice) -> Tensor:
            ids = self.model.encode(x[at])
            codes.append(torch.cat(ids, dim=1).cpu())
            return self.model.decode_tokens(ids, sizes)

        out = in_rows(rows, len(x), 1 if parameter.device.type == "cpu" else None)
        return Reconstruction(out.cpu(), torch.cat(codes))

    def provenance(self) -> dict[str, Any]:
        return {"name": self.name, "class": type(self.model).__name__, "sha256": self.sha256,
                "factor": self.model.factor, "codebook_size": self.codebook_size,
                "tokens": self.model.token_digest(), "latent": "codes of all maps",
                **self.model.settings}  # fmt: skip


class ScaleAutoencoder(Autoencoder):
    """The tokenizer of a next-scale generator; pictures must have the generator's own size."""

    def __init__(self, generator: NextScaleGenerator, name: str, sha256: str) -> None:
        self.model = generator.vae.eval().requires_grad_(False)
        self.name, self.sha256, self.config = name, sha256, self.model.config
        self.sizes, self.factor = generator.square_sizes, self.model.stride
        self.size = generator.default_size()
        self.codebook_size = None

    @torch.inference_mode()
    def reconstruct(self, images: Tensor) -> Reconstruction:
        """As `Autoencoder.reconstruct`. codes: None; bits and residual tokens have no one use."""
        if tuple(images.shape[-2:]) != self.size:
            raise ValueError(f"this tokenizer takes pictures of {self.size[1]} x {self.size[0]} "
                             f"pixels, not {images.shape[-1]} x {images.shape[-2]}; crop them "
                             f"(--size)")  # fmt: skip
        parameter = next(self.model.parameters())
        x = images.to(parameter.device)

        def rows(at: slice) -> Tensor:
            return self.model.decode_tokens(self.model.encode(x[at], self.sizes), self.sizes)

        out = in_rows(rows, len(x), 1 if parameter.device.type == "cpu" else None)
        return Reconstruction(out.cpu(), None)

    def provenance(self) -> dict[str, Any]:
        return {"name": self.name, "class": type(self.model).__name__, "sha256": self.sha256,
                "factor": self.factor, "sizes": [list(size) for size in self.sizes],
                "latent": "tokens of all scales"}  # fmt: skip


WITH_SETTINGS: Registry[CodeAutoencoder] = Registry("autoencoder with settings")
"""Asked for as layton:folder=DIR,decoding=ddim."""


@WITH_SETTINGS.register("layton")
def layton(
    *, folder: str, device: str | torch.device, decoding: str = "tlcm", steps: int | None = None,
    first: int | None = None, accelerated: bool | None = None, scale: float | None = None,
    tokens_side: int | None = None, image: int | None = None,
) -> CodeAutoencoder:  # fmt: skip
    """Layton's tokenizer, decoded in one of its ways.

    decoding: a name of `layton.DECODINGS`, of which steps, first, accelerated and scale change
    what they name. tokens_side, image: see `LaytonTokenizer.settle`. Raises ValueError.
    """
    if decoding not in DECODINGS:
        raise ValueError(f"decoding {decoding!r}: {nearest(decoding, list(DECODINGS))}")
    given = {"steps": steps, "first": first, "accelerated": accelerated, "scale": scale}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    made = _own(LaytonTokenizer, Path(folder), folder, device)
    made.model.settle(decoding=replace(DECODINGS[decoding], **changes), image=image,
                      tokens_side=tokens_side)  # fmt: skip
    return made


def _own(kind: Any, folder: Path, name: str, device: str | torch.device) -> CodeAutoencoder:
    """A tokenizer of one file of weights, or of several networks."""
    model: Any = network_from(kind, folder)
    nn.Module.to(model, device=device, dtype=torch.float32)
    weights = folder / FILE
    sha256 = sha256_file(weights) if weights.is_file() else weights_digest({"": model})
    return CodeAutoencoder(model, name, sha256)


def _next_scale(name_or_path: str, device: str | torch.device) -> ScaleAutoencoder | None:
    """The tokenizer of a folder or name that holds a next-scale generator; None of another."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        try:
            folder = shipped_folder(name_or_path)
        except FileNotFoundError:
            return None
    index = folder / "model_index.json"
    family: Any = FAMILIES.get(str(read_json(index).get("_class_name"))) if index.is_file() else ""
    if not (isinstance(family, type) and issubclass(family, NextScaleGenerator)):
        return None
    generator = family.from_pretrained(folder, device=device)
    return ScaleAutoencoder(generator, name_or_path, sha256_file(folder / "vae" / FILE))


def _found(name_or_path: str) -> Path:
    """The folder with the autoencoder's config.json."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        try:
            folder = shipped_folder(name_or_path)
        except FileNotFoundError as error:
            folder = _download(name_or_path, error)
    config = folder / "config.json"
    if config.is_file() and read_json(config).get("_class_name") in OWN:
        return folder  # which may hold an autoencoder among its parts
    inner = [folder / part for part in PARTS if (folder / part / "config.json").is_file()]
    return inner[0] if inner else folder


def _download(name: str, error: Exception) -> Path:
    """A hub id's config and safetensors, from the cache where they are there."""
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ValueError(str(error)) from error
    wanted = [f"{part}{file}" for part in ("", *(f"{p}/" for p in PARTS))
              for file in ("config.json", FILE)]  # fmt: skip
    return fetched(name, wanted, f"{name!r} is neither a folder nor a model that can be had from "
                                 f"the hub")  # fmt: skip


def load_autoencoder(
    name_or_path: str | Path, *, device: str | torch.device = "cpu"
) -> Autoencoder:
    """The autoencoder in a folder of diffusers', in a generator's `vae/` (a folder, or the name of
    what ships), of a hub id, or one of `WITH_SETTINGS`; float32.

    Raises ValueError or FileNotFoundError for what is none, for another class than `CLASSES`, and
    for weights that are missing or do not fit.
    """
    if str(name_or_path).partition(":")[0] in WITH_SETTINGS:
        return WITH_SETTINGS.create(str(name_or_path), device=device)
    if (tokenizer := _next_scale(str(name_or_path), device)) is not None:
        return tokenizer
    folder = _found(str(name_or_path))
    config = read_json(folder / "config.json")
    kind = str(config.get("_class_name"))
    if kind not in CLASSES and kind not in OWN:
        raise ValueError(f"{folder} holds a {kind}; autoencoders that can be measured: "
                         f"{', '.join([*CLASSES, *OWN])}")  # fmt: skip
    weights = folder / FILE
    if not weights.is_file() and kind != "LaytonTokenizer":
        raise FileNotFoundError(f"{weights} is missing; weights are read from safetensors only")
    if kind in OWN:
        return _own(OWN[kind], folder, str(name_or_path), device)
    if holds_int8(weights):
        model = CLASSES[kind].from_config(config)
        load_weights(model, weights)
    else:
        # diffusers' own loading knows the names that older files have.
        model, found = CLASSES[kind].from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True,
            low_cpu_mem_usage=False,
        )  # fmt: skip
        check_keys(found, weights, harmless=lambda key: False)
    nn.Module.to(model, device=device, dtype=torch.float32)
    return Autoencoder(model, str(name_or_path), sha256_file(weights))
