"""How weights are quantised, as data: an edit's, and the `quantization_config` of diffusers.

    nf4    4 + 32/64 = 4.5 bits a weight; 4 + 8/64 + 32/(64·256) = 4.127 with double quantisation
    int4   4 + 32/g, g the group: 4.25, 4.5 or 5
    int8   8 + 32/I, I the layer's inputs
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from impasto.models.edited.weight_only import GROUPS
from impasto.zoo.registry import nearest
from impasto.zoo.weights import as_dtype

__all__ = ["FORMATS", "Quantisation", "from_stock", "layer_bytes", "stock_config"]

FORMATS = {"nf4": "bitsandbytes", "int4": "torchao", "int8": "torchao"}
"""Format -> the library that it needs."""


@dataclass(frozen=True)
class Quantisation:
    """How weights are quantised.

    compute: the dtype of products, and what weights are rounded to first: bfloat16, float16 or
    float32; int4 and int8 have bfloat16 only. double: whether NF4's absmax are quantised too
    (None: yes). group: INT4's (None: the largest of `GROUPS` that divides every layer's inputs).
    skip: layers or parents of layers that stay, by one or several neighbouring parts of their
    path: "norm1", "transformer_blocks.3", "transformer_blocks.0.attn.to_q". Raises ValueError for
    options that are not allowed, or not of this format.
    """

    format: str
    compute: str = "bfloat16"
    double: bool | None = None
    group: int | None = None
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"unknown format {self.format!r}: {nearest(self.format, [*FORMATS])}")
        if as_dtype(self.compute) != torch.bfloat16 and self.format != "nf4":
            raise ValueError(f"{self.format} computes in bfloat16 only, given {self.compute}")
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


def from_stock(config: Mapping[str, Any]) -> tuple[Quantisation, list[str]]:
    """How a `quantization_config` of diffusers has it, and the names of what it keeps.

    Raises ValueError for other libraries and formats than ours.
    """
    if config.get("bnb_4bit_quant_type") == "nf4" and config.get("load_in_4bit"):
        how = Quantisation("nf4", config["bnb_4bit_compute_dtype"],
                           config["bnb_4bit_use_double_quant"])  # fmt: skip
        return how, config.get("llm_int8_skip_modules") or []
    kind = config.get("quant_type")
    kind = kind.get("default", {}) if isinstance(kind, Mapping) else {}
    own, kept = kind.get("_data", {}), config.get("modules_to_not_convert") or []
    if (own.get("granularity") or {}).get("_type") == "PerRow" and _is(kind, "Int8"):
        return Quantisation("int8"), kept
    if (own.get("int4_packing_format") or {}).get("_data") == "PLAIN" and _is(kind, "Int4"):
        return Quantisation("int4", group=own["group_size"]), kept
    raise ValueError(f"quantised by {config.get('quant_method')!r} "
                     f"{kind.get('_type', '')}: allowed are {', '.join(FORMATS)} as 'impasto "
                     f"quantize' writes them; load others with diffusers:id=FOLDER")  # fmt: skip


def _is(kind: Mapping[str, Any], name: str) -> bool:
    return kind.get("_type") == f"{name}WeightOnlyConfig"


def stock_config(how: Quantisation, group: int, kept: Sequence[str]) -> dict[str, Any]:
    """What diffusers reads in config.json. kept: whole paths of linear layers that stay."""
    import diffusers

    config: Any
    if how.format == "nf4":
        config = diffusers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=how.doubled,
            bnb_4bit_compute_dtype=how.dtype, llm_int8_skip_modules=list(kept) or None,
        )  # fmt: skip
    else:
        from torchao import quantization

        kind: Any = (quantization.Int8WeightOnlyConfig() if how.format == "int8" else
                     quantization.Int4WeightOnlyConfig(group_size=group))  # fmt: skip
        config = diffusers.TorchAoConfig(kind, modules_to_not_convert=list(kept) or None)
    return json.loads(json.dumps(config.to_dict()))


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
