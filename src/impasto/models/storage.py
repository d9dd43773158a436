"""A generator's folder, laid out as diffusers lays out a pipeline:

    model_index.json     {"_class_name": the family's, component: [library, class], ...}
    config.json          the family's sampling defaults
    NETWORK/             config.json, and diffusion_pytorch_model.safetensors of diffusers' kind of
                         class (our own too), model.safetensors of transformers'. An edited
                         network's config.json says so (models/edited/record.py)
    tokenizer/           tokenizer.json, tokenizer_config.json, where the family reads text by one

Classes are never looked up by name: the index must name exactly those of the family's `Layout`.
Float files are readable by the libraries' own `from_pretrained`; int8 ones by
`impasto.zoo.weights` only.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import PreTrainedTokenizerFast

from impasto import files
from impasto.models.edited.quantised import restored, save_quantised
from impasto.models.edited.record import rebuild
from impasto.zoo.weights import as_dtype, load_weights, save_weights

__all__ = ["Layout", "checked_fields", "load_components", "network_from", "read_json",
           "save_components", "save_network", "weights_file"]  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """What a family's folder holds. family: the generator's class name. networks: folder -> class
    of diffusers' kind or transformers', or several of which it may be any (a tuple). tokenizer:
    whether it reads text by one."""

    family: str
    networks: Mapping[str, Any]
    tokenizer: bool = True

    @property
    def index(self) -> dict[str, list[str]]:
        """Component -> [library, class], as in model_index.json."""
        networks = {name: _index_of(kind) for name, kind in self.networks.items()}
        if not self.tokenizer:
            return networks
        # By its public name: the class calls itself otherwise in some versions of transformers.
        return networks | {"tokenizer": ["transformers", "PreTrainedTokenizerFast"]}

    def of(self, components: Mapping[str, Any]) -> Layout:
        """With the classes that these components have, where there are several."""
        return replace(self, networks={
            name: type(components[name]) if isinstance(kinds, tuple) else kinds
            for name, kinds in self.networks.items()})  # fmt: skip

    def read_from(self, folder: Path) -> Layout:
        """With the classes that a folder's index names. Raises ValueError for any others."""
        index = read_json(folder / "model_index.json")
        chosen: dict[str, Any] = {}
        for name, kinds in self.networks.items():
            known = kinds if isinstance(kinds, tuple) else (kinds,)
            chosen[name] = next((k for k in known if _index_of(k) == index.get(name)), None)
            if chosen[name] is None:
                allowed = " or ".join(str(_index_of(kind)) for kind in known)
                raise ValueError(f"{folder / 'model_index.json'}: {name!r} must be {allowed}, not "
                                 f"{index.get(name)}")  # fmt: skip
        found = replace(self, networks=chosen)
        if self.tokenizer and index.get("tokenizer") != found.index["tokenizer"]:
            raise ValueError(f"{folder / 'model_index.json'}: 'tokenizer' must be "
                             f"{found.index['tokenizer']}, not {index.get('tokenizer')}"
                             )  # fmt: skip
        return found


def _index_of(kind: Any) -> list[str]:
    return [kind.__module__.partition(".")[0], kind.__name__]


def checked_fields(cls: Any, values: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The values of config.json for the dataclass `cls`, lists as tuples.

    model: "a var model", for messages. Raises ValueError naming unknown or missing keys.
    """
    known = {field.name for field in fields(cls)}
    if set(values) != known:
        raise ValueError(f"config.json of {model} must have the keys {sorted(known)}; given: "
                         f"{sorted(values)}")  # fmt: skip
    return {key: tuple(value) if isinstance(value, list) else value
            for key, value in values.items()}  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises FileNotFoundError or ValueError naming the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {path.parent} is not a whole model folder")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, not a {type(values).__name__}")
    return values


def _like_diffusers(kind: Any) -> bool:
    return issubclass(kind, ConfigMixin)


def weights_file(kind: Any) -> str:
    """The name of a network's file of weights, of a class."""
    return ("diffusion_pytorch_model" if _like_diffusers(kind) else "model") + ".safetensors"


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Modules that are built within have their parameters on the meta device and their buffers in
    memory: the large edited models never are in memory with weights that are thrown away."""
    def empty(_: nn.Module, __: str, parameter: nn.Parameter | None) -> Any:
        return None if parameter is None else nn.Parameter(parameter.to("meta"))

    handle = register_module_parameter_registration_hook(empty)
    try:
        yield
    finally:
        handle.remove()


def network_from(kind: Any, folder: Path) -> nn.Module:
    """A network of class `kind` with the configuration and the weights in `folder`.

    A class that has `from_parts` reads them itself. An edited network has the dtype of its file,
    others are in float32. Raises FileNotFoundError for what is missing,
    ValueError for what does not fit.
    """
    if hasattr(kind, "from_parts"):
        return kind.from_parts(folder)
    config = read_json(folder / "config.json")
    if _like_diffusers(kind):
        if (found := config.get("_class_name", kind.__name__)) != kind.__name__:
            raise ValueError(f"{folder} holds a {found}, and a {kind.__name__} is wanted there: "
                             f"give that of the model")  # fmt: skip
        edits, base = config.pop("edits", None), config.pop("edits_base", None)
        if edits is None:
            network = kind.from_config(config)
        else:
            with without_weights():
                network = kind.from_config(config)
                rebuild(network, edits, base)
    else:
        network = kind(kind.config_class.from_dict(config))
    if "quantization_config" in config:
        restored(network, config["quantization_config"], folder / weights_file(kind))
    else:
        load_weights(network, folder / weights_file(kind))
    return network


def save_network(network: Any, folder: Path, format: str) -> None:
    """Write a network's configuration and its weights in one of `impasto.zoo.weights.FORMATS`; one
    that has `save_parts` writes them itself. Weights that are quantised stay as they are."""
    if hasattr(network, "save_parts"):
        network.save_parts(folder, format)
        return
    if _like_diffusers(type(network)):
        network.save_config(folder)
        if record := getattr(network, "surgery", None):
            files.write_json(folder / "surgery.json", record)
    else:
        network.config.save_pretrained(folder)
    path = folder / weights_file(type(network))
    if _like_diffusers(type(network)) and "quantization_config" in network.config:
        save_quantised(network, path, as_dtype("float32" if format == "float32" else "bfloat16"))
        return
    save_weights(path, network.state_dict(), format)


def save_components(
    folder: Path, layout: Layout, components: Mapping[str, Any], *, defaults: Mapping[str, Any],
    formats: Mapping[str, str],
) -> None:  # fmt: skip
    """Write everything; the index goes last, so a folder that has one is whole."""
    for name in layout.networks:
        save_network(components[name], folder / name, formats[name])
    if layout.tokenizer:
        components["tokenizer"].save_pretrained(folder / "tokenizer")
    files.write_json(folder / "config.json", dict(defaults))
    index = layout.of(components).index
    files.write_json(folder / "model_index.json", {"_class_name": layout.family} | index)


def load_components(
    folder: Path, layout: Layout, dtype: torch.dtype, device: torch.device | str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The components, in evaluation mode, and what config.json says. Raises ValueError on any
    misfit."""
    layout = layout.read_from(folder)
    components: dict[str, Any] = {}
    for name, kind in layout.networks.items():
        network = network_from(kind, folder / name)
        # Not diffusers' own `to`: it warns of modules to keep in float32 even when there are none.
        components[name] = nn.Module.to(network, device=device, dtype=dtype).eval()
    if layout.tokenizer:
        components["tokenizer"] = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    return components, read_json(folder / "config.json")
