"""A reader's folder, and the judge that is in one.

    projector/  lm/  tokenizer/     lm: a causal language model of transformers
    vae/                            of a reader of codes
    reader.json                     chat, what the features are, the tokenizer's digest; goes last
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from impasto import files
from impasto.models import storage
from impasto.models.discrete import check_digest
from impasto.models.tokenflow.reader import (
    CodeFeatures,
    Features,
    Projector,
    Reader,
    ReaderNetwork,
)
from impasto.models.tokenflow.tokenizer import TokenFlowTokenizer
from impasto.zoo.hub import model_folder
from impasto.zoo.registry import JUDGES, PATCHES
from impasto.zoo.weights import as_dtype, load_weights, lossless_format

__all__ = ["load_reader", "reader", "save_reader"]

KEYS = ("chat", "features", "tokens")


def save_reader(reader: Reader, folder: str | Path, format: str = "bfloat16") -> None:
    """Write a reader; format: "float32", "bfloat16" or "int8", of what was trained. Its tokenizer
    keeps every number, so that codes are those that it learnt from."""
    folder, network, digest = Path(folder), reader.network, None
    storage.save_network(network.projector, folder / "projector", format)
    storage.save_network(network.lm, folder / "lm", format)
    reader.tokenizer.save_pretrained(folder / "tokenizer")
    if isinstance(reader.features, CodeFeatures):
        vae = reader.features.vae
        storage.save_network(vae, folder / "vae", lossless_format(vae.state_dict()))
        digest = _vae(folder / "vae").token_digest()
    name = getattr(reader.features, "name", "")
    files.write_json(folder / "reader.json", {"chat": reader.chat, "features": name,
                                              "tokens": digest})  # fmt: skip


def _vae(folder: Path) -> Any:
    return storage.network_from(TokenFlowTokenizer, folder).eval()


def _lm(folder: Path) -> Any:
    lm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    load_weights(lm, folder / "model.safetensors")
    return lm.eval()


def _settings(folder: Path) -> dict[str, Any]:
    values = storage.read_json(folder / "reader.json")
    if set(values) != set(KEYS):
        raise ValueError(f"{folder / 'reader.json'} must have the keys {sorted(KEYS)}; given: "
                         f"{sorted(values)}")  # fmt: skip
    return values


def load_reader(
    folder: str | Path, *, features: Features | None = None, vae: str | Path | None = None,
    torch_dtype: torch.dtype | str = torch.float32, device: torch.device | str = "cpu",
) -> Reader:  # fmt: skip
    """What `save_reader` wrote. features: of a reader of other things than codes. vae: folder of
    the tokenizer, where it is not in the reader's. Raises ValueError for what does not fit."""
    folder, dtype = Path(folder), as_dtype(torch_dtype)
    values = _settings(folder)
    if values["features"] == "codes" and features is None:
        own = _vae(Path(vae or folder / "vae"))
        check_digest(values["tokens"], own, f"the reader in {folder}")
        features = CodeFeatures(nn.Module.to(own, device=device, dtype=dtype))
    elif features is None:
        raise ValueError(f"the reader in {folder} reads {values['features']!r}, which are not in "
                         f"its folder; give features=…")  # fmt: skip
    elif (name := getattr(features, "name", "")) != values["features"]:
        raise ValueError(f"the reader in {folder} reads {values['features']!r}, given {name!r}; "
                         f"give the features that it was trained on")  # fmt: skip
    projector: Any = storage.network_from(Projector, folder / "projector").eval()
    network = ReaderNetwork(projector, _lm(folder / "lm")).to(device=device, dtype=dtype)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    return Reader(network, features, tokenizer, chat=values["chat"], name=folder.name)


@JUDGES.register("reader")
def reader(path: str, features: str = "", *, device: str = "cpu") -> Reader:
    """A reader of pictures: path=FOLDER; features=clip-patches for one that reads no codes.

    features: a name of 'impasto ls patches'. Errors: those of `load_reader`.
    """
    import impasto.score.features  # noqa: F401 - registers patch features

    dtype = "bfloat16" if str(device).startswith("cuda") else "float32"
    given = PATCHES.create(features, device=device) if features else None
    return load_reader(model_folder(path, "path"), features=given, torch_dtype=dtype,
                       device=device)  # fmt: skip
