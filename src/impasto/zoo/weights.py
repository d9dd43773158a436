"""Weights on disk: safetensors in float32, bfloat16, or int8 per output channel.

Symmetric int8 per output channel (row i of a weight w, all its other axes together):

    s_i   = bf16(max_j |w_ij| / 127)
    q_ij  = clamp(round(w_ij / s_i), -127, 127)
    w'_ij = s_i q_ij

so |w_ij - w'_ij| <= s_i / 2. The scale has 8 significant bits and q has 7, so s_i q_ij is exact in
float32 and quantising w' again gives the same bytes. Tensors with fewer than two axes, fewer
than `MIN_SIZE` elements or a single row stay in bfloat16. The scale of KEY is stored as KEY.scale.

Loading is strict: a missing or unexpected key, a wrong shape, or a value that is not finite is a
ValueError that names it. Nothing here reads pickles.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from impasto import files
from impasto.zoo.registry import nearest

__all__ = ["FORMATS", "as_dtype", "dequantise", "holds_int8", "load_state", "load_weights",
           "lossless_format", "quantise", "save_tensors", "save_weights", "shipped_folder",
           "stored_kinds", "untied", "weights_digest", "without_bars"]  # fmt: skip

FORMATS = ("float32", "bfloat16", "int8")
MIN_SIZE = 4096
SCALE = ".scale"
INT8 = "int8-per-channel"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def shipped_folder(name: str) -> Path:
    """The folder of the weights that come with the package as `name`.

    Raises FileNotFoundError when this installation does not have them.
    """
    home = Path(__file__).parents[1] / "weights"
    folder = home / name
    if home not in folder.parents or not folder.is_dir():
        there = sorted(path.name for path in home.glob("*/"))
        raise FileNotFoundError(f"{name!r} is neither a folder nor weights of this installation: "
                                f"{nearest(name, there)} Reinstall impasto, or train the model "
                                f"('impasto ls recipes') and give its folder")  # fmt: skip
    return folder


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """transformers' progress bars off for the block: a small network loads in no time, and what
    prints JSON prints nothing else."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def is_quantised(tensor: Tensor) -> bool:
    """Whether int8 storage turns this tensor to int8."""
    return (tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel() >= MIN_SIZE
            and len(tensor) > 1)  # fmt: skip


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(q, s): int8 of the weight's shape, and bfloat16 scales (rows, 1, ...)."""
    w = weight.float()
    peak = w.abs().amax(dim=tuple(range(1, w.ndim)), keepdim=True)
    scale = (peak / 127).bfloat16()
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (w / scale.float()).round().clamp(-127, 127).to(torch.int8), scale


def dequantise(q: Tensor, scale: Tensor) -> Tensor:
    """w' = s q, float32, exactly."""
    return q.float() * scale.float()


def lossless_format(state: Mapping[str, Tensor]) -> str:
    """The format of fewest bytes that keeps every number of a state dict as it is."""
    floats = [tensor.detach() for tensor in state.values() if tensor.is_floating_point()]
    half = [torch.equal(tensor.bfloat16().float(), tensor.float()) for tensor in floats]
    if all(torch.equal(dequantise(*quantise(tensor)), tensor.float()) if is_quantised(tensor)
           else own for tensor, own in zip(floats, half, strict=True)):  # fmt: skip
        return "int8"
    return "bfloat16" if all(half) else "float32"


def untied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the first name of each tensor: one that has two (an embedding that two
    modules share) is on disk once."""
    seen: set[tuple[Any, ...]] = set()
    kept: dict[str, Tensor] = {}
    for key, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if place in seen and tensor.data_ptr():
            continue
        seen.add(place)
        kept[key] = tensor
    return kept


def save_weights(path: str | Path, state: Mapping[str, Tensor], format: str) -> None:
    """Write a state dict atomically in one of `FORMATS`. Raises ValueError for a non-finite value.

    float32 and bfloat16 files are plain: diffusers and transformers read them.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown weight format {format!r}; allowed: {', '.join(FORMATS)}")
    tensors: dict[str, Tensor] = {}
    for key, tensor in untied(state).items():
        _check_finite(path, key, tensor)
        if format == "int8" and is_quantised(tensor):
            tensors[key], tensors[key + SCALE] = quantise(tensor.detach().cpu())
        else:
            dtype = torch.float32 if format == "float32" else torch.bfloat16
            tensors[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    save_tensors(path, tensors, {"quantisation": INT8} if format == "int8" else {})


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors as they are, atomically, with more metadata than that they are torch's."""
    kept = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    files.write_bytes(path, _ordered(save(kept, {"format": "pt", **metadata})))


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, one JSON object after 8 bytes, and where it ends."""
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:end]), end


def _ordered(data: bytes) -> bytes:
    """The same file with its metadata sorted: safetensors writes it in random order, and equal
    weights must be equal bytes."""
    header, end = _header(data)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return data[:8] + text.ljust(end - 8) + data[end:]


def holds_int8(path: str | Path) -> bool:
    """Whether only this module reads the file. Raises ValueError for what is no safetensors."""
    try:
        with safe_open(path, "pt") as file:
            return "quantisation" in (file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def stored_kinds(path: str | Path) -> set[str]:
    """The kinds of numbers in a file, as safetensors names them ("BF16", "F32", "I8"). Raises
    ValueError for what is no safetensors."""
    try:
        with safe_open(path, "pt") as file:
            return {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 - no dict
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def load_state(path: str | Path, masks: Collection[str] = ()) -> dict[str, Tensor]:
    """The tensors of a file, or of the parts that PATH.index.json names where it is in several;
    int8 ones come back as float32, others as they are stored.

    masks: names of tensors that may hold -infinity. Raises ValueError for a file that is no
    safetensors, an unknown quantisation, a scale without its tensor, or a value that is not
    finite.
    """
    path = Path(path)
    index = path.with_name(f"{path.name}.index.json")
    if not path.is_file() and index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        parts = [load_state(path.with_name(Path(name).name), masks) for name in names]
        return {key: tensor for part in parts for key, tensor in part.items()}
    data = path.read_bytes()
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    quantisation = _header(data)[0].get("__metadata__", {}).get("quantisation")
    if quantisation not in (None, INT8):
        raise ValueError(f"{path}: unknown quantisation {quantisation!r}; allowed: {INT8}")
    state = tensors if quantisation is None else _dequantised(path, tensors)
    for key, tensor in state.items():
        hidden = tensor == -torch.inf if key in masks else None
        _check_finite(path, key, tensor if hidden is None else tensor.masked_fill(hidden, 0))
    return state


def _dequantised(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    scales = {key for key, tensor in tensors.items() if tensor.dtype == torch.int8}
    for key, tensor in tensors.items():
        if key in scales:
            scale = tensors.get(key + SCALE)
            if scale is None or scale.shape != (len(tensor), *[1] * (tensor.ndim - 1)):
                raise ValueError(f"{path}: int8 tensor {key!r} has no scale per output channel "
                                 f"under {key + SCALE!r}")  # fmt: skip
            state[key] = dequantise(tensor, scale)
        elif key.removesuffix(SCALE) not in scales:
            state[key] = tensor
    return state


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Copy a file's tensors into `module`, cast to its dtypes; where it is on the meta device they
    take their places as they are. Raises ValueError on a misfit."""
    state, wanted = load_state(path), untied(module.state_dict())
    missing, unexpected = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or unexpected:
        raise ValueError(f"{path} does not fit {type(module).__name__}: missing keys {missing}, "
                         f"unexpected keys {unexpected}")  # fmt: skip
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            raise ValueError(
                f"{path}: {key!r} has shape {tuple(tensor.shape)}, "
                f"{type(module).__name__} needs {tuple(wanted[key].shape)}"
            )
    # Checked above; tied names follow the first.
    module.load_state_dict(state, strict=False, assign=any(t.is_meta for t in wanted.values()))


def _check_finite(path: str | Path, key: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{path}: {key!r} holds NaN or infinity; the file must not be used")


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A floating-point dtype, given as such or by its name. Raises ValueError."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, given {dtype!r}")
    return DTYPES[name]


def weights_digest(networks: Mapping[str, Any]) -> str:
    """sha256 over names and values of all tensors of the networks, in their order."""
    digest = hashlib.sha256()
    for name, network in networks.items():
        for key, tensor in sorted(network.state_dict().items()):
            digest.update(f"{name}.{key}\0".encode())
            digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
