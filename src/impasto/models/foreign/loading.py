"""Loading a diffusers pipeline: safetensors only, classes of diffusers and transformers only.

And the one hash of weights, wherever they come from.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from impasto.models.storage import network_from, read_json
from impasto.zoo.weights import as_dtype

__all__ = ["first_line", "load_pipeline", "weights_sha256"]

LIBRARIES = ("diffusers", "transformers")


def load_pipeline(
    id: str, dtype: torch.dtype | str, *, revision: str | None = None, variant: str | None = None,
    local_files_only: bool = False,
) -> DiffusionPipeline:  # fmt: skip
    """The pipeline in the folder `id`, or of that name on the hub.

    Raises ValueError for a folder that is none, that asks for code of its own, or whose weights
    are not safetensors; nothing of the folder is ever run.
    """
    torch_dtype = as_dtype(dtype)
    folder = Path(id)
    if not folder.is_dir():
        folder = _download(id, revision=revision, variant=variant,
                           local_files_only=local_files_only)  # fmt: skip
    elif revision is not None:
        raise ValueError(f"{id} is a folder: it has no revision")
    absent = dict.fromkeys(_check_index(folder))
    try:
        with warnings.catch_warnings():
            # The argument's new name, `dtype`, is not in all versions that we allow.
            warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
            return DiffusionPipeline.from_pretrained(
                folder, torch_dtype=torch_dtype, variant=variant, use_safetensors=True,
                trust_remote_code=False, local_files_only=True, **absent,
                **_edited(folder, torch_dtype),
            )  # fmt: skip
    except (OSError, ValueError) as error:
        raise ValueError(f"{id} cannot be loaded as a diffusers pipeline with safetensors: "
                         f"{first_line(error)}") from error  # fmt: skip


def _edited(folder: Path, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The components of other structure than their class, as their config.json says."""
    found: dict[str, nn.Module] = {}
    for path in sorted(folder.glob("*/config.json")):
        if "edits" in (config := read_json(path)):
            kind = getattr(diffusers, str(config.get("_class_name")), None)
            found[path.parent.name] = nn.Module.to(network_from(kind, path.parent), dtype).eval()
    return found


def _download(id: str, **options: Any) -> Path:
    """The hub's snapshot of `id`, from the cache where it is there."""
    try:
        return Path(DiffusionPipeline.download(id, use_safetensors=True, trust_remote_code=False,
                                               **options))  # fmt: skip
    except (OSError, ValueError) as error:
        raise ValueError(f"{id!r} is neither a folder nor a pipeline that can be got from the "
                         f"hub: {first_line(error)}") from error  # fmt: skip


def _check_index(folder: Path) -> list[str]:
    """The components that the pipeline does without.

    Raises ValueError naming the first class that is not diffusers' or transformers' own.
    """
    index = read_json(folder / "model_index.json")
    name = index.get("_class_name")
    if not isinstance(name, str) or not hasattr(diffusers, name):
        raise ValueError(f"{folder / 'model_index.json'}: {name!r} is not a pipeline of diffusers "
                         f"{diffusers.__version__}")  # fmt: skip
    for key, value in index.items():
        if isinstance(value, list) and not (value and _known(value[0])):
            raise ValueError(f"{folder / 'model_index.json'}: {key!r} is {value}; classes of "
                             f"{' and '.join(LIBRARIES)} only, code from a model's folder is "
                             f"never run")  # fmt: skip
    return [key for key, value in index.items() if value == [None, None]]


def _known(library: str | None) -> bool:
    """Also the name of a pipeline's own module inside diffusers, as "stable_diffusion"."""
    return library is None or library in LIBRARIES or hasattr(diffusers.pipelines, library)


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def weights_sha256(networks: Mapping[str, nn.Module]) -> str:
    """One hash over names and bytes of all tensors, whatever their dtype and device."""
    digest = hashlib.sha256()
    for name, module in networks.items():
        for key, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name}.{key}\0".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
