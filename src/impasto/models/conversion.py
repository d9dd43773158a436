"""Published checkpoints into folders of own networks: what the families' converters share.

Sizes are read off shapes; a network of these sizes then says which tensors it wants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from impasto.models.storage import save_network
from impasto.zoo.convert import ConversionReport

__all__ = ["convolutional_sizes", "shape_of", "write_built", "write_network"]


def shape_of(state: Mapping[str, Tensor], key: str) -> torch.Size:
    """Raises ValueError where there is no such tensor."""
    if key not in state:
        raise ValueError(f"it has no tensor {key!r}, so it is no such checkpoint")
    return state[key].shape


def convolutional_sizes(state: Mapping[str, Tensor], conv: str) -> dict[str, Any]:
    """widths and blocks of `models.convolutional`'s encoder; conv: "weight", or "conv.weight"
    where names are wrapped."""
    widths: list[int] = []
    blocks = 0
    while (key := f"encoder.down.{len(widths)}.block.0.conv2.{conv}") in state:
        widths.append(state[key].shape[0])
    while f"encoder.down.0.block.{blocks}.conv1.{conv}" in state:
        blocks += 1
    return {"widths": tuple(widths), "blocks": blocks}


def _written(
    network: nn.Module, state: Mapping[str, Tensor], folder: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write a network's folder where nothing is missing or left over; returns those keys.

    Raises ValueError for another shape.
    """
    wanted = network.state_dict()
    missing, left = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    for key in wanted.keys() & state.keys():
        if wanted[key].shape != state[key].shape:
            raise ValueError(f"its {key!r} has shape {tuple(state[key].shape)}, a model of these "
                             f"sizes {tuple(wanted[key].shape)}")  # fmt: skip
    if not missing and not left:
        half = all(tensor.dtype == torch.bfloat16 for tensor in state.values())
        network.load_state_dict(state, assign=True)
        save_network(network, folder, "bfloat16" if half else "float32")
    return tuple(missing), tuple(left)


def write_network(
    kind: Any, sizes: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path, *,
    source: str, names: Mapping[str, str], dropped: Sequence[str],
) -> ConversionReport:  # fmt: skip
    """Write a network of class `kind` and report on its keys.

    state: tensors under our names. names: official key -> ours, of all of them. dropped: official
    keys without use. Raises ValueError for another shape; keys that are missing or left over are
    in the report.
    """
    with torch.device("meta"):
        network: nn.Module = kind(**sizes)
    return write_built(network, state, folder, source=source, names=names, dropped=dropped)


def write_built(
    network: nn.Module, state: Mapping[str, Tensor], folder: Path, *, source: str,
    names: Mapping[str, str], dropped: Sequence[str],
    split: Mapping[str, tuple[str, ...]] | None = None,
) -> ConversionReport:  # fmt: skip
    """`write_network` of a network that was built on the meta device. split: official keys that
    became several, or copies, -> those keys."""
    missing, left = _written(network, state, folder)
    sources = {ours: key for key, ours in names.items()}
    sources |= {ours: key for key, several in (split or {}).items() for ours in several}
    return ConversionReport(
        source=source, loaded=tuple(state), split=dict(split or {}), missing=missing,
        renamed={key: ours for key, ours in names.items() if key != ours},
        dropped=tuple(sorted(dropped)),
        unexpected=tuple(dict.fromkeys(sources[key] for key in left)),
    )  # fmt: skip
