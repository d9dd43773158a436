"""The edit "quantise": a transformer's linear layers in NF4, INT4 or INT8; no calibration, lossy.

    nf4    4 + 32/64 = 4.5 bits a weight; 4 + 8/64 + 32/(64·256) = 4.127 with double quantisation
    int4   4 + 32/g, g the group: 4.25, 4.5 or 5
    int8   8 + 32/I, I the layer's inputs

Every `nn.Linear` is quantised, those of modulation, embedders and output too (the patch embedding
is a convolution, and stays), unless `skip` names it. What lies on disk is a stock folder: tensors,
names and `quantization_config` are those that diffusers writes with the same library, so it loads
there too (NF4 on a GPU only; INT4 computes there with torchao's GPU kernels only). Loading takes
the quantised tensors as they are. Sources: nf4.py, weight_only.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from impasto.models.edited.weight_only import GROUPS, Int4Linear, Int8Linear, WeightOnlyLinear
from impasto.models.storage import as_dtype
from impasto.zoo.registry import nearest
from impasto.zoo.weights import load_state, save_tensors

__all__ = ["FORMATS", "Memory", "Quantisation", "is_quantised", "layer_bytes", "load_quantised",
           "memory", "quantise", "save_quantised"]  # fmt: skip

FORMATS = {"nf4": "bitsandbytes", "int4": "torchao", "int8": "torchao"}
"""Format -> the library that it needs."""


@dataclass(frozen=True)
class Quantisation:
    """How weights are quantised.

    compute: the dtype of products, and what weights are rounded to first: bfloat16, float16 or
    float32; int4 has bfloat16 only. double: whether NF4's absmax are quantised too (None: yes).
    group: INT4's (None: the largest of `GROUPS` that divides every layer's inputs). skip: layers
    or parents of layers that stay, by one or several neighbouring parts of their path: "norm1",
    "transformer_blocks.3", "transformer_blocks.0.attn.to_q". Raises ValueError for options that
    are not allowed, or not of this format.
    """

    format: str
    compute: str = "bfloat16"
    double: bool | None = None
    group: int | None = None
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"unknown format {self.format!r}: {nearest(self.format, [*FORMATS])}")
        if as_dtype(self.compute) != torch.bfloat16 and self.format == "int4":
            raise ValueError(f"int4 computes in bfloat16 only, given {self.compute}")
        for option, own in (("double", "nf4"), ("group", "int4")):
            if getattr(self, option) is not None and self.format != own:
                raise ValueError(f"{option!r} is an option of {own}, not of {self.format}")
        if self.group is not None and self.group not in GROUPS:
            raise ValueError(f"group must be one of {GROUPS}, given {self.group}")

    @classmethod
    def from_edit(cls, edit: Mapping[str, Any]) -> Quantisation:
        """Of {"edit": "quantise", "format": …, "options": {…}}."""
        options = dict(edit.get("options", {}))
        allowed = [field.name for field in fields(cls)][1:]
        for key in options:
            if key not in allowed:
                raise ValueError(f"quantise: unknown option {key!r}: {nearest(key, allowed)}")
        return cls(edit["format"], **options | {"skip": tuple(options.get("skip", ()))})

    def to_edit(self) -> dict[str, Any]:
        """As JSON; options that are None, and an empty skip, are left out."""
        told = {key: value for key, value in asdict(self).items() if value not in (None, ())}
        options = told | ({"skip": list(self.skip)} if self.skip else {})
        return {"edit": "quantise", "format": options.pop("format"), "options": options}

    @property
    def dtype(self) -> torch.dtype:
        return as_dtype(self.compute)

    @property
    def doubled(self) -> bool:
        return self.format == "nf4" and self.double is not False


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {path: m for path, m in model.named_modules() if isinstance(m, nn.Linear)}


def _named(path: str, name: str) -> bool:
    return f".{name}." in f".{path}."


def _layers(model: nn.Module, how: Quantisation) -> dict[str, nn.Linear]:
    """Path -> layer of what is to be quantised."""
    linears = _linears(model)
    for name in how.skip:
        if not any(_named(path, name) for path in linears):
            parts = sorted({part for path in linears for part in path.split(".")} | {*linears})
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


def is_quantised(model: nn.Module) -> bool:
    return any(hasattr(module, "restore") for module in model.modules())


@torch.no_grad()
def quantise(model: nn.Module, edit: Mapping[str, Any]) -> None:
    """Replace a model's linear layers in place by quantised ones.

    edit: as of `Quantisation.to_edit`. On the meta device layers come without weights, for
    `load_quantised`. Raises ValueError for a missing library, a model that is quantised already,
    weights that are not finite, or options that do not fit.
    """
    how = Quantisation.from_edit(edit)
    library = FORMATS[how.format]
    if find_spec(library) is None:
        raise ValueError(f"{how.format} needs {library}: pip install 'impasto[quantise]'")
    if is_quantised(model):
        raise ValueError(f"{type(model).__name__} is quantised already; give what it was made of")
    layers = _layers(model, how)
    for path, linear in layers.items():
        if not linear.weight.is_meta and not bool(torch.isfinite(linear.weight).all()):
            raise ValueError(f"{path!r} holds NaN or infinity; it must not be quantised")
    group = _group(layers, how.group) if how.format == "int4" else 0
    for path, linear in layers.items():
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, _quantised(linear, how, group))
    if hasattr(model, "register_to_config"):
        kept = [path for path, m in _linears(model).items() if not hasattr(m, "restore")]
        model.register_to_config(quantization_config=_stock_config(how, group, kept))


def _quantised(linear: nn.Linear, how: Quantisation, group: int) -> Any:
    if how.format == "int4":
        return Int4Linear(linear, how.dtype, group)
    if how.format == "int8":
        return Int8Linear(linear, how.dtype)
    from impasto.models.edited.nf4 import NF4Linear

    return NF4Linear(linear, how.dtype, how.doubled)


def _stock_config(how: Quantisation, group: int, kept: list[str]) -> dict[str, Any]:
    """What diffusers reads in config.json. kept: whole paths of linear layers that stay."""
    import diffusers

    config: Any
    if how.format == "nf4":
        config = diffusers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=how.doubled,
            bnb_4bit_compute_dtype=how.dtype, llm_int8_skip_modules=kept or None,
        )  # fmt: skip
    else:
        from torchao import quantization

        kind: Any = (quantization.Int8WeightOnlyConfig() if how.format == "int8" else
                     quantization.Int4WeightOnlyConfig(group_size=group))  # fmt: skip
        config = diffusers.TorchAoConfig(kind, modules_to_not_convert=kept or None)
    return json.loads(json.dumps(config.to_dict()))


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
    layers = [m for m in model.modules() if hasattr(m, "restore")]
    packed: list[Tensor] = [tensor for layer in layers for tensor in layer.parts()]
    own = {tensor.untyped_storage().data_ptr() for tensor in packed}
    rest = [t for t in [*model.parameters(), *model.buffers()]
            if t.untyped_storage().data_ptr() not in own]  # fmt: skip
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    return Memory(weights, _bytes(packed), _bytes(rest))


def layer_bytes(outputs: int, inputs: int, how: Quantisation, group: int = 0) -> int:
    """Bytes of a layer's codes and scales, as the formulas have it; NF4's tables (64 bytes of
    levels, and 1,024 where doubled) come on top, once or once a layer. group: INT4's."""
    n = outputs * inputs
    if how.format == "int8":
        return n + 4 * outputs
    if how.format == "int4":
        return n // 2 + 4 * n // group
    blocks = math.ceil(n / 64)
    absmax = blocks + 4 * math.ceil(blocks / 256) + 4 if how.doubled else 4 * blocks
    return math.ceil(n / 2) + absmax


# -------------------------------------------------------------------------------- files


def save_quantised(model: nn.Module, path: str | Path) -> None:
    """Write a quantised model's tensors as they are, as diffusers would: one safetensors file."""
    state, metadata = model.state_dict(), {}
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
            for name, layer in model.named_modules() if hasattr(layer, "restore")}  # fmt: skip


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
        raise ValueError(f"{path} does not fit {type(model).__name__}: missing keys {missing}, "
                         f"unexpected keys {unexpected}, other shapes {wrong}")  # fmt: skip
    # What is on the meta device has no memory to copy into.
    model.load_state_dict(state, strict=False, assign=any(t.is_meta for t in rest.values()))
