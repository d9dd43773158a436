"""The edit "quantise": a transformer's linear layers in NF4, INT4 or INT8; no calibration, lossy.

Every `nn.Linear` is quantised, those of modulation, embedders and output too (the patch embedding
is a convolution, and stays), unless `skip` names it. What lies on disk is a stock folder: tensors,
names and `quantization_config` are those that diffusers writes with the same library, so it loads
there too (NF4 on a GPU only; INT4 computes there with torchao's GPU kernels only). Loading takes
the quantised tensors as they are. Bits a weight: quantisation.py; sources: nf4.py,
weight_only.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from impasto.models.edited.quantisation import (
    FORMATS,
    Quantisation,
    from_stock,
    stock_config,
)
from impasto.models.edited.record import edit
from impasto.models.edited.weight_only import GROUPS, Int4Linear, Int8Linear, WeightOnlyLinear
from impasto.zoo.convert import named
from impasto.zoo.registry import nearest
from impasto.zoo.weights import load_state, save_tensors

__all__ = ["Memory", "is_quantised", "load_quantised", "memory", "quantise", "restored",
           "save_quantised"]  # fmt: skip


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {path: m for path, m in model.named_modules() if isinstance(m, nn.Linear)}


def _named(path: str, name: str) -> bool:
    return f".{name}." in f".{path}."


def _layers(model: nn.Module, how: Quantisation) -> dict[str, nn.Linear]:
    """Path -> layer of what is to be quantised."""
    linears = _linears(model)
    for name in how.skip:
        if not any(_named(path, name) for path in linears):
            parts = sorted({part for path in linears for part in path.split(".")
                            if not part.isdecimal()})  # fmt: skip
            raise ValueError(f"skip: no linear layer has {name!r} in its path: "
                             f"{nearest(name, parts)}")  # fmt: skip
    chosen = {path: linear for path, linear in linears.items()
              if not any(_named(path, name) for name in how.skip)}  # fmt: skip
    if not chosen:
        raise ValueError(f"{type(model).__name__} has no linear layer to quantise"
                         + (f" beside skip {list(how.skip)}" if how.skip else ""))
    return chosen


def _group(layers: Mapping[str, nn.Linear], given: int | None) -> int:
    for group in (given,) if given else GROUPS:
        wrong = [path for path, linear in layers.items() if linear.in_features % group]
        if not wrong:
            return group
    raise ValueError(f"int4 in groups of {group}: {wrong[0]!r} has {layers[wrong[0]].in_features} "
                     f"inputs, which it does not divide ({len(wrong)} such layers); give another "
                     f"group of {GROUPS}, skip them, or use nf4 or int8")  # fmt: skip


def _packed(model: nn.Module) -> dict[str, Any]:
    """Path -> quantised layer."""
    return {path: m for path, m in model.named_modules() if hasattr(m, "restore")}


def is_quantised(model: nn.Module) -> bool:
    return bool(_packed(model))


@edit("quantise")
@torch.no_grad()
def quantise(model: nn.Module, values: Mapping[str, Any]) -> None:
    """Replace a model's linear layers in place by quantised ones.

    values: as of `Quantisation.to_edit`. On the meta device layers come without weights, for
    `load_quantised`. Raises ValueError for a missing library, a model that is quantised already,
    weights that are not finite, or options that do not fit.
    """
    how = Quantisation.from_edit(values)
    if is_quantised(model):
        raise ValueError(f"{type(model).__name__} is quantised already; give what it was made of")
    layers = _layers(model, how)
    for path, linear in layers.items():
        if not linear.weight.is_meta and not bool(torch.isfinite(linear.weight).all()):
            raise ValueError(f"{path!r} holds NaN or infinity; it must not be quantised")
    _replace(model, layers, how)


def _replace(model: nn.Module, layers: Mapping[str, nn.Linear], how: Quantisation) -> None:
    library = FORMATS[how.format]
    if find_spec(library) is None:
        raise ValueError(f"{how.format} needs {library}: pip install 'impasto[quantise]'")
    try:
        import_module(library)
    except ImportError as error:
        raise ValueError(f"{how.format} needs {library}, and what is installed of it does not "
                         f"load ({error}): pip install -U 'impasto[quantise]'") from error
    group = _group(layers, how.group) if how.format == "int4" else 0
    for path, linear in layers.items():
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, _quantised(linear, how, group))
    if hasattr(model, "register_to_config"):
        kept = [path for path in _linears(model) if path not in layers]
        config: Any = model
        config.register_to_config(quantization_config=stock_config(how, group, kept))


def _quantised(linear: nn.Linear, how: Quantisation, group: int) -> Any:
    if how.format == "int4":
        return Int4Linear(linear, how.dtype, group)
    if how.format == "int8":
        return Int8Linear(linear, how.dtype)
    from impasto.models.edited.nf4 import NF4Linear

    return NF4Linear(linear, how.dtype, how.doubled)


# -------------------------------------------------------------------------------- bytes


class Memory(NamedTuple):
    """Bytes of a model's parameters and buffers. weights: how many numbers the quantised layers
    stand for; packed: bytes of their codes, scales and tables; rest: bytes of all else (biases,
    norms, convolutions, what was skipped)."""

    weights: int
    packed: int
    rest: int

    @property
    def bits(self) -> float:
        """Bits a quantised weight."""
        return 8 * self.packed / self.weights

    @property
    def total(self) -> int:
        return self.packed + self.rest


def _bytes(tensors: list[Tensor]) -> int:
    """What tensors take, each piece of memory once."""
    pieces = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(pieces.values())


def memory(model: nn.Module) -> Memory:
    """Of a quantised model, or of a plain one (nothing packed, and `bits` is not to be asked)."""
    layers = [*_packed(model).values()]
    packed: list[Tensor] = [tensor for layer in layers for tensor in layer.parts()]
    own = {tensor.untyped_storage().data_ptr() for tensor in packed}
    rest = [t for t in [*model.parameters(), *model.buffers()]
            if t.untyped_storage().data_ptr() not in own]  # fmt: skip
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    return Memory(weights, _bytes(packed), _bytes(rest))


# -------------------------------------------------------------------------------- files


def save_quantised(model: nn.Module, path: str | Path, rest: torch.dtype | None = None) -> None:
    """Write a quantised model's tensors as diffusers does, in one safetensors file: those of
    quantised weights as they are, others in the dtype `rest` (None: their own)."""
    starts = tuple(_layers_by_start(model))
    state: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        casts = tensor.is_floating_point() and not key.startswith(starts)
        state[key] = tensor.to(rest) if casts else tensor
    metadata: dict[str, str] = {}
    ours = {name: m for name, m in model.named_modules() if isinstance(m, WeightOnlyLinear)}
    if ours:
        from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

        prefixes = tuple(f"{name}._weight_" for name in ours)
        plain = {key: tensor for key, tensor in state.items() if not key.startswith(prefixes)}
        stock = {f"{name}.weight": module.stock() for name, module in ours.items()}
        state, metadata = flatten_tensor_state_dict({**plain, **stock})
    save_tensors(path, state, metadata)


def _layers_by_start(model: nn.Module) -> dict[str, Any]:
    """How the names of a quantised weight's tensors begin -> its layer."""
    return {f"{name}._weight_" if isinstance(layer, WeightOnlyLinear) else f"{name}.weight": layer
            for name, layer in _packed(model).items()}  # fmt: skip


def restored(model: nn.Module, config: Mapping[str, Any], path: str | Path) -> None:
    """Quantise a model as `config` (a `quantization_config`) says, with the weights in a file."""
    how, kept = from_stock(config)
    layers = {name: linear for name, linear in _linears(model).items()
              if not any(name == key or f"{key}." in name for key in kept)}  # fmt: skip
    for linear in layers.values():
        # Nothing is to be quantised only to be thrown away.
        linear.weight = nn.Parameter(linear.weight.to("meta"), requires_grad=False)
    _replace(model, layers, how)
    load_quantised(model, path)


def load_quantised(model: nn.Module, path: str | Path) -> None:
    """Copy a file of `save_quantised` into a model that `quantise` made of the same structure.

    Raises ValueError for tensors that are missing, unexpected or of another shape or format.
    """
    state, layers = load_state(path), _layers_by_start(model)
    rest = {key: tensor for key, tensor in model.state_dict().items()
            if not key.startswith(tuple(layers))}  # fmt: skip
    device = next((tensor.device for tensor in rest.values() if not tensor.is_meta), "cpu")
    for start, layer in layers.items():
        name = start.rpartition(".")[0]
        own = {key.removeprefix(f"{name}."): state.pop(key).to(device)
               for key in list(state) if key.startswith(start)}  # fmt: skip
        try:
            layer.restore(own)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: {name!r}: {error}") from error
    missing, unexpected = sorted({*rest} - {*state}), sorted({*state} - {*rest})
    wrong = [key for key in rest if key in state and state[key].shape != rest[key].shape]
    if missing or unexpected or wrong:
        told = [f"{what} {named(keys)}" for what, keys in (
            ("missing keys", missing), ("unexpected keys", unexpected), ("other shapes of", wrong),
        ) if keys]  # fmt: skip
        raise ValueError(f"{path} does not fit {type(model).__name__}: {', '.join(told)}")
    # What is on the meta device has no memory to copy into.
    model.load_state_dict(state, strict=False, assign=any(t.is_meta for t in rest.values()))
